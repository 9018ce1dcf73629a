"""Work that ends on a device: the context is made before it, and it ends when the device has all.

Making the context counts for the peer as it does for tenpak; how long it took is in "context_s", so
that it can be taken off.
"""

import contextlib
import sys
import time

import torch


@contextlib.contextmanager
def context(device: str, result: dict):
    cuda = torch.device(device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device: benches/device.sh installs one that does")
    start = time.perf_counter()
    torch.zeros(1, device=device)
    if cuda:
        torch.cuda.synchronize()
    result["context_s"] = time.perf_counter() - start
    yield
    if cuda:
        torch.cuda.synchronize()
