"""Loads from origins as they are in the field: each connection has its rate, and each answer its delay.

The origin is `examples/slow_origin`: it paces every connection and holds every answer back, since the kernels
of shared machines have no `netem`. Beside us, in the same cells: what people take to fetch one large file over
many connections, none of which verifies anything.
"""

import shutil
import subprocess
import time

import sampling
from bench import Bench, Verdict, unmeasured
from origin import answers, free_port
from sampling import Failed, Round, Sample, Unavailable

RATES = (5e6, 20e6, 80e6, None)  # bytes a second for each connection
DELAYS_MS = (0, 10, 50, 150)
CONNECTIONS = 64
PARTS = 16
UNLIMITED = 1e12


class SlowOrigin:
    def __init__(self, bench: Bench, rate: float | None, delay_ms: int):
        self.port = free_port()
        program = bench.example("slow_origin")
        if not program.exists():
            raise Unavailable(f"{program.name} is not built")
        self.command = [program, bench.data, self.port, f"{rate or UNLIMITED:.0f}", delay_ms]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "SlowOrigin":
        self.process = subprocess.Popen([*map(str, self.command)])
        if not answers(self.process, self.port):
            self.__exit__()
            raise Unavailable("slow_origin does not start")
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


def aria(bench: Bench, url: str) -> Sample:
    program = shutil.which("aria2c")
    if not program:
        raise Unavailable("aria2c is not installed: run benches/setup.sh")
    target = bench.scratch / "aria"
    shutil.rmtree(target, ignore_errors=True)
    start = time.perf_counter()
    path = bench.weights.relative_to(bench.data)
    told = subprocess.run(
        [program, "-q", f"-x{PARTS}", f"-s{PARTS}", "--min-split-size=1M", "--file-allocation=none", "-d", target, f"{url}/{path}"],
        capture_output=True, text=True,
    )
    took = time.perf_counter() - start
    if told.returncode:
        raise Failed(f"aria2c: exit status {told.returncode}: {told.stderr[-300:]}")
    return Sample(process_s=took, wall_s=took, cpu_s=0, peak_rss=0, bytes=bench.weights.stat().st_size)


def cell(bench: Bench, rate: float | None, delay_ms: int) -> Round:
    """One cell of the table, everyone in turn."""
    with SlowOrigin(bench, rate, delay_ms) as origin:
        folder, *rest = bench.weights.relative_to(bench.data).parts
        urls = "\n".join(f"{origin.url}/{pack.relative_to(bench.data)}" for pack in bench.packs)
        name = f"{rate / 1e6:.0f} MB/s" if rate else "unlimited"
        title = f"network: {name} for each connection, {delay_ms} ms"
        plain, bench.origin = bench.origin, None
        try:
            runs = sampling.interleave(min(bench.rounds, 3), {
                "tenpak load": lambda: bench.load(f"{origin.url}/{bench.store.name}/"),
                "runai-model-streamer": lambda: bench.peer("runai_load.py", origin.url, folder, "/".join(rest)),
                f"aria2c -x{PARTS}": lambda: aria(bench, origin.url),
                f"curl, {PARTS} processes": lambda: bench.peer("curl_fetch.py", PARTS, stdin=urls),
            }, warm_up=False)
        finally:
            bench.origin = plain
        bench.tables.append((title, runs))
        return runs


def network(bench: Bench) -> list[Verdict]:
    """Every cell beside its counted limit and the best of the peers."""
    unlimited, verdicts = None, []
    for rate in reversed(RATES):
        for delay_ms in DELAYS_MS:
            line = f"load at {f'{rate / 1e6:.0f} MB/s' if rate else 'any rate'} for each connection, {delay_ms} ms"
            target = ">= 1.0 of the best peer"
            try:
                runs = cell(bench, rate, delay_ms)
            except Unavailable as why:
                verdicts.append(unmeasured(line, target, str(why)))
                continue
            ours = runs.get("tenpak load")
            peer = runs.best(*(name for name in runs.series if name != "tenpak load"))
            if not ours or not peer:
                verdicts.append(unmeasured(line, target, "; ".join(runs.missing.values())))
                continue
            took, size = ours.median("process_s"), bench.weights.stat().st_size
            unlimited = unlimited or took
            counted = max(size / (CONNECTIONS * rate) if rate else 0, unlimited) + 4 * delay_ms / 1e3
            ratio = peer[1].median("process_s") / took
            limit = f"{counted / took:.2f} of {counted:.2f} s: {CONNECTIONS} connections, the unlimited load here, 4 round trips"
            verdicts.append(Verdict(line, target, f"{ratio:.2f} ({peer[0]}); {took:.2f} s", ratio >= 1, limit))
    return verdicts
