"""The published BitX method on two files of bf16, one thread: XOR, then the plane of exponents and that
of signs and mantissas, zstd level 3 each. Per file or per MiB, whichever is asked.

Prints stored bytes and the time to compress and to decompress, with numpy's own loops between: the
bytes that zstd alone took are told beside it.
"""

import json
import os
import sys
import time

import numpy as np
import zstandard

PASSES = 3
LEVEL = 3

tuned, base, piece = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.sched_setaffinity(0, {0})
x, b = np.fromfile(tuned, "<u2"), np.fromfile(base, "<u2")
step = piece // 2 or x.size
compressor, decompressor = zstandard.ZstdCompressor(level=LEVEL), zstandard.ZstdDecompressor()


def compress(x: np.ndarray, b: np.ndarray) -> tuple[bytes, bytes]:
    bits = x ^ b
    exponents = (bits >> 7).astype(np.uint8)
    rest = ((bits >> 8) & 0x80).astype(np.uint8) | (bits & 0x7F).astype(np.uint8)
    return compressor.compress(exponents), compressor.compress(rest)


def decompress(stored: tuple[bytes, bytes], b: np.ndarray, out: np.ndarray) -> float:
    start = time.perf_counter()
    exponents, rest = (np.frombuffer(decompressor.decompress(part), np.uint8) for part in stored)
    alone = time.perf_counter() - start
    # In place, a pass of numpy's vector loops each.
    np.left_shift(exponents, 7, out=out, dtype=np.uint16)
    sign = np.left_shift(rest & 0x80, 8, dtype=np.uint16)
    out |= sign
    out |= rest & 0x7F
    out ^= b
    return alone


encode = decode = zstd = float("inf")
out = np.empty_like(x)
for _ in range(PASSES):
    start = time.perf_counter()
    stored = [compress(x[at:at + step], b[at:at + step]) for at in range(0, x.size, step)]
    encode = min(encode, time.perf_counter() - start)
    start, alone = time.perf_counter(), 0.0
    for at, part in zip(range(0, x.size, step), stored):
        alone += decompress(part, b[at:at + step], out[at:at + step])
    decode, zstd = min(decode, time.perf_counter() - start), min(zstd, alone)
    if not np.array_equal(out, x):
        sys.exit("it decompresses to something else")
size = sum(len(part) for parts in stored for part in parts)
print(json.dumps({"bytes": x.nbytes, "stored_bytes": size, "encode_s": encode, "decode_s": decode, "zstd_s": zstd,
                  "wall_s": encode + decode, "cpu_s": encode + decode, "peak_rss": 0}))
