"""BLAKE3 of a file, as b3sum does it: mapped, on N threads."""

import os
import sys

import blake3
from measured import measured

path, threads = sys.argv[1], int(sys.argv[2])
with measured() as result:
    blake3.blake3(max_threads=threads).update_mmap(path).digest()
    result["bytes"] = os.path.getsize(path)
