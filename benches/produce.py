"""What `quantize` must reach: encoding beside bitsandbytes' CPU path, memory to memory on two threads; and a
second run that computes nothing."""

import os
import shutil

from bench import GIB, Bench, Verdict, unmeasured
from lines import reason
from sampling import Sample, run

THREADS = 2
# Ratio that is asked for, and the share of memory bandwidth that does as well.
TARGETS = {"nf4": (8, 0.6), "nf4-double": (8, 0.6), "int8": (3, None)}


def ours(bench: Bench, method: str) -> Sample:
    return run([str(bench.example("encode_bench")), method, str(bench.weights), str(THREADS)])


def least(runs, name: str, field: str) -> float:
    return min(sample.report[field] for sample in runs.get(name).samples)


def encoding(bench: Bench, method: str) -> Verdict:
    ratio, share = TARGETS[method]
    line, target = f"{method}, throughput / bitsandbytes'", f">= {ratio}" + (f", or {share:.0%} of memory's" if share else "")
    runs = bench.interleave(f"{method} of {bench.weights.stat().st_size / GIB:.1f} GiB, {THREADS} threads", {
        "tenpak": lambda: ours(bench, method),
        "bitsandbytes": lambda: bench.peer("bnb_quantize.py", method, bench.weights, THREADS),
    })
    if not runs.get("tenpak") or not runs.get("bitsandbytes"):
        return unmeasured(line, target, reason(runs, "tenpak", "bitsandbytes"))
    mine, theirs = least(runs, "tenpak", "seconds"), least(runs, "bitsandbytes", "seconds")
    of_memory = max(sample.report["share_of_memory"] for sample in runs.get("tenpak").samples)
    met = theirs / mine >= ratio or (share is not None and of_memory >= share)
    speed = least(runs, "tenpak", "bytes") / mine / 1e9
    limit = f"{speed:.1f} GB/s of weights, {of_memory:.0%} of what {THREADS} threads read"
    return Verdict(line, target, f"{theirs / mine:.1f}", met, limit)


def again(bench: Bench) -> list[Verdict]:
    """The same model twice into one store; the second run computes nothing."""
    store, state = bench.scratch / "produced", bench.scratch / "state"
    gib = bench.weights.stat().st_size / GIB
    times, computed = [], []
    for _ in range(bench.rounds):
        for folder in (store, state):
            shutil.rmtree(folder, ignore_errors=True)
        os.environ["XDG_STATE_HOME"] = str(state)
        command = [str(bench.tenpak), "quantize", str(bench.model), "--store", str(store), "--name", "q", "--preset", "bnb_nf4", "--json"]
        run(command)
        second = run(command)
        times.append(second.report["seconds"] / gib)
        computed.append(second.report["tensors_computed"])
    shutil.rmtree(store, ignore_errors=True)
    return [
        Verdict("a second quantize, weights computed", "0", str(max(computed)), max(computed) == 0),
        Verdict("a second quantize, seconds per GiB", "< 1", f"{min(times):.2f}", min(times) < 1),
    ]


def produce(bench: Bench) -> list[Verdict]:
    return [encoding(bench, method) for method in TARGETS] + again(bench)
