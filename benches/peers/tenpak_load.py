"""Our Python package: `tenpak.load_file` into torch tensors that are kept; or one slice, or a stream that keeps nothing.
The package is staged in the folder given first; memory is counted after torch is there."""

import sys

site, what, store, name = sys.argv[1:]
sys.path.insert(0, site)

import torch  # noqa: E402
from measured import measured, peak_rss  # noqa: E402

import tenpak  # noqa: E402

before = peak_rss()
with measured() as result:
    if what == "load":
        kept = tenpak.load_file(name, store=store)
        result["bytes"] = sum(tensor.nbytes for tensor in kept.values())
    else:
        result["bytes"] = sum(tensor.nbytes for _, tensor in tenpak.stream(name, store=store))
    result["beside"] = peak_rss() - before
assert torch.is_tensor(torch.zeros(1))
