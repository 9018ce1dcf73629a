"""runai-model-streamer streaming a local file to a device, all tensors kept."""

import os
import sys

os.environ["RUNAI_STREAMER_LOG_LEVEL"] = "ERROR"

from device_context import context
from measured import measured
from runai_model_streamer import SafetensorsStreamer

path, device = sys.argv[1:]
with measured() as result:
    with context(device, result), SafetensorsStreamer() as streamer:
        streamer.stream_file(path, device=device)
        tensors = dict(streamer.get_tensors())
    result["bytes"] = sum(t.nbytes for t in tensors.values())
