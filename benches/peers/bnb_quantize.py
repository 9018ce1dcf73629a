"""bitsandbytes' CPU path over every matrix of a safetensors file: the fastest of three passes in memory."""

import sys
import time

import bitsandbytes.functional as bnb
import torch
from measured import measured
from safetensors import safe_open

method, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)


def quantize(w: torch.Tensor):
    if method == "int8":
        return bnb.int8_vectorwise_quant(w.to(torch.float16))
    return bnb.quantize_4bit(w, blocksize=64, compress_statistics=method == "nf4-double", quant_type="nf4")


with safe_open(path, "pt") as file:
    weights = [w.clone() for w in map(file.get_tensor, file.keys()) if w.ndim == 2]
with measured() as result:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for weight in weights:
            quantize(weight)
        best = min(best, time.perf_counter() - start)
    result |= {"bytes": sum(w.nbytes for w in weights), "seconds": best}
