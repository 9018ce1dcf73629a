"""The edge against nginx with proxy_cache and slice: the same origin, the same client (wrk), in turns.

Warm reads of ranges from memory and from disk, a first fill from the origin, and a file through the
client of the Hugging Face Hub."""

import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from bench import MIB, MODEL_NAME, Bench, Verdict, unmeasured
from lines import GIGABIT, filled, mebibytes, reason
from link import Link
from origin import answers, free_port
from sampling import Failed, Sample, Unavailable

SECONDS = 4
CONNECTIONS = 8
START_TIMEOUT_S = 30
SIZES = (1 * MIB, 16 * MIB)
NGINX = """
worker_processes auto;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
daemon off;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    proxy_cache_path {run}/cache levels=1:2 keys_zone=c:64m max_size=8g use_temp_path=off;
    proxy_temp_path {run}/temp; client_body_temp_path {run}/body; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        # What the Hub's client asks of a file before it fetches it.
        location /{model}/resolve/main/ {{
            alias {files}/;
            add_header X-Repo-Commit 0123456789012345678901234567890123456789;
        }}
        location / {{
            slice 1m;
            proxy_cache c;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache_valid 200 206 1h;
            proxy_cache_lock on;
            proxy_pass http://origin/{store}/;
        }}
    }}
}}
"""
# How our edge is started: its memory, and further options.
KINDS = {
    "memory": ("4G", []),
    "disk": ("1", ["--cache-dir", "{run}/chunks"]),
    "prefetching": ("4G", ["--prefetch", MODEL_NAME]),
}
# The part of what nginx can take at which both are asked for first bytes.
EQUAL_LOAD = 0.9
# Each thread walks over the packs in its own order; every request is one range.
LUA = """
local paths = {{ {paths} }}
local sizes = {{ {sizes} }}
local seed = 0
function setup(thread) seed = seed + 1; thread:set("seed", seed) end
function init(args) math.randomseed(seed) end
function request()
    local i = math.random(#paths)
    local blocks = math.max(1, math.floor(sizes[i] / {size}))
    local first = math.random(0, blocks - 1) * {size}
    local last = math.min(first + {size}, sizes[i]) - 1
    return wrk.format("GET", paths[i], {{ ["Range"] = "bytes=" .. first .. "-" .. last }})
end
"""
# Requests begin at a fixed rate, however quickly they are answered.
PACED_LUA = """
local ffi = require("ffi")
ffi.cdef[[typedef struct {{ long s; long us; }} timeval; int gettimeofday(timeval *, void *);]]
local clock = ffi.new("timeval")
local due = 0
function delay()
    ffi.C.gettimeofday(clock, nil)
    local now = tonumber(clock.s) * 1e3 + tonumber(clock.us) / 1e3
    local wait = math.max(0, due - now)
    due = now + wait + 1e3 / {each_second}
    return wait
end
"""


