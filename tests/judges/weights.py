"""Weights that Python and Rust make alike, to the bit: inputs of the recorded vectors.

Element n of a weight is a hash of (seed, n), as the sum of its four 16-bit parts: near to a normal
distribution, and exact in f32. tests/encode.rs has the same in Rust.
"""

import numpy as np
import torch

KINDS = ["plain", "zeros", "positive", "outliers", "tiny"]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def weight(seed: int, rows: int, columns: int, kind: str, dtype: str) -> torch.Tensor:
    n = np.arange(rows * columns, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (n + np.uint64(seed << 40) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    total = sum(((z >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.int64) for part in range(4))
    row, column = n.astype(np.int64) // columns, n.astype(np.int64) % columns
    value = (total - 131070).astype(np.float32) * np.exp2(-19.0 - (row % 5)).astype(np.float32)
    if kind == "zeros":
        value[(n // np.uint64(64)) % np.uint64(3) == 1] = 0
        value[row % 7 == 3] = 0
        value[column == 5] = 0
    elif kind == "positive":
        value = np.abs(value)
    elif kind == "outliers":
        value[n % np.uint64(97) == 13] *= 64
    elif kind == "tiny":
        value *= np.float32(2.0 ** (-18 if dtype == "f16" else -118))
    return torch.from_numpy(value.reshape(rows, columns)).to(DTYPES[dtype])
