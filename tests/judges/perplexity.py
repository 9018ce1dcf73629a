"""Perplexity of calibrated quantization beside other tools', over draws of calibration tokens, the same for
all; every result is measured by the same program.

    tests/judges/tools.sh
    cargo build --release --example calibrated_perplexity
    .venv-judges/bin/python tests/judges/perplexity.py [--draws N] [--tool NAME]... [--anew]

GPTQ is symmetric, AWQ has zero points, as the tools' own presets are; GPTQ's columns are in the same order on
both sides. Prints a table, and exits with 1 if ours is worse by more than 0.1% than a tool on the mean of the
draws, or GPTQ with static ordering by more than 0.3% than with groups made in that order (`--act-order group`).

What another tool made of a draw takes minutes and stays the same: its perplexity is kept in draws.json beside
this file, under all that it follows from, so that a run that was ended goes on. Ours is measured every time.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from ours import FIXTURE, ROOT, Verdicts

SAMPLES, LENGTH, CONTEXT = 128, 256, 256
# The tool, the environment that has it, what of ours it is compared with, and whether it is symmetric.
TOOLS = {
    "gptqmodel": ("gptqmodel", "gptq-group-aware", True),
    "gptqmodel-static": ("gptqmodel", "gptq", True),
    "llmcompressor-gptq": ("llmcompressor", "gptq", True),
    "llmcompressor-awq": ("llmcompressor", "awq", False),
}
OURS = [
    ("plain", True), ("rtn", True), ("gptq", True), ("gptq-activation", True), ("gptq-group-aware", True),
    ("rtn", False), ("awq", False),
]
WORSE = 0.001
WORSE_THAN_GROUP = 0.003
DRIVER = pathlib.Path(__file__).with_name("calibrate.py")
KEPT = pathlib.Path(__file__).with_name("draws.json")


def last_object(command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{command[:3]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(model, tokens, method, bits, group, sym):
    program = ROOT / "target/release/examples/calibrated_perplexity"
    kind = "sym" if sym else "asym"
    return last_object([program, model, tokens, FIXTURE / "test.txt", CONTEXT, method, bits, group, kind])


def named(method, sym):
    return method if method == "plain" else f"{method}, {'sym' if sym else 'asym'}"


def key(name, job, installed):
    """Of the tool, its versions, how it is driven, the model, the tokens and the numbers."""
    model = sorted(path for path in pathlib.Path(job["model"]).iterdir() if path.is_file())
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in [DRIVER, *model]]
    numbers = {k: v for k, v in job.items() if k not in ("model", "out")}
    return hashlib.sha256(json.dumps([name, installed, digests, numbers], sort_keys=True).encode()).hexdigest()


def keep(kept):
    partial = KEPT.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.rename(KEPT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", action="append", choices=TOOLS)
    parser.add_argument("--model", type=pathlib.Path, default=FIXTURE / "base")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--anew", action="store_true", help="take nothing from draws.json")
    args = parser.parse_args()
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode((FIXTURE / "calibration.txt").read_text()).ids
    kept = json.loads(KEPT.read_text()) if KEPT.exists() and not args.anew else {}
    found = {}

    def note(draw, name, perplexity, seconds, how=""):
        found.setdefault(name, []).append(perplexity)
        print(f"draw {draw}  {name:22} {perplexity:.4f}  {seconds:.1f} s{how}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        tokens, job = scratch / "tokens.json", scratch / "job.json"
        for draw in range(args.draws):
            chosen = random.Random(draw)
            starts = [chosen.randrange(len(ids) - LENGTH) for _ in range(SAMPLES)]
            runs = [ids[start:start + LENGTH] for start in starts]
            tokens.write_text(json.dumps(runs))
            for method, sym in OURS:
                got = measure(args.model, tokens, method, args.bits, args.group, sym)
                note(draw, named(method, sym), got["perplexity"], got["quantizing_seconds"])
            for name in args.tool or TOOLS:
                environment, _, sym = TOOLS[name]
                out, place = scratch / f"{name}-{draw}", ROOT / ".venv-tools" / environment
                work = dict(
                    model=str(args.model), out=str(out), runs=runs, bits=args.bits, group=args.group, sym=sym,
                    dtype="float32", batch=16,
                )
                # The packages; where torch lies, the first word, changes nothing.
                under = key(name, work, (place / ".installed").read_text().split(maxsplit=1)[1])
                if under in kept:
                    note(draw, name, kept[under]["perplexity"], kept[under]["seconds"], ", kept")
                    continue
                job.write_text(json.dumps(work))
                # Two threads that wait for each other in small products take ten times as long as one.
                done = last_object([place / "bin/python", DRIVER, name, job], env=os.environ | {"OMP_NUM_THREADS": "1"})
                got = measure(out, tokens, "plain", args.bits, args.group, sym)
                kept[under] = dict(tool=name, draw=draw, perplexity=got["perplexity"], seconds=done["quantizing_seconds"])
                keep(kept)
                note(draw, name, got["perplexity"], done["quantizing_seconds"])
    mean = {name: statistics.mean(all) for name, all in found.items()}
    print(f"\n{args.bits} bits, groups of {args.group}; means of {args.draws} draws of {SAMPLES} x {LENGTH} tokens")
    for name, value in mean.items():
        print(f"{name:22} {value:.4f}  {100 * (value / mean['plain'] - 1):+.2f}%")
    verdict = Verdicts()
    for name in args.tool or TOOLS:
        _, method, sym = TOOLS[name]
        ours = mean[named(method, sym)] / mean[name] - 1
        verdict(ours <= WORSE, f"{method} beside {name}: {100 * ours:+.3f}% (at most {100 * WORSE:+.1f}%)")
    static, group = (mean[named(method, True)] for method in ("gptq", "gptq-activation"))
    verdict(static / group - 1 <= WORSE_THAN_GROUP,
            f"gptq, static beside group: {100 * (static / group - 1):+.3f}% (at most {100 * WORSE_THAN_GROUP:+.1f}%)")
    sys.exit(verdict.end())


if __name__ == "__main__":
    main()
