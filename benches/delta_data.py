"""Writes bf16 weights and what little training makes of them, to measure deltas on.

From a safetensors file of bf16: each weight gets a value within its rounding, as the f32 that it was
rounded from had, then noise of `r` times the weights' standard deviation, in f32, and is rounded
again. Prints one JSON line with the entropy of the differences under the base's exponent, in bits of
an element, for each `r`.
"""

import json
import pathlib
import sys

import numpy as np

from float_data import tensors, to_bf16

SEED = 11
BLOCK = 1 << 22


def to_f32(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
    return to_bf16(x.view(np.uint32))


def masters(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """f32 weights which round to `x`: evenly spread over what does."""
    low = rng.integers(-0x7FFF, 0x8000, x.size, dtype=np.int32)
    near = ((x.astype(np.int64) << 16) + low & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    return np.where(rounded(near) == x, near, to_f32(x))


def conditional_entropy(base: np.ndarray, x: np.ndarray) -> float:
    """Of the difference of magnitudes and the change of sign, under the base's exponent."""
    exponent = (base >> 7 & 0xFF).astype(np.int64)
    difference = (x & 0x7FFF).astype(np.int64) - (base & 0x7FFF) + 0x8000
    flips = ((x ^ base) >> 15).astype(np.int64)
    keys, counts = np.unique((exponent << 17) | (difference << 1) | flips, return_counts=True)
    totals = np.bincount(keys >> 17, counts)
    return float((counts * np.log2(totals[keys >> 17] / counts)).sum() / x.size)


def main() -> None:
    source, out, most = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    noises = [float(r) for r in sys.argv[4:]]
    out.mkdir(parents=True, exist_ok=True)
    parts, left = [], most // 2
    for _, shape, x in tensors(source, "BF16"):
        if len(shape) == 2 and left:
            parts.append(x[:left])
            left -= parts[-1].size
    base = np.concatenate(parts)
    base.tofile(out / "base")
    bits = {}
    for r in noises:
        rng = np.random.Generator(np.random.SFC64([SEED, int(r * 1e6)]))
        tuned = []
        for x in parts:
            std = np.float32(to_f32(x).std(dtype=np.float64))
            for at in range(0, x.size, BLOCK):
                w = masters(x[at:at + BLOCK], rng)
                tuned.append(rounded(w + np.float32(r) * std * rng.standard_normal(w.size, dtype=np.float32)))
        tuned = np.concatenate(tuned)
        tuned.tofile(out / f"tuned-{r:g}")
        bits[f"{r:g}"] = conditional_entropy(base, tuned)
    print(json.dumps({"bytes": base.nbytes, "entropy": bits}))


if __name__ == "__main__":
    main()
