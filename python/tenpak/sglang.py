"""SGLang: weights from a store, through its plugin hook.

SGLang's list of load formats is closed, so that the model says that it is meant: a folder made by
`tenpak.snapshot_download(..., weights=False)`, which names the artifact.

    python -m sglang.launch_server --model-path FOLDER

`/update_weights_from_disk` with another such folder takes another tag. SGLang calls `register` itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from . import _engine

TARGET = "sglang.srt.model_loader.loader.DefaultModelLoader._get_weights_iterator"


def register() -> None:
    """Puts the loader around SGLang's own."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(TARGET, around, HookType.AROUND)


def around(original: Callable[..., Any], loader: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    """The weights of an artifact for a folder that names one; for any other model SGLang's own."""
    path = source.model_or_path
    if not os.path.isfile(os.path.join(path, _engine.MARKER)):
        return original(loader, source, *args, **kwargs)
    artifact = _engine.find(path, None, {})
    wanted = _engine.counted(artifact)
    is_lazy = _ranks() > 1

    def weights() -> Iterator[tuple[str, Any]]:
        for name, tensor in _engine.tensors(artifact, wanted, is_lazy=is_lazy):
            yield source.prefix + name, tensor

    return weights()


def _ranks() -> int:
    try:
        from sglang.srt.distributed import get_tensor_model_parallel_world_size
    except ImportError:
        return 1
    size: int = get_tensor_model_parallel_world_size()
    return size
