"""safetensors' own load of a local file, with a clone of every tensor, all kept, on N threads."""

import sys

import torch
from measured import measured
from safetensors import safe_open

path, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
with measured() as result:
    with safe_open(path, framework="pt") as weights:
        owned = {name: weights.get_tensor(name).clone() for name in weights.keys()}
    result["bytes"] = sum(t.nbytes for t in owned.values())
