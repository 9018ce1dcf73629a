"""tensorizer loading every tensor over HTTP into host memory, with N readers."""

import sys

from measured import measured
from tensorizer import TensorDeserializer

url, readers = sys.argv[1], int(sys.argv[2])
with measured() as result:
    with TensorDeserializer(url, device="cpu", lazy_load=False, num_readers=readers) as tensors:
        result["bytes"] = sum(t.nbytes for t in tensors.values())
