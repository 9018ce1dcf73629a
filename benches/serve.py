"""The embedded engine on a Llama of a billion parameters, beside llama.cpp and transformers on the same two cores.

What a token needs is counted first: every weight but the embedding is read once, so that the bytes of the weights over
the speed of memory are the least it can take. Speeds are those that a client sees; llama.cpp and transformers are called
in their own process, without a server.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import sampling
from bench import MIB, Bench, Verdict, unmeasured
from link import Link
from origin import free_port
from sampling import Failed, Sample, Unavailable

NAME = "bench/lm"
PROMPT, TOKENS, SHORT = 512, 64, 32
TOGETHER = 8
CACHE = 1 << 30
LINK = 1e9
KINDS = {"bf16": None, "q8_0": "q8_0", "q4_0": "q4_0"}


class Served:
    """`tenpak serve` of a name; ends with the `with` block."""

    def __init__(self, bench: Bench, store: str, name: str):
        self.port = free_port()
        self.started = time.perf_counter()
        command = [bench.tenpak, "--store", store, "--json", "serve", name, "--served-name", NAME, "--listen", f"127.0.0.1:{self.port}"]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=self.log, text=True)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> "Served":
        if not self.process.stdout.readline():
            raise self.ended()
        return self

    def ended(self) -> Failed:
        self.log.seek(0)
        return Failed(f"tenpak serve ended: {self.log.read()[-300:]}")

    def peak(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))

    def connect(self) -> socket.socket:
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=sampling.RUN_TIMEOUT_S)
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    raise self.ended() from None
                time.sleep(0.002)

    def complete(self, prompt: list[int], tokens: int) -> float:
        """Seconds until all tokens were made. Not every token has a text of its own, so that a stream tells less."""
        body = {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.connect()
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except ConnectionError:
            raise self.ended() from None
        if answer.status != 200 or json.loads(text)["usage"]["completion_tokens"] != tokens:
            raise Failed(f"status {answer.status}: {text[:300]!r}")
        return time.perf_counter() - start


def ids(count: int, seed: int = 0) -> list[int]:
    return [1 + (seed + at * 7) % 200 for at in range(count)]


def ours(bench: Bench, name: str) -> Sample:
    """Tokens/s of a prompt, of one request and of eight, as a client sees them."""
    start = time.perf_counter()
    with Served(bench, str(bench.scratch / "lm"), name).wait() as served:
        served.complete(ids(8, 3), 2)
        prompt = PROMPT / served.complete(ids(PROMPT, 11), 1)
        # What is beyond a request of one token took the others.
        one = TOKENS / (served.complete(ids(SHORT, 20), TOKENS + 1) - served.complete(ids(SHORT, 21), 1))

        def crowd(seed: int, tokens: int) -> float:
            begin = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
                list(pool.map(lambda own: served.complete(ids(SHORT, own), tokens), range(seed, seed + TOGETHER)))
            return time.perf_counter() - begin

        together = TOGETHER * TOKENS / (crowd(30, TOKENS + 1) - crowd(50, 1))
        ticks = pathlib.Path(f"/proc/{served.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        wall = time.perf_counter() - start
        return Sample(wall, wall, cpu, served.peak(), report={
            "prompt_tokens_per_s": prompt, "tokens_per_s": one, "together_tokens_per_s": together,
        })


def cold(bench: Bench, name: str) -> Sample:
    """From the start of the process to the first token of a request that waits, over the link."""
    start = time.perf_counter()
    with Served(bench, f"{bench.url()}/scratch/lm/", name) as served:
        served.complete(ids(SHORT), 1)
        took = time.perf_counter() - start
        return Sample(took, took, 0, served.peak())


def download_first(bench: Bench, file: pathlib.Path, started: pathlib.Path) -> Sample:
    """curl of a file, then the start of llama.cpp, in its favour on the smaller file `started`."""
    target = bench.scratch / "lm-download"
    start = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", target, f"{bench.url()}/{file.relative_to(bench.data)}"], check=True)
    down = time.perf_counter() - start
    own = bench.peer("llama_cpp_run.py", started, SHORT, 1)
    target.unlink()
    took = down + own.report["first_token_s"]
    return Sample(took, took, own.cpu_s, own.peak_rss)


def prepare(bench: Bench) -> tuple[pathlib.Path, dict[str, int], dict[str, int], dict[str, pathlib.Path]]:
    """The folder; the bytes of each kind, and those that are stored; its GGUF files."""
    model = bench.data / "lm"
    if not model.exists():
        bench.make(model, "make_lm.py", lambda out: [out])
    store = bench.scratch / "lm"
    shutil.rmtree(store, ignore_errors=True)
    own = [str(bench.tenpak), "--store", str(store), "--json"]
    packed = sampling.run([*own, "pack", str(model), "--name", f"{NAME}:bf16"]).report
    sizes, stored, files = {"bf16": (model / "model.safetensors").stat().st_size}, {"bf16": packed["stored_bytes"]}, {}
    for kind, method in KINDS.items():
        if method:
            made = sampling.run([*own, "quantize", f"{NAME}:bf16", "--name", f"{NAME}:{kind}", "--method", method]).report
            stored[kind] = made["stored_bytes"]
            folder = bench.scratch / f"lm-{kind}"
            shutil.rmtree(folder, ignore_errors=True)
            sampling.run([*own, "unpack", f"{NAME}:{kind}", "--out", str(folder)])
            (files[kind],) = folder.glob("*.gguf")
            sizes[kind] = files[kind].stat().st_size
    return model, sizes, stored, files


def serve(bench: Bench) -> list[Verdict]:
    try:
        model, sizes, stored, files = prepare(bench)
        memory = bench.peer("read_memory.py", 1 << 30)
    except (Unavailable, Failed, subprocess.CalledProcessError) as why:
        return [unmeasured("serve", "", str(why))]
    speed = memory.bytes / memory.wall_s
    embedding = {"bf16": 32000 * 2048 * 2, "q8_0": 32000 * 2048 * 34 // 32, "q4_0": 32000 * 2048 * 18 // 32}
    contenders = {f"ours {kind}": lambda kind=kind: ours(bench, f"{NAME}:{kind}") for kind in KINDS}
    contenders |= {f"llama.cpp {kind}": lambda file=file: bench.peer("llama_cpp_run.py", file, PROMPT, TOKENS) for kind, file in files.items()}
    contenders["transformers bf16"] = lambda: bench.peer("transformers_run.py", model, PROMPT, TOKENS)
    runs = sampling.interleave(min(bench.rounds, 3), contenders, warm_up=False)
    bench.tables.append(("serve: 512 tokens, then 64", runs))

    def told(name: str, what: str) -> float | None:
        own = runs.get(name)
        return own and sorted(sample.report[what] for sample in own.samples)[len(own.samples) // 2]

    results = []

    def against(line: str, target: float, one: float | None, other: float | None, limit: str = "") -> None:
        if one is None or other is None:
            results.append(unmeasured(line, f">= {target}", "; ".join(runs.missing.values()) or "no figure"))
        else:
            results.append(Verdict(line, f">= {target}", f"{one / other:.2f} ({one:.1f} for {other:.1f})", one / other >= target, limit))

    for kind in KINDS:
        needed = sizes[kind] - embedding[kind]
        against(f"decode, {kind}: of the speed of memory", 0.6, told(f"ours {kind}", "tokens_per_s"), speed / needed,
                f"{needed / 1e9:.2f} GB a token, memory {speed / 1e9:.1f} GB/s")
    for kind in files:
        against(f"decode, {kind} / llama.cpp", 0.9, told(f"ours {kind}", "tokens_per_s"), told(f"llama.cpp {kind}", "tokens_per_s"))
        against(f"prompt of {PROMPT}, {kind} / llama.cpp", 0.6, told(f"ours {kind}", "prompt_tokens_per_s"), told(f"llama.cpp {kind}", "prompt_tokens_per_s"))
    against("decode, bf16 / transformers", 3, told("ours bf16", "tokens_per_s"), told("transformers bf16", "tokens_per_s"))
    for kind in KINDS:
        against(f"{TOGETHER} at a time / one, {kind}", 3, told(f"ours {kind}", "together_tokens_per_s"), told(f"ours {kind}", "tokens_per_s"))
        own = runs.get(f"ours {kind}")
        if own:
            beyond = own.median("peak_rss") - sizes[kind]
            results.append(Verdict(f"memory beyond the weights, {kind}", "<= keys and values + 256 MiB", f"{beyond / MIB:.0f} MiB",
                                   beyond <= CACHE + 256 * MIB, "keys and values at most 1024 MiB"))
    try:
        with Link(LINK):
            starts = sampling.interleave(1, {
                "ours bf16": lambda: cold(bench, f"{NAME}:bf16"),
                "curl bf16, llama.cpp": lambda: download_first(bench, model / "model.safetensors", files["q8_0"]),
                "ours q8_0": lambda: cold(bench, f"{NAME}:q8_0"),
                "curl q8_0, llama.cpp": lambda: download_first(bench, files["q8_0"], files["q8_0"]),
            }, warm_up=False)
    except Unavailable as why:
        return [*results, unmeasured("cold start over 1 Gbit/s", "<= 1.10", str(why))]
    bench.tables.append(("serve: cold start over 1 Gbit/s", starts))
    for kind in ("bf16", "q8_0"):
        first, other = starts.get(f"ours {kind}"), starts.get(f"curl {kind}, llama.cpp")
        if first:
            took, least = first.median("process_s"), stored[kind] * 8 / LINK
            line = f"cold start, {kind}, of the link's time"
            results.append(Verdict(line, "<= 1.1", f"{took / least:.2f} ({took:.2f} s)", took <= 1.1 * least, f"{least:.2f} s"))
        if first and other:
            ratio = took / other.median("process_s")
            saved = f"{stored[kind] / sizes[kind]:.2f} of the bytes"
            results.append(Verdict(f"cold start, {kind} / curl and llama.cpp", "<= 0.75", f"{ratio:.2f}", ratio <= 0.75, saved))
    return results
