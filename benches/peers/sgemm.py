"""How many products of two f32 numbers BLAS adds per second, twice counted, on so many threads: what a count
of FLOPs is divided by. The fastest of five."""

import os
import sys
import time

threads = sys.argv[1]
os.environ["OPENBLAS_NUM_THREADS"] = threads

import numpy as np
from measured import measured

ORDER = 3072
a, b = (np.random.default_rng(seed).standard_normal((ORDER, ORDER), dtype=np.float32) for seed in (1, 2))
with measured() as result:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    result |= {"flops_per_second": 2 * ORDER**3 / best}
