"""What an index between brackets means for a shape, before anything is fetched."""

from __future__ import annotations

import operator
from typing import Any

from ._errors import InvalidError

Steps = list[tuple[int, int, int]]


def normalize(index: Any, shape: tuple[int, ...], is_strict: bool) -> tuple[Steps, tuple[int, ...]] | None:
    """Ranges with steps along each dimension, and the shape of the result.

    `None` for an index that only the framework understands: lists, masks, tensors. `is_strict` refuses what safetensors
    refuses where it does not leave slicing to torch.

    Raises:
        IndexError: an integer is out of range, or a range if strict, or there are more indices than dimensions
        ValueError: a step is not positive, or, if strict, there is a list
    """
    if is_strict and isinstance(index, list):
        if index:
            raise InvalidError("Non empty lists are not implemented")
        index = slice(0, 0)
    parts = index if isinstance(index, tuple) else (index,)
    if not all(part is None or part is Ellipsis or isinstance(part, slice) or _is_integer(part) for part in parts):
        return None
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if taken > len(shape):
        raise IndexError(f"too many indices: {taken} for a tensor of {len(shape)} dimensions")
    if sum(part is Ellipsis for part in parts) > 1:
        raise IndexError("an index has one ellipsis ('...') at most")
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    steps: Steps = []
    result: list[int] = []
    for part in parts:
        if part is None:
            result.append(1)
        elif part is Ellipsis:
            for size in shape[len(steps) : len(steps) + len(shape) - taken]:
                steps.append((0, size, 1))
                result.append(size)
        elif isinstance(part, slice):
            size = shape[len(steps)]
            if part.step is not None and operator.index(part.step) <= 0:
                raise ValueError("the step of a slice must be greater than zero")
            if is_strict and part.stop is not None and operator.index(part.stop) > size:
                raise _out_of_bounds(parts, shape, operator.index(part.stop) - 1, len(steps))
            start, stop, step = part.indices(size)
            steps.append((start, max(start, stop), step))
            result.append(len(range(start, stop, step)))
        else:
            size, at = shape[len(steps)], operator.index(part)
            if is_strict and at >= size:
                raise _out_of_bounds(parts, shape, at, len(steps))
            if not -size <= at < size:
                raise IndexError(f"Invalid index {at} for dimension {len(steps)} of size {size}")
            at %= size
            steps.append((at, at + 1, 1))
    return steps, tuple(result)


def _out_of_bounds(parts: tuple[Any, ...], shape: tuple[int, ...], at: int, axis: int) -> IndexError:
    """In safetensors' words."""
    told = ", ".join(_told(part) for part in (parts[:-1] if parts[-1] is Ellipsis else parts))
    return IndexError(
        f"Error during slicing [{told}] with shape {list(shape)}: "
        f"index {at} out of bounds for tensor dimension #{axis} of size {shape[axis]}"
    )


def _told(part: Any) -> str:
    if not isinstance(part, slice):
        return "..." if part is Ellipsis else str(part)
    ends = [part.start, part.stop, *([part.step] if part.step not in (None, 1) else [])]
    return ":".join("" if end is None else str(end) for end in ends)


def _is_integer(part: Any) -> bool:
    if isinstance(part, bool) or not hasattr(part, "__index__") or getattr(part, "shape", ()) != ():
        return False
    # Torch's tensors have `__index__` whatever they hold; one of booleans is a mask.
    return "bool" not in str(getattr(part, "dtype", ""))
