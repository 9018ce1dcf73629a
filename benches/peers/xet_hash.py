"""hf_xet chunking and hashing files without uploading them."""

import sys

import hf_xet
from measured import measured

with measured() as result:
    result["bytes"] = sum(info.file_size for info in hf_xet.hash_files(sys.argv[1:]))
