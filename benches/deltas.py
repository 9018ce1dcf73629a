"""What the delta codec must reach: sizes against BitX's and against the entropy under the base's
exponent; decoding against the zstd within BitX, on one pinned thread."""

import json
import pathlib
import subprocess

from bench import MIB, Bench, Verdict, unmeasured
from lines import reason
from sampling import Failed, Sample, Unavailable, run

HERE = pathlib.Path(__file__).resolve().parent
ELEMENTS = 128 * MIB
# Noise, as a part of the weights' standard deviation, and what is allowed of BitX's bytes.
NOISES = {"0.0001": 0.40, "0.001": 0.55, "0.005": 0.67, "0.02": 0.77}
# What BitX compresses at a time: the file, or a chunk as large as ours.
PIECES = {"BitX, whole": 0, "BitX, by MiB": MIB}


def prepare(bench: Bench) -> tuple[pathlib.Path, dict]:
    out = bench.scratch / "deltas"
    command = [str(bench.python), str(HERE / "delta_data.py"), str(bench.weights), str(out), str(ELEMENTS), *NOISES]
    return out, json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ours(bench: Bench, tuned: pathlib.Path, base: pathlib.Path) -> Sample:
    return run(["/usr/bin/taskset", "-c", "0", str(bench.example("codec_bench")), "BF16", str(tuned), "auto", str(base)])


def least(runs, names, field: str) -> float:
    return min(sample.report[field] for name in names if runs.get(name) for sample in runs.get(name).samples)


def measure(bench: Bench, noise: str, tuned: pathlib.Path, base: pathlib.Path, told: dict) -> list[Verdict]:
    contenders = {"tenpak": lambda: ours(bench, tuned, base)}
    for name, piece in PIECES.items():
        contenders[name] = lambda piece=piece: bench.peer("bitx_codec.py", tuned, base, piece)
    runs = bench.interleave(f"delta of bf16, noise of {noise}, one thread", contenders)
    size, speed = f"delta, noise {noise}, size / BitX's", f"delta, noise {noise}, decode, throughput / BitX's zstd"
    peers = [name for name in PIECES if runs.get(name)]
    if not runs.get("tenpak") or not peers:
        why = reason(runs, "tenpak", *PIECES)
        return [unmeasured(size, f"<= {NOISES[noise]}", why), unmeasured(speed, ">= 1", why)]
    stored, bitx = least(runs, ["tenpak"], "stored_bytes"), least(runs, peers, "stored_bytes")
    entropy = told["bytes"] / 2 * told["entropy"][noise] / 8
    limit = f"entropy under the base's exponent: {entropy / bitx:.4f}; ours is {stored / entropy:.4f} of it"
    mine, theirs, encode = (least(runs, *of) for of in (
        (["tenpak"], "decode_s"), (peers, "zstd_s"), (["tenpak"], "encode_s"),
    ))
    speeds = (f"{told['bytes'] / mine / 1e9:.2f} GB/s, theirs {told['bytes'] / theirs / 1e9:.2f} without putting planes "
              f"together, {told['bytes'] / least(runs, peers, 'decode_s') / 1e9:.2f} with; we encode {told['bytes'] / encode / 1e9:.2f}")
    return [
        Verdict(size, f"<= {NOISES[noise]}", f"{stored / bitx:.4f}", stored <= NOISES[noise] * bitx, limit),
        Verdict(speed, ">= 1", f"{theirs / mine:.2f}", mine <= theirs, speeds),
    ]


def delta(bench: Bench) -> list[Verdict]:
    """Sizes and speeds on the synthetic model's weights with four amounts of noise."""
    try:
        out, told = prepare(bench)
    except (Unavailable, Failed, subprocess.CalledProcessError) as why:
        return [unmeasured("delta, size and speed", "", str(why))]
    verdicts = []
    for noise in NOISES:
        verdicts += measure(bench, noise, out / f"tuned-{float(noise):g}", out / "base", told)
    return verdicts
