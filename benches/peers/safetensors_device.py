"""safetensors' load_file of a local file straight to a device, all tensors kept."""

import sys

from device_context import context
from measured import measured
from safetensors.torch import load_file

path, device = sys.argv[1:]
with measured() as result:
    with context(device, result):
        tensors = load_file(path, device=device)
    result["bytes"] = sum(t.nbytes for t in tensors.values())
