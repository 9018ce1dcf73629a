"""Loads from origins as they are in the field: each connection has its rate, and each answer its delay.

The origin is `examples/slow_origin`: it paces every connection and holds every answer back, since the kernels
of shared machines have no `netem`. In some cells a link of the kernel's token bucket lies between, which all
connections share. Beside us, in the same cells: what people take to fetch one large file over
many connections, none of which verifies anything.
"""

import contextlib
import random
import shutil
import statistics
import subprocess
import threading
import time

import sampling
from bench import Bench, Verdict, unmeasured
from link import Link
from origin import answers, free_port
from sampling import Failed, Round, Sample, Unavailable

RATES = (5e6, 20e6, 80e6, None)  # bytes a second for each connection
DELAYS_MS = (0, 10, 50, 150)
LINKS = (10e9, 1e9)  # bits a second, for the rates and delays below
LINKED_RATES = (20e6, None)
LINKED_DELAYS_MS = (0, 50)
OTHERS = 9
CLIENTS = 100
CLIENT_BYTES = 8 << 20
CONNECTIONS = 64
TRIPS = 5  # in sequence: a connection, the ref, the manifest, table and layout, the first bytes
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


def cell(bench: Bench, rate: float | None, delay_ms: int, link: float | None = None) -> Round:
    """One cell of the table, everyone in turn."""
    shared = Link(link) if link else contextlib.nullcontext()
    with SlowOrigin(bench, rate, delay_ms) as origin, shared:
        folder, *rest = bench.weights.relative_to(bench.data).parts
        urls = "\n".join(f"{origin.url}/{pack.relative_to(bench.data)}" for pack in bench.packs)
        name = f"{rate / 1e6:.0f} MB/s" if rate else "unlimited"
        of_link = f", a link of {link / 1e9:.0f} Gbit/s" if link else ""
        title = f"network: {name} for each connection, {delay_ms} ms{of_link}"
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


def judged(bench: Bench, rate: float | None, delay_ms: int, unlimited: float | None, link: float | None = None) -> tuple[Verdict, float | None]:
    """A cell beside its counted limit and the best of the peers, and how long our load took."""
    of_rate = f"{rate / 1e6:.0f} MB/s" if rate else "any rate"
    line = f"load at {of_rate} for each connection, {delay_ms} ms" + (f", {link / 1e9:.0f} Gbit/s in all" if link else "")
    target = ">= 1.0 of the best peer"
    try:
        runs = cell(bench, rate, delay_ms, link)
    except Unavailable as why:
        return unmeasured(line, target, str(why)), None
    ours = runs.get("tenpak load")
    peer = runs.best(*(name for name in runs.series if name != "tenpak load"))
    if not ours or not peer:
        return unmeasured(line, target, "; ".join(runs.missing.values())), None
    took, size = ours.median("process_s"), bench.weights.stat().st_size
    limits = [size / (CONNECTIONS * rate) if rate else 0, size * 8 / link if link else 0, unlimited or took]
    counted = max(limits) + TRIPS * delay_ms / 1e3
    ratio = peer[1].median("process_s") / took
    what = f"{CONNECTIONS} connections, the unlimited load here, the link, {TRIPS} round trips"
    limit = f"{counted / took:.2f} of {counted:.2f} s: {what}"
    return Verdict(line, target, f"{ratio:.2f} ({peer[0]}); {took:.2f} s", ratio >= 1, limit), took


def beside_others(bench: Bench) -> Verdict:
    """Our part of a link that nine others fill, each with one connection."""
    line, target = f"load over 1 Gbit/s beside {OTHERS} other downloads", "0.1 to 0.9 of the link"
    plain, bench.origin = bench.origin, None
    try:
        with SlowOrigin(bench, None, 0) as origin, Link(1e9):
            url = f"{origin.url}/{bench.weights.relative_to(bench.data)}"
            over = threading.Event()

            def download() -> None:
                while not over.is_set():
                    fetch = subprocess.Popen(["curl", "-s", "-o", "/dev/null", url])
                    while fetch.poll() is None:
                        if over.wait(0.05):
                            fetch.kill()
                    fetch.wait()

            others = [threading.Thread(target=download) for _ in range(OTHERS)]
            for other in others:
                other.start()
            try:
                ours = bench.load(f"{origin.url}/{bench.store.name}/")
            finally:
                over.set()
                for other in others:
                    other.join()
    except Unavailable as why:
        return unmeasured(line, target, str(why))
    finally:
        bench.origin = plain
    part = bench.weights.stat().st_size * 8 / ours.process_s / 1e9
    return Verdict(line, target, f"{part:.2f}", 0.1 <= part <= 0.9, f"an equal part of {OTHERS + 1} is 0.10")