class Prober(threading.Thread):
    """One more client beside wrk's: each request is timed to the first byte of its body, and left there."""

    def __init__(self, port: int, packs: list[tuple[str, int]], size: int):
        super().__init__()
        self.port, self.packs, self.size = port, packs, size
        self.times: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        chance = random.Random(1)
        while not self.over.wait(0.005):
            path, length = chance.choice(self.packs)
            first = chance.randrange(max(1, length // self.size)) * self.size
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={first}-{min(first + self.size, length) - 1}\r\n\r\n"
            start = time.perf_counter()
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as stream:
                stream.sendall(request.encode())
                head = b""
                while len(head.partition(b"\r\n\r\n")[2]) == 0:
                    piece = stream.recv(4096)
                    if not piece:
                        raise Failed(f"no answer for {path}")
                    head += piece
            self.times.append(time.perf_counter() - start)

    def p99(self) -> float:
        self.over.set()
        self.join()
        if not self.times:
            raise Failed("no probe was answered")
        return sorted(self.times)[len(self.times) * 99 // 100]


class Server:
    """A caching server over the bench's origin, with a folder of its own."""

    def __init__(self, bench: Bench, kind: str):
        self.bench, self.kind, self.port = bench, kind, free_port()
        self.run = pathlib.Path(tempfile.mkdtemp(prefix="edge-", dir=bench.scratch))

    def __enter__(self) -> "Server":
        origin = f"{self.bench.url()}/{self.bench.store.name}/"
        if self.kind == "nginx":
            user = "user root;" if os.getuid() == 0 else ""
            config = self.run / "nginx.conf"
            config.write_text(NGINX.format(
                run=self.run, user=user, port=self.port, origin=self.bench.origin.port, store=self.bench.store.name,
                model=MODEL_NAME, files=self.bench.model,
            ))
            command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(self.run), "-e", str(self.run / "error.log"), "-c", str(config)]
        else:
            memory, more = KINDS[self.kind]
            more = [option.format(run=self.run) for option in more]
            command = [str(self.bench.tenpak), "edge", "--origin", origin, "--listen", f"127.0.0.1:{self.port}", "--cache-memory", memory, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if not answers(self.process, self.port, START_TIMEOUT_S):
            self.__exit__()
            raise Unavailable(f"{self.kind} does not start")
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.run, ignore_errors=True)

    def hub_download(self) -> Sample:
        """The model's file through the Hub's client, onto disk."""
        folder = self.run / "downloaded"
        shutil.rmtree(folder, ignore_errors=True)
        return self.bench.peer("hub_download.py", f"http://127.0.0.1:{self.port}", MODEL_NAME, self.bench.weights.name, folder)

    def ready(self) -> None:
        """Waits until what was to be prefetched is there."""
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").close()
                return
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise Failed(f"/readyz answers {error.code}") from None
                time.sleep(0.02)

    def fetch_all(self) -> float:
        """Every pack once, over four connections; the seconds."""
        base = f"http://127.0.0.1:{self.port}"
        urls = "\n".join(f"{base}/packs/{pack.name}" for pack in self.bench.packs)
        return self.bench.peer("curl_fetch.py", 4, stdin=urls).wall_s

    def wrk(self, size: int, each_second: float | None = None, probed: "Server | None" = None) -> Sample:
        """Ranges of `size` bytes as quickly as they come, or `each_second` of them; beside them, first bytes of `probed`."""
        script = self.run / "ranges.lua"
        paths = ", ".join(f'"/packs/{pack.name}"' for pack in self.bench.packs)
        sizes = ", ".join(str(pack.stat().st_size) for pack in self.bench.packs)
        script.write_text(LUA.format(paths=paths, sizes=sizes, size=size) + (PACED_LUA.format(each_second=each_second) if each_second else ""))
        prober = Prober((probed or self).port, [(f"/packs/{pack.name}", pack.stat().st_size) for pack in self.bench.packs], size)
        start = time.perf_counter()
        prober.start()
        told = subprocess.run(
            ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script), f"http://127.0.0.1:{self.port}"],
            capture_output=True, text=True, check=True,
        ).stdout
        took, first = time.perf_counter() - start, prober.p99()
        count = re.search(r"(\d+) requests in ([\d.]+)s, ([\d.]+)(\w+) read", told)
        if not count or "Non-2xx" in told or "Socket errors" in told:
            raise Failed(told)
        scale = {"KB": 2**10, "MB": 2**20, "GB": 2**30}[count[4]]
        rate = float(count[3]) * scale / float(count[2])
        p99 = re.search(r"99%\s+([\d.]+)(\w+)", told)
        seconds = float(p99[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[p99[2]]
        # Throughput as the time for one GiB, so that less is better, as elsewhere.
        return Sample(process_s=2**30 / rate, wall_s=took, cpu_s=0, peak_rss=0, report={"p99": seconds, "first": first})


def edge(bench: Bench) -> list[Verdict]:
    """Warm ranges and a cold fill against nginx."""
    if not shutil.which("wrk"):
        return [unmeasured("edge, warm and cold", "", "wrk is not installed: run benches/setup.sh")]
    verdicts = []

    def cold(kind: str) -> Sample:
        with Server(bench, kind) as server:
            took = server.fetch_all()
            return Sample(process_s=took, wall_s=took, cpu_s=0, peak_rss=0)

    runs = bench.interleave("edge, first fill", {"tenpak edge": lambda: cold("memory"), "nginx": lambda: cold("nginx")})
    ours, theirs = runs.get("tenpak edge"), runs.get("nginx")
    line, target = "edge, cold fill, throughput / nginx's", ">= 0.9"
    if ours and theirs:
        ratio = theirs.median("process_s") / ours.median("process_s")
        verdicts.append(Verdict(line, target, f"{ratio:.2f}", ratio >= 0.9, "verification included"))
    else:
        verdicts.append(unmeasured(line, target, reason(runs, "tenpak edge", "nginx")))
    with Server(bench, "memory") as memory, Server(bench, "disk") as disk, Server(bench, "nginx") as nginx:
        for server in (memory, disk, nginx):
            server.fetch_all()
        for size in SIZES:
            runs = bench.interleave(f"edge, warm ranges of {mebibytes(size)}", {
                "tenpak edge, memory": lambda: memory.wrk(size),
                "tenpak edge, disk": lambda: disk.wrk(size),
                "nginx": lambda: nginx.wrk(size),
            })
            theirs = runs.get("nginx")
            for tier, least in (("memory", 1.0), ("disk", 0.7)):
                line, target = f"edge, {mebibytes(size)} ranges from {tier}, throughput / nginx's", f">= {least}"
                ours = runs.get(f"tenpak edge, {tier}")
                if not ours or not theirs:
                    verdicts.append(unmeasured(line, target, reason(runs, "nginx")))
                    continue
                ratio = theirs.median("process_s") / ours.median("process_s")
                p99 = [min(sample.report["p99"] for sample in series.samples) * 1e3 for series in (ours, theirs)]
                limit = f"{rate(ours) / 1e9:.2f} GB/s; 99th percentile {p99[0]:.1f} ms, nginx's {p99[1]:.1f} ms"
                verdicts.append(Verdict(line, target, f"{ratio:.2f}", ratio >= least, limit))
                first = [first_ms(series) for series in (ours, theirs)]
                line = f"edge, {mebibytes(size)} ranges from {tier}, p99 time to first byte / nginx's, each at full load"
                # What has nothing else to do, and waits for its turn on the same cores.
                idle = (memory if tier == "memory" else disk).wrk(size, probed=nginx).report["first"] * 1e3
                limit = f"{first[0]:.1f} ms, nginx's {first[1]:.1f} ms; an idle nginx beside our load {idle:.1f} ms"
                verdicts.append(Verdict(line, "<= 2", f"{first[0] / first[1]:.2f}", first[0] <= 2 * first[1], limit))
            if theirs:
                verdicts += at_equal_load(bench, size, EQUAL_LOAD * rate(theirs) / size, memory, disk, nginx)
    return verdicts + [hub(bench), link(bench)]


def rate(series) -> float:
    """Bytes a second."""
    return 2.0**30 / series.median("process_s")


def first_ms(series) -> float:
    """The 99th percentile of the time to first byte in the round that was disturbed least."""
    return min(sample.report["first"] for sample in series.samples) * 1e3


def at_equal_load(bench: Bench, size: int, each_second: float, memory: Server, disk: Server, nginx: Server) -> list[Verdict]:
    """Times to first byte while each is asked for the same bytes a second."""
    runs = bench.interleave(f"edge, {mebibytes(size)} ranges, {each_second:.0f} a second", {
        "tenpak edge, memory": lambda: memory.wrk(size, each_second),
        "tenpak edge, disk": lambda: disk.wrk(size, each_second),
        "nginx": lambda: nginx.wrk(size, each_second),
    })
    verdicts = []
    for tier in ("memory", "disk"):
        line, target = f"edge, {mebibytes(size)} ranges from {tier}, p99 time to first byte / nginx's, same load", "<= 2"
        ours, theirs = runs.get(f"tenpak edge, {tier}"), runs.get("nginx")
        if not ours or not theirs:
            verdicts.append(unmeasured(line, target, reason(runs, f"tenpak edge, {tier}", "nginx")))
            continue
        first = [first_ms(series) for series in (ours, theirs)]
        limit = f"{first[0]:.1f} ms, nginx's {first[1]:.1f} ms at {rate(ours) / 1e9:.2f} and {rate(theirs) / 1e9:.2f} GB/s"
        verdicts.append(Verdict(line, target, f"{first[0] / first[1]:.2f}", first[0] <= 2 * first[1], limit))
    return verdicts


def hub(bench: Bench) -> Verdict:
    """One large file through the Hub's client, warm, against nginx serving the file as it is."""
    line, target = "edge, hf download of the file, throughput / nginx's", ">= 0.8"
    with Server(bench, "memory") as edge, Server(bench, "nginx") as nginx:
        edge.fetch_all()
        runs = bench.interleave("edge, hf download, warm", {"tenpak edge": edge.hub_download, "nginx": nginx.hub_download})
    ours, theirs = runs.get("tenpak edge"), runs.get("nginx")
    if not ours or not theirs:
        return unmeasured(line, target, reason(runs, "tenpak edge", "nginx"))
    ratio = theirs.median("wall_s") / ours.median("wall_s")
    return Verdict(line, target, f"{ratio:.2f}", ratio >= 0.8, f"the client's own CPU {ours.median('cpu_s'):.2f} s of {ours.median('wall_s'):.2f} s")


def link(bench: Bench) -> Verdict:
    """How much of a 1 Gbit/s link to the origin a first fill takes."""
    line, target = "edge, share of a 1 Gbit/s link in a first fill", ">= 0.95"

    def fill() -> Sample:
        start = time.perf_counter()
        with Server(bench, "prefetching") as server:
            server.ready()
            took = time.perf_counter() - start
        return Sample(process_s=took, wall_s=took, cpu_s=0, peak_rss=0)

    try:
        with Link(GIGABIT):
            runs = bench.interleave("edge, first fill over 1 Gbit/s", {"tenpak edge": lambda: bench.counted(fill)})
    except Unavailable as why:
        return unmeasured(line, target, str(why))
    ours = runs.get("tenpak edge")
    if not ours:
        return unmeasured(line, target, reason(runs, "tenpak edge"))
    share = filled(ours, GIGABIT)
    return Verdict(line, target, f"{share:.3f}", share >= 0.95, f"{ours.median('bytes') / 1e6:.1f} MB in {ours.median('requests'):.0f} requests")
