"""The same for asyncio: what waits for a network does so beside the event loop.

    model = await tenpak.aio.open_artifact("org/model", store="https://...")
    async for name, tensor in tenpak.aio.stream("org/model"):
        ...

A task that is cancelled stops waiting at once; what it had begun ends with the next tensor.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from . import _hub, _open, _store
from ._artifact import Artifact, TensorStream

T = TypeVar("T")


async def _away(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, functools.partial(work, *arguments, **options))


async def open_artifact(spec: str, **options: Any) -> Artifact:
    """`tenpak.Artifact(spec, ...)`."""
    return await _away(Artifact, spec, **options)


async def safe_open(spec: str, framework: str = "pt", device: Any = "cpu", **options: Any) -> Any:
    """`tenpak.safe_open`; its methods may wait: call them with `call`."""
    return await _away(_open.safe_open, spec, framework, device, **options)


async def call(method: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Calls a method that waits: `await call(model.get_tensor, "lm_head.weight")`."""
    return await _away(method, *arguments, **options)


async def load_file(spec: str, device: Any = "cpu", **options: Any) -> dict[str, Any]:
    """`tenpak.load_file`."""
    return await _away(_open.load_file, spec, device, **options)


async def snapshot_download(spec: str, **options: Any) -> str:
    """`tenpak.snapshot_download`."""
    return await _away(_hub.snapshot_download, spec, **options)


async def quantize(source: str, name: str, **options: Any) -> dict[str, Any]:
    """`tenpak.quantize`. `progress` is called in another thread."""
    return await _away(_store.quantize, source, name, **options)


async def delta(tuned: str, base: str, name: str, **options: Any) -> dict[str, Any]:
    """`tenpak.delta`. `progress` is called in another thread."""
    return await _away(_store.delta, tuned, base, name, **options)


async def optimize(model: str, name: str, **options: Any) -> dict[str, Any]:
    """`tenpak.optimize`. `progress` is called in another thread."""
    return await _away(_store.optimize, model, name, **options)


async def stream(spec: str, names: Any = None, **options: Any) -> AsyncIterator[tuple[str, Any]]:
    """`tenpak.stream`."""
    tensors: TensorStream = await _away(_open.stream, spec, names, **options)
    try:
        while True:
            found = await _away(next, tensors, None)
            if found is None:
                return
            yield found
    finally:
        # The event loop waits for nothing, whatever another thread is at.
        tensors.forget()
