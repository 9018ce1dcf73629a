"""What an index between brackets means for a shape, before anything is fetched."""

from __future__ import annotations

import operator
from typing import Any

Steps = list[tuple[int, int, int]]


def normalize(index: Any, shape: tuple[int, ...]) -> tuple[Steps, tuple[int, ...]] | None:
    """Ranges with steps along each dimension, and the shape of the result.

    `None` for an index that only the framework understands: lists, masks, tensors.

    Raises:
        IndexError: an integer is out of range, or there are more indices than dimensions
        ValueError: a step is not positive
    """
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
            start, stop, step = part.indices(size)
            steps.append((start, max(start, stop), step))
            result.append(len(range(start, stop, step)))
        else:
            size, at = shape[len(steps)], operator.index(part)
            if not -size <= at < size:
                raise IndexError(f"Invalid index {at} for dimension {len(steps)} of size {size}")
            at %= size
            steps.append((at, at + 1, 1))
    return steps, tuple(result)


def _is_integer(part: Any) -> bool:
    if isinstance(part, bool) or not hasattr(part, "__index__") or getattr(part, "shape", ()) != ():
        return False
    # Torch's tensors have `__index__` whatever they hold; one of booleans is a mask.
    return "bool" not in str(getattr(part, "dtype", ""))
