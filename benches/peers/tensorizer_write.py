"""Writes a safetensors file's tensors in tensorizer's format (not timed)."""

import sys

from safetensors import safe_open
from tensorizer import TensorSerializer

source, target = sys.argv[1:]
serializer = TensorSerializer(target)
with safe_open(source, framework="pt") as weights:
    serializer.write_state_dict({name: weights.get_tensor(name) for name in weights.keys()})
serializer.close()
