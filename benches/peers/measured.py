"""How every peer is measured: inside its process, after its imports.

`measured()` times the block in wall and CPU time (all threads, and children it
waited for) and prints one JSON line: wall_s, cpu_s, bytes, peak_rss.
"""

import contextlib
import json
import resource
import time


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def measured():
    """Yields a dict; the block puts what it moved under "bytes"."""
    result = {"bytes": 0}
    cpu, wall = cpu_seconds(), time.perf_counter()
    yield result
    result |= {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu, "peak_rss": peak_rss()}
    print(json.dumps(result))
