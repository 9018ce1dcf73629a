"""zipnn on a file of elements, one thread: stored bytes, time to compress and to decompress."""

import json
import os
import sys
import time

from zipnn import ZipNN

PASSES = 3
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

dtype, path = sys.argv[1], sys.argv[2]
os.sched_setaffinity(0, {0})
with open(path, "rb") as file:
    data = file.read()
codec = ZipNN(bytearray_dtype=NAMES[dtype], threads=1, input_format="byte")
encode = decode = float("inf")
for _ in range(PASSES):
    given = bytearray(data)  # it compresses in place
    start = time.perf_counter()
    stored = codec.compress(given)
    encode = min(encode, time.perf_counter() - start)
    start = time.perf_counter()
    back = codec.decompress(stored)
    decode = min(decode, time.perf_counter() - start)
    if bytes(back) != data:
        sys.exit("zipnn decompresses to something else")
print(json.dumps({"bytes": len(data), "stored_bytes": len(stored), "encode_s": encode, "decode_s": decode,
                  "wall_s": encode + decode, "cpu_s": encode + decode, "peak_rss": 0}))
