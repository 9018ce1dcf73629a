"""What `quantize` must reach: encoding beside bitsandbytes' CPU path, memory to memory on two threads; GPTQ
beside GPTQModel and llm-compressor, on the same model and as many tokens; and a second run that computes
nothing."""

import json
import os
import pathlib
import shutil

from bench import GIB, REPOSITORY, Bench, Verdict, unmeasured
from lines import reason
from sampling import Round, Sample, Series, Unavailable, run

THREADS = 2
# Ratio that is asked for, and the share of memory bandwidth that does as well.
TARGETS = {"nf4": (8, 0.6), "nf4-double": (8, 0.6), "int8": (3, None)}

# Blocks of 1 GiB, and of a trial; calibration tokens.
BLOCKS, QUICK_BLOCKS = 12, 2
SAMPLES, LENGTH = 16, 256
GPTQ_TARGET = 1.5
GPTQ_PEERS = {"GPTQModel": ("gptqmodel", "gptqmodel"), "llm-compressor": ("llmcompressor", "llmcompressor-gptq")}


def ours(bench: Bench, method: str) -> Sample:
    return run([str(bench.example("encode_bench")), method, str(bench.weights), str(THREADS)])


def least(runs, name: str, field: str) -> float:
    return min(sample.report[field] for sample in runs.get(name).samples)


def encoding(bench: Bench, method: str) -> Verdict:
    ratio, share = TARGETS[method]
    line, target = f"{method}, throughput / bitsandbytes'", f">= {ratio}" + (f", or {share:.0%} of memory's" if share else "")
    # No run to warm up: each process takes the fastest of three passes in memory.
    runs = bench.interleave(f"{method} of {bench.weights.stat().st_size / GIB:.1f} GiB, {THREADS} threads", {
        "tenpak": lambda: ours(bench, method),
        "bitsandbytes": lambda: bench.peer("bnb_quantize.py", method, bench.weights, THREADS),
    }, warm_up=False)
    if not runs.get("tenpak") or not runs.get("bitsandbytes"):
        return unmeasured(line, target, reason(runs, "tenpak", "bitsandbytes"))
    mine, theirs = least(runs, "tenpak", "seconds"), least(runs, "bitsandbytes", "seconds")
    of_memory = max(sample.report["share_of_memory"] for sample in runs.get("tenpak").samples)
    met = theirs / mine >= ratio or (share is not None and of_memory >= share)
    speed = least(runs, "tenpak", "bytes") / mine / 1e9
    limit = f"{speed:.1f} GB/s of weights, {of_memory:.0%} of what {THREADS} threads read"
    return Verdict(line, target, f"{theirs / mine:.1f}", met, limit)


def gptq_flops(config: dict) -> dict[str, float]:
    """What GPTQ cannot do without: each layer run once, the halves of the Hessians, their factors and the
    inverses of those, and every error made up for in the columns behind it."""
    hidden, inter, blocks = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    kv = config["num_key_value_heads"] * config["head_dim"]
    layers = [(hidden, hidden)] * 2 + [(kv, hidden)] * 2 + [(inter, hidden)] * 2 + [(hidden, inter)]
    inputs = [hidden] * 3 + [inter]
    tokens = SAMPLES * LENGTH
    return {
        "running": blocks * sum(2 * tokens * rows * columns for rows, columns in layers),
        "Hessians": blocks * sum(tokens * columns**2 for columns in inputs),
        "factors": blocks * sum(2 * columns**3 / 3 for columns in inputs),
        "solving": blocks * sum(rows * columns**2 for rows, columns in layers),
    }


def gptq_ours(bench: Bench, model: pathlib.Path) -> Sample:
    """The whole command: reading, calibrating, encoding, packing."""
    store = bench.scratch / "gptq"
    shutil.rmtree(store, ignore_errors=True)
    os.environ["XDG_STATE_HOME"] = str(bench.scratch / "state")
    sample = run([
        str(bench.tenpak), "quantize", str(model), "--store", str(store), "--name", "q", "--preset", "gptq_fast",
        "--group-size", "128", "--samples", str(SAMPLES), "--sample-length", str(LENGTH), "--json",
    ])
    shutil.rmtree(store, ignore_errors=True)
    sample.process_s = sample.wall_s
    return sample


def gptq_peer(bench: Bench, model: pathlib.Path, environment: str, name: str) -> Sample:
    """Quantizing and saving; imports and loading are not counted."""
    python = REPOSITORY / ".venv-tools" / environment / "bin/python"
    if not python.exists():
        raise Unavailable(f"{environment} is not installed: tests/judges/setup.sh && tests/judges/tools.sh")
    out, path = bench.scratch / name, bench.scratch / f"{name}.json"
    job = {
        "model": str(model), "out": str(out), "bits": 4, "group": 128, "sym": True, "dtype": "bfloat16",
        "runs": [[(7 * at + 13 * sample) % 2048 for at in range(LENGTH)] for sample in range(SAMPLES)],
    }
    path.write_text(json.dumps(job))
    sample = run([str(python), str(REPOSITORY / "tests/judges/calibrate.py"), name, str(path)])
    shutil.rmtree(out, ignore_errors=True)
    of = lambda what: sum(sample.report[f"{part}_{what}"] for part in ("quantizing", "saving"))
    sample.process_s = sample.wall_s = of("seconds")
    sample.cpu_s = of("cpu_seconds")
    return sample


def gptq(bench: Bench) -> Verdict:
    """Once each, without a warm-up: they take minutes."""
    line, target = "gptq, seconds of the faster peer / ours", f">= {GPTQ_TARGET}"
    blocks = BLOCKS if bench.size >= GIB else QUICK_BLOCKS
    model = bench.data / f"llama-{blocks}"
    if not model.exists():
        bench.make(model, "make_llama.py", lambda out: [out, "--blocks", blocks])
    config = json.loads((model / "config.json").read_text())
    runs = Round({}, {})
    contenders = {"tenpak": lambda: gptq_ours(bench, model)} | {
        name: lambda of=of: gptq_peer(bench, model, *of) for name, of in GPTQ_PEERS.items()
    }
    for name, contender in contenders.items():
        try:
            runs.series[name] = Series([contender()])
        except Unavailable as missing:
            runs.missing[name] = str(missing)
    bench.tables.append((f"GPTQ of {blocks} blocks of {config['hidden_size']}, {SAMPLES} x {LENGTH} tokens", runs))
    best = runs.best(*GPTQ_PEERS)
    if not runs.get("tenpak") or not best:
        return unmeasured(line, target, reason(runs, "tenpak", *GPTQ_PEERS))
    mine, theirs = runs.get("tenpak").median("process_s"), best[1].median("process_s")
    flops = gptq_flops(config)
    speed = bench.peer("sgemm.py", THREADS).report["flops_per_second"]
    parts = ", ".join(f"{name} {count / 1e12:.2f}" for name, count in flops.items())
    limit = (
        f"{sum(flops.values()) / 1e12:.1f} TFLOP ({parts}): {sum(flops.values()) / speed:.1f} s at BLAS's "
        f"{speed / 1e9:.0f} GFLOP/s; ours {mine:.1f} s, {runs.get('tenpak').median('cpu_s'):.1f} CPU s"
    )
    return Verdict(line, target, f"{theirs / mine:.2f} ({best[0]})", theirs / mine >= GPTQ_TARGET, limit)


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


LINES = {
    "produce-encode": lambda bench: [encoding(bench, method) for method in TARGETS],
    "produce-gptq": lambda bench: [gptq(bench)],
    "produce-again": again,
}