class ColdEdge:
    """An edge that holds nothing yet, before a slow origin."""

    def __init__(self, bench: Bench, origin: SlowOrigin, store: str):
        self.port = free_port()
        self.command = [bench.tenpak, "edge", "--origin", f"{origin.url}/{store}/", "--listen", f"127.0.0.1:{self.port}", "--cache-memory", "2G"]
        self.url = f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> "ColdEdge":
        self.process = subprocess.Popen([*map(str, self.command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not answers(self.process, self.port):
            self.__exit__()
            raise Unavailable("the edge does not start")
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()


def through_edge(bench: Bench) -> Verdict:
    """One client of a cold edge, beside the same load straight from the origin."""
    line, target = "one cold client through an edge, 20 MB/s for each connection", ">= 0.9 of the direct load"
    plain, bench.origin = bench.origin, None

    def through() -> Sample:
        with ColdEdge(bench, origin, bench.store.name) as edge:
            return bench.load(edge.url)

    try:
        with SlowOrigin(bench, 20e6, 0) as origin:
            runs = sampling.interleave(min(bench.rounds, 3), {
                "direct": lambda: bench.load(f"{origin.url}/{bench.store.name}/"),
                "through an edge": through,
            }, warm_up=False)
    except Unavailable as why:
        return unmeasured(line, target, str(why))
    finally:
        bench.origin = plain
    direct, edge = (runs.get(name) for name in ("direct", "through an edge"))
    if not direct or not edge:
        return unmeasured(line, target, "; ".join(runs.missing.values()))
    ratio = direct.median("process_s") / edge.median("process_s")
    cpu = f"{direct.median('process_s'):.2f} s direct, {edge.median('process_s'):.2f} s through the edge"
    return Verdict(line, target, f"{ratio:.2f}", ratio >= 0.9, cpu)


def many_clients(bench: Bench) -> Verdict:
    """Cold clients of as many artifacts at one edge: who waits longest, and how long all take."""
    line, target = f"{CLIENTS} cold clients of {CLIENTS} artifacts at one edge", "the slowest <= 1.5 x the median"
    store, models = bench.data / "clients", bench.scratch / "clients"
    if not (store / "tenpak.json").exists():
        for n in range(CLIENTS):
            (models / str(n)).mkdir(parents=True, exist_ok=True)
            (models / str(n) / "weights.bin").write_bytes(random.Random(n).randbytes(CLIENT_BYTES))
            sampling.run([str(bench.tenpak), "pack", str(models / str(n)), "--name", f"c/m{n}", "--store", str(store), "--json"])
        shutil.rmtree(models)
    try:
        with SlowOrigin(bench, 20e6, 10) as origin, ColdEdge(bench, origin, store.name) as edge:
            start = time.perf_counter()
            clients = [
                subprocess.Popen([bench.tenpak, "unpack", f"c/m{n}", "--out", models / f"out{n}", "--store", edge.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for n in range(CLIENTS)
            ]
            took = []
            while left := [client for client in clients if client.returncode is None]:
                took += [time.perf_counter() - start for client in left if client.poll() is not None]
                time.sleep(0.005)
    except Unavailable as why:
        return unmeasured(line, target, str(why))
    finally:
        shutil.rmtree(models, ignore_errors=True)
    if any(client.returncode for client in clients):
        return unmeasured(line, target, "a client failed")
    middle, last = statistics.median(took), max(took)
    counted = CLIENTS * CLIENT_BYTES / 128 / 20e6
    return Verdict(line, target, f"{last / middle:.2f}", last <= 1.5 * middle, f"{last:.2f} s in all, counted for 128 connections {counted:.2f} s")


def network(bench: Bench) -> list[Verdict]:
    """Every cell beside its counted limit and the best of the peers."""
    unlimited, verdicts = None, []
    for rate in reversed(RATES):
        for delay_ms in DELAYS_MS:
            verdict, took = judged(bench, rate, delay_ms, unlimited)
            unlimited = unlimited or took
            verdicts.append(verdict)
    for link in LINKS:
        for rate in LINKED_RATES:
            for delay_ms in LINKED_DELAYS_MS:
                verdicts.append(judged(bench, rate, delay_ms, unlimited, link)[0])
    return [*verdicts, beside_others(bench), through_edge(bench), many_clients(bench)]
