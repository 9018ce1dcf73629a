"""runai-model-streamer loading every tensor through S3 path-style GETs."""

import os
import sys

endpoint, bucket, key = sys.argv[1:]
os.environ |= {
    "AWS_ENDPOINT_URL": endpoint,
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RUNAI_STREAMER_LOG_LEVEL": "ERROR",
}

from measured import measured
from runai_model_streamer import SafetensorsStreamer

with measured() as result:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(f"s3://{bucket}/{key}")
        # Each tensor is seen and dropped: its buffer is the streamer's own.
        result["bytes"] = sum(tensor.nbytes for _, tensor in streamer.get_tensors())
