"""The Python package beside the command and beside what Python programs take otherwise, from nginx over loopback."""

import pathlib
import statistics
import subprocess
import sys

from bench import MIB, MODEL_NAME, REPOSITORY, Bench, Verdict, unmeasured
from sampling import Series, Unavailable

OF_COMMAND = 0.9
OF_TENSORIZER = 1.5
OF_RUNAI = 3
STREAM = 256 * MIB


def stage(bench: Bench) -> pathlib.Path:
    """Where the package is imported from: as a wheel would install it."""
    extension = bench.programs / "lib_tenpak.so"
    if not extension.exists():
        raise Unavailable("the extension is not built: cargo build --release -p tenpak-python --features command")
    site = bench.scratch / "python"
    subprocess.run([sys.executable, REPOSITORY / "python/tests/stage.py", extension, site], check=True)
    return site


def seconds(series: Series) -> float:
    """The load alone: what the command says of its own, and what is timed after a program's imports."""
    return statistics.median(sample.report.get("seconds", sample.wall_s) for sample in series.samples)


def python(bench: Bench) -> list[Verdict]:
    """`tenpak.load_file` against `tenpak load --keep`, tensorizer and runai-model-streamer; what a stream takes."""
    lines = {
        "tenpak load --keep": OF_COMMAND, "tensorizer": OF_TENSORIZER, "runai-model-streamer": OF_RUNAI,
    }  # fmt: skip
    try:
        site = stage(bench)
    except Unavailable as why:
        return [unmeasured(f"Python load, throughput / {peer}'s", f">= {target}", str(why)) for peer, target in lines.items()]
    origin, weights = bench.url(), bench.weights.relative_to(bench.data)

    def ours(what: str):
        return bench.counted(lambda: bench.peer("tenpak_load.py", site, what, bench.store_url(), MODEL_NAME))

    runs = bench.interleave("load into torch tensors over HTTP", {
        "tenpak.load_file": lambda: ours("load"),
        "tenpak.stream": lambda: ours("stream"),
        "tenpak load --keep": lambda: bench.load(bench.store_url(), "--keep"),
        "tensorizer": lambda: bench.counted(
            lambda: bench.peer("tensorizer_load.py", f"{origin}/{bench.tensorizer_file.name}", 2)),
        "runai-model-streamer": lambda: bench.counted(
            lambda: bench.peer("runai_load.py", origin, weights.parts[0], "/".join(weights.parts[1:]))),
    })
    verdicts = []
    loaded = runs.get("tenpak.load_file")
    for peer, target in lines.items():
        line, wanted, theirs = f"Python load, throughput / {peer}'s", f">= {target}", runs.get(peer)
        if not loaded or not theirs:
            verdicts.append(unmeasured(line, wanted, "; ".join(runs.missing.values())))
            continue
        ratio = seconds(theirs) / seconds(loaded)
        verdicts.append(Verdict(line, wanted, f"{ratio:.2f}", ratio >= target, f"{seconds(loaded):.2f} s"))
    line, wanted, streamed = "Python stream, memory beside torch", f"<= {STREAM // MIB} MiB", runs.get("tenpak.stream")
    if not streamed:
        return [*verdicts, unmeasured(line, wanted, "; ".join(runs.missing.values()))]
    beside = max(sample.report.get("beside", 0) for sample in streamed.samples) / MIB
    return [*verdicts, Verdict(line, wanted, f"{beside:.0f} MiB", beside <= STREAM / MIB, "")]
