"""Tensors that are read when something looks at their bytes, and of which only the part is read that it looks at.

Slicing, selecting, transposing and splitting move along without a read, and so does copying to a tensor that has no
bytes; anything else reads. An engine's loader, which narrows a whole tensor to its rank's part and copies that, reads
that part alone. What was read is kept as long as the tensor is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from ._framework import torch_dtype
from ._tenpak import Opened

aten = torch.ops.aten

Step = tuple[int, int, int]


def _len(step: Step) -> int:
    return len(range(*step))


class LazyTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor of an artifact, or a part of one, that is not read yet."""

    _source: tuple[Opened, str, str | None]
    _steps: list[Step]
    _axes: list[int]
    _read: torch.Tensor | None
    is_held: bool
    """Whether it is what the engine's layer was made of before."""

    @staticmethod
    def __new__(
        cls,
        source: tuple[Opened, str, str | None],
        dtype: torch.dtype,
        steps: list[Step],
        axes: list[int],
        is_held: bool,
    ) -> LazyTensor:
        shape = [_len(steps[axis]) for axis in axes]
        own: LazyTensor = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        own._source, own._steps, own._axes, own._read, own.is_held = source, steps, axes, None, is_held
        return own

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        state = "read" if self._read is not None else "not read"
        return f"LazyTensor({self._source[1]!r}, {tuple(self.shape)}, {self.dtype}, {state})"

    def read(self) -> torch.Tensor:
        """The bytes, verified."""
        if self._read is None:
            opened, name, file = self._source
            buffer = opened.get_slice(name, self._steps, file)
            dims = buffer.shape
            if buffer.nbytes:
                whole = torch.frombuffer(buffer, dtype=self.dtype).reshape(dims)
            else:
                whole = torch.empty(dims, dtype=self.dtype)
            # Dimensions of which one index was selected are not among the axes.
            rest = [axis for axis in range(len(dims)) if axis not in self._axes]
            ordered = whole.permute(*self._axes, *rest)
            self._read = ordered.reshape([dims[axis] for axis in self._axes]) if rest else ordered
        return self._read

    def _like(self, steps: list[Step], axes: list[int]) -> torch.Tensor:
        if self._read is not None and steps == self._steps and axes == self._axes:
            return self._read
        return LazyTensor(self._source, self.dtype, steps, axes, self.is_held)

    def _sliced(self, dim: int, start: Any, end: Any, step: int) -> torch.Tensor:
        axis = self._axes[dim]
        own = range(*self._steps[axis])[slice(start, end, step)]
        steps = list(self._steps)
        steps[axis] = (own.start, max(own.start, own.stop), own.step)
        return self._like(steps, self._axes)

    def _selected(self, dim: int, index: int) -> torch.Tensor:
        axis = self._axes[dim]
        at = range(*self._steps[axis])[index]
        steps = list(self._steps)
        steps[axis] = (at, at + 1, 1)
        dim %= len(self._axes)
        return self._like(steps, self._axes[:dim] + self._axes[dim + 1 :])

    def _permuted(self, dims: Any) -> torch.Tensor:
        return self._like(self._steps, [self._axes[dim] for dim in dims])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = args[0] if args else None
        if func is aten.copy_.default and isinstance(args[1], LazyTensor) and args[0].is_meta:
            return func(args[0], torch.empty(args[1].shape, dtype=args[1].dtype, device="meta"), **kwargs)
        if isinstance(own, LazyTensor) and own._read is None:
            moved = _move(own, func, args[1:], kwargs)
            if moved is not NotImplemented:
                return moved

        def given(value: Any) -> Any:
            return value.read() if isinstance(value, LazyTensor) else value

        return func(*tree_map(given, args), **tree_map(given, kwargs))


def _move(own: LazyTensor, func: Any, args: Any, kwargs: Any) -> Any:
    """What becomes of a tensor that is not read under an operation that needs no bytes."""
    if func in (aten.detach.default, aten.alias.default, aten.lift_fresh.default):
        return own._like(own._steps, own._axes)
    if func is aten.slice.Tensor:
        given = dict(zip(("dim", "start", "end", "step"), args)) | kwargs
        return own._sliced(given.get("dim", 0), given.get("start"), given.get("end"), given.get("step", 1))
    if func is aten.select.int:
        given = dict(zip(("dim", "index"), args)) | kwargs
        return own._selected(given["dim"], given["index"])
    if func is aten.t.default:
        return own._permuted(range(own.dim())[::-1])
    if func is aten.transpose.int:
        dims = list(range(own.dim()))
        dims[args[0]], dims[args[1]] = dims[args[1]], dims[args[0]]
        return own._permuted(dims)
    if func is aten.permute.default:
        return own._permuted(args[0])
    if func in (aten.split.Tensor, aten.split_with_sizes.default):
        given = dict(zip(("size", "dim"), args)) | kwargs
        size, dim = given.get("size", given.get("split_size", given.get("split_sizes"))), given.get("dim", 0)
        return _split(own, size, dim)
    if func in (aten.view.default, aten._unsafe_view.default, aten.reshape.default):
        if list(args[0]) in (list(own.shape), [-1] if own.dim() == 1 else list(own.shape)):
            return own._like(own._steps, own._axes)
    return NotImplemented


def _split(own: LazyTensor, size: Any, dim: int) -> list[torch.Tensor]:
    whole = own.shape[dim]
    sizes = size if isinstance(size, (list, tuple)) else [size] * -(-whole // max(size, 1))
    parts, at = [], 0
    for one in sizes:
        parts.append(own._sliced(dim, at, min(at + one, whole), 1))
        at += one
    return parts


def lazy(
    opened: Opened, name: str, dtype: str, shape: tuple[int, ...], file: str | None, is_held: bool = False
) -> torch.Tensor | None:
    """A tensor that is read when it is looked at; `None` where elements are narrower than a byte."""
    if dtype in ("F4", "F6_E2M3", "F6_E3M2"):
        return None
    steps = [(0, size, 1) for size in shape]
    return LazyTensor((opened, name, file), torch_dtype(dtype), steps, list(range(len(shape))), is_held)
