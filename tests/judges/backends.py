"""Every tool of `--backend`, run for real on the fixture model: what it writes is packed and named, a layer that
is skipped is not quantized, and the result predicts nearly as well as the model did.

GPTQModel, llm-compressor and AutoAWQ lie in .venv-tools (tests/judges/tools.sh), bitsandbytes in .venv-judges.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENPAK = ROOT / os.environ.get("TENPAK", "target/release/tenpak")
FIXTURE = ROOT / "fixtures/lm"
# AutoAWQ skips a layer of every block or of none. One of those that share an input: llm-compressor's AWQ divides by zero where all of them are left out.
SKIPPED = "model.layers.1.self_attn.q_proj.weight"
# The tool, the environment that has it, its methods, and what perplexity may rise by.
RUNS = [
    ("bitsandbytes", ".venv-judges", ["--preset", "bnb_nf4"], 0.02),
    ("bitsandbytes", ".venv-judges", ["--preset", "bnb_int8"], 0.005),
    ("gptqmodel", ".venv-tools/gptqmodel", ["--method", "gptq"], 0.02),
    ("llm-compressor", ".venv-tools/llmcompressor", ["--method", "gptq"], 0.02),
    ("llm-compressor", ".venv-tools/llmcompressor", ["--method", "rtn"], 0.04),
    ("llm-compressor", ".venv-tools/llmcompressor", ["--method", "fp8"], 0.005),
    ("llm-compressor", ".venv-tools/llmcompressor", ["--method", "awq"], 0.03),
    ("autoawq", ".venv-tools/autoawq", ["--method", "awq"], 0.03),
]
CALIBRATION = ["--calibration", str(FIXTURE / "calibration.txt"), "--samples", "32", "--sample-length", "256"]


def tenpak(*args):
    done = subprocess.run([str(TENPAK), *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1500:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    wanted = sys.argv[1:]
    bad = 0
    # Two threads that wait for each other in small products take ten times as long as one.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        store = ["--store", f"{work}/store"]
        perplexity = lambda name: tenpak(
            *store, "eval", "ppl", name, "--text", str(FIXTURE / "test.txt"), "--context", "256")["perplexity"]
        tenpak(*store, "pack", str(FIXTURE / "base"), "--name", "base")
        exact, plain = perplexity("base"), tenpak(*store, "load", "base", "--digest")["digests"]
        for number, (tool, environment, args, limit) in enumerate(RUNS):
            if wanted and tool not in wanted:
                continue
            name, what = f"q{number}", f"{tool} {args[1]}"
            try:
                made = tenpak(*store, "quantize", str(FIXTURE / "base"), "--name", name, *args, "--backend", tool,
                              "--python", str(ROOT / environment / "bin/python"), "--skip", SKIPPED.replace("1", "*") if tool == "autoawq" else SKIPPED, *CALIBRATION)
                cost = perplexity(name) / exact - 1
                kept = tenpak(*store, "load", name, "--digest")["digests"].get(SKIPPED)
                # AWQ scales it with the others.
                stays = kept is not None and (kept == plain[SKIPPED] or "awq" in args)
                version = made["quantization"]["tool_version"]
                good = cost <= limit and stays
                print(f"{what}, version {version}: perplexity {100 * cost:+.2f}% (at most {100 * limit:+.1f}%), the skipped "
                      f"layer is {'kept' if stays else 'NOT KEPT'}, in {made['seconds']:.0f} s: {'good' if good else 'BAD'}",
                      flush=True)
            except RuntimeError as error:
                good = False
                print(f"{what}: BAD: {error}", flush=True)
            bad += not good
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
