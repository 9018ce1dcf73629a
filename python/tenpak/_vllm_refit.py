"""A running vLLM takes another tag, and only what differs is read.

vLLM reloads layer by layer: it keeps what it was given for a layer's parameters, and makes them anew once all is there.
A layer that was given nothing but what it was made of is put back as it was instead, and none of it is read. A layer
of which one tensor differs is made anew whole: its parameters may be fused, packed or quantized.

Whoever else changes weights (a transfer, a reset, a sleep that lets them go) does not tell. So some bytes of every
parameter are remembered, and a layer that has others is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from vllm.model_executor.model_loader.reload import layerwise

from ._artifact import TensorInfo
from ._lazy import LazyTensor

SAMPLES = 4096
"""Bytes of a parameter that are remembered."""

Meaning = tuple[str, str, tuple[int, ...]]


def meaning(one: TensorInfo) -> Meaning:
    """What a tensor is, whatever its place."""
    return one.digest, one.dtype, one.shape


class Held(NamedTuple):
    """What a model was made of."""

    artifact: str | None
    """Of its first source."""

    tensors: dict[str, Meaning]


_held: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()
_samples: WeakKeyDictionary[Any, bytes | None] = WeakKeyDictionary()
"""Of layers as they were made of what their model holds."""

_given: WeakSet[Any] = WeakSet()
"""Layers that a load of ours is for, and that were not made yet."""


def is_right(model: Any) -> bool:
    """Whether vLLM's reload gives what a fresh engine has. On a processor it makes experts of a mixture wrong, whoever
    loads (tried with 0.32)."""
    if model not in _held:
        return True
    experts = (layer for layer in model.modules() if type(layer).__name__ in ("FusedMoE", "RoutedExperts"))
    return not any(parameter.device.type == "cpu" for layer in experts for parameter in layer.parameters())


def take(model: Any) -> Held | None:
    """What the model was made of, as a load begins. Until that has ended well it is made of nothing."""
    for layer in model.modules():
        _given.add(layer)
    return _held.pop(model, None)


def hold(model: Any, held: Held) -> None:
    """The model was given all of this."""
    _held[model] = held


def remember(model: Any) -> None:
    """The layers are made of what the model holds."""
    for layer in model.modules():
        _given.discard(layer)
        _samples[layer] = sample(layer._parameters.values())


def sample(parameters: Iterable[torch.Tensor | None]) -> bytes | None:
    """Some bytes of each; `None` if that cannot be told."""
    found = []
    for parameter in parameters:
        if parameter is None:
            continue
        try:
            storage = parameter.detach().untyped_storage()
            everything = torch.empty(0, dtype=torch.uint8, device=parameter.device).set_(storage)
        except (NotImplementedError, RuntimeError):
            return None
        # An odd step meets every byte of an element.
        found.append(everything[:: everything.numel() // SAMPLES | 1].cpu())
    return torch.cat(found).numpy().tobytes() if found else b""


def is_held(layer: Any, info: Any) -> bool:
    """Whether the layer was given only what it was made of, and is still that."""
    if info.kernel_tensors is None or (before := _samples.get(layer)) is None:
        return False
    for _, bound in info.loaded_weights:
        tensors = [value for value in bound.arguments.values() if isinstance(value, torch.Tensor)]
        # The parameter that it is for is among them.
        given = [one for one in tensors if one is not bound.arguments.get("param")]
        if not given or not all(isinstance(one, LazyTensor) and one.is_held for one in given):
            return False
    return sample(info.kernel_tensors[0].values()) == before


def add() -> None:
    """Puts this into vLLM's reload, once in a process. A vLLM that reloads otherwise reads everything."""
    original: Callable[[Any, Any], None] | None = getattr(layerwise, "_layerwise_process", None)
    if original is None or not hasattr(layerwise, "_place_kernel_tensors") or hasattr(original, "of_tenpak"):
        return

    def process(layer: Any, info: Any) -> None:
        is_ours = layer in _given
        if is_ours and is_held(layer, info):
            _given.discard(layer)
            layerwise._place_kernel_tensors(layer, info)
            info.reset()
            return
        _samples.pop(layer, None)
        try:
            original(layer, info)
        except BaseException:
            # Some layers are of the other tag now.
            _held.clear()
            raise
        if is_ours:
            _given.discard(layer)
            _samples[layer] = sample(layer._parameters.values())

    process.of_tenpak = True  # type: ignore[attr-defined]
    layerwise._layerwise_process = process
