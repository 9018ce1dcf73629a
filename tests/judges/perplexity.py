"""Perplexity of calibrated quantization beside other tools', over five draws of calibration tokens, the same
for all; every result is measured by the same program.

    cargo build --release --example calibrated_perplexity
    python tests/judges/perplexity.py --gptqmodel PYTHON --llmcompressor PYTHON

Each PYTHON is one of an environment that has the tool (gptqmodel 7.6.0; llmcompressor 0.14.0.1). Prints a
table, and exits with 1 if ours is worse by more than 0.1% than a tool on the mean of the draws.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "fixtures/lm"
SAMPLES, LENGTH, CONTEXT = 128, 256, 256


def gptqmodel(model, runs, out, bits, group, sym):
    # With fewer than three cores it asks its pool for more workers than it has.
    cores = os.cpu_count() or 1
    os.cpu_count = lambda: max(cores, 3)
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=bits, group_size=group, sym=sym)
    loaded = GPTQModel.load(model, config, device="cpu")
    start = time.time()
    loaded.quantize([{"input_ids": run, "attention_mask": [1] * len(run)} for run in runs], batch_size=1)
    seconds = time.time() - start
    loaded.save(out)
    return seconds


def llmcompressor(method):
    def quantize(model, runs, out, bits, group, sym):
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        from datasets import Dataset
        from llmcompressor import oneshot
        from transformers import AutoModelForCausalLM

        # Memory is pinned for a GPU that is not there.
        torch.Tensor.pin_memory = lambda self, *_: self
        weights = QuantizationArgs(num_bits=bits, type="int", symmetric=sym, strategy="group", group_size=group)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        arguments = dict(config_groups={"group_0": scheme}, ignore=["lm_head"])
        if method == "gptq":
            from llmcompressor.modifiers.gptq import GPTQModifier

            recipe = GPTQModifier(**arguments)
        else:
            from llmcompressor.modifiers.awq import AWQModifier

            recipe = AWQModifier(**arguments)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        data = Dataset.from_list([{"input_ids": run, "attention_mask": [1] * len(run)} for run in runs])
        start = time.time()
        oneshot(model=loaded, dataset=data, recipe=recipe, max_seq_length=LENGTH,
                num_calibration_samples=len(runs), shuffle_calibration_samples=False)
        seconds = time.time() - start
        loaded.save_pretrained(out, save_compressed=True)
        return seconds

    return quantize


TOOLS = {"gptqmodel": gptqmodel, "llmcompressor-gptq": llmcompressor("gptq"),
         "llmcompressor-awq": llmcompressor("awq")}


def tool(name, job):
    """One quantization by a tool, in its own environment."""
    job = json.loads(pathlib.Path(job).read_text())
    seconds = TOOLS[name](job["model"], job["runs"], job["out"], job["bits"], job["group"], job["sym"])
    tokenizer = pathlib.Path(job["out"]) / "tokenizer.json"
    tokenizer.write_bytes((pathlib.Path(job["model"]) / "tokenizer.json").read_bytes())
    print(json.dumps({"quantizing_seconds": seconds}))


def measure(model, tokens, text, method, bits, group, sym):
    program = ROOT / "target/release/examples/calibrated_perplexity"
    kind = "sym" if sym else "asym"
    arguments = [program, model, tokens, text, CONTEXT, method, bits, group, kind]
    done = subprocess.run([str(a) for a in arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gptqmodel")
    parser.add_argument("--llmcompressor")
    parser.add_argument("--model", type=pathlib.Path, default=FIXTURE / "base")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    from tokenizers import Tokenizer

    text = (FIXTURE / "calibration.txt").read_text()
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(text).ids
    test, sym = FIXTURE / "test.txt", not args.asym
    scheme = (args.bits, args.group, sym)
    found = {}

    def note(name, result, seconds):
        found.setdefault(name, []).append((result["perplexity"], seconds))
        print(f"{name:20} {result['perplexity']:.4f} {seconds:.2f} s", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        tokens = scratch / "tokens.json"
        for draw in range(args.draws):
            chosen = random.Random(draw)
            starts = [chosen.randrange(len(ids) - LENGTH) for _ in range(SAMPLES)]
            runs = [ids[start:start + LENGTH] for start in starts]
            tokens.write_text(json.dumps(runs))
            for method in ["plain", "rtn", "hqq", "gptq", "gptq-activation", "awq"]:
                result = measure(args.model, tokens, test, method, *scheme)
                note(method, result, result["quantizing_seconds"])
            for name in TOOLS:
                python = args.gptqmodel if name == "gptqmodel" else args.llmcompressor
                if not python:
                    continue
                out, job = scratch / f"{name}-{draw}", scratch / "job.json"
                job.write_text(json.dumps(dict(
                    model=str(args.model), runs=runs, out=str(out), bits=args.bits, group=args.group, sym=sym)))
                done = subprocess.run([python, __file__, "tool", name, str(job)], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
                seconds = json.loads(done.stdout.splitlines()[-1])["quantizing_seconds"]
                note(name, measure(out, tokens, test, "plain", *scheme), seconds)
    mean = {name: statistics.mean(p for p, _ in all) for name, all in found.items()}
    print(f"\n{args.bits} bits, groups of {args.group}, {'symmetric' if sym else 'asymmetric'}; means of {args.draws} draws")
    for name, value in mean.items():
        seconds = statistics.median(s for _, s in found[name])
        print(f"{name:20} {value:.4f}  {100 * (value / mean['plain'] - 1):+.2f}%  {seconds:.2f} s")
    failed = False
    for name, value in mean.items():
        ours = {"gptqmodel": "gptq", "llmcompressor-gptq": "gptq", "llmcompressor-awq": "awq"}.get(name)
        if ours and mean[ours] > value * 1.001:
            print(f"{ours} is {100 * (mean[ours] / value - 1):.2f}% worse than {name}")
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["tool"]:
        tool(*sys.argv[2:])
    else:
        main()
