"""safetensors' load_file over a path, every byte touched; with `drop`, the system's pages of it let go before."""

import os
import sys

import torch
from measured import measured
from safetensors.torch import load_file

path = sys.argv[1]
torch.set_num_threads(1)
if "drop" in sys.argv[2:]:
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
with measured() as result:
    tensors = load_file(path)
    for tensor in tensors.values():
        tensor.view(torch.uint8).view(-1)[:-(tensor.nbytes % 8) or None].view(torch.int64).sum()
    result["bytes"] = sum(t.nbytes for t in tensors.values())
