"""Every tool of `--backend`, run for real on the fixture model: what it writes is packed and named, a layer that
is skipped is not quantized, and the result predicts nearly as well as the model did.

GPTQModel, llm-compressor and AutoAWQ lie in .venv-tools (tests/judges/tools.sh), bitsandbytes in .venv-judges.
"""

import fnmatch
import os
import sys
import tempfile

from ours import FIXTURE, ROOT, Verdicts, tenpak

# One of those that share an input: llm-compressor's AWQ divides by zero where all of them are left out.
SKIPPED = "model.layers.1.self_attn.q_proj.weight"
# AutoAWQ skips a layer of every block or of none, and none that it takes others' inputs from, as it does from q_proj.
SKIPS = {"autoawq": "model.layers.*.self_attn.v_proj.weight"}
REFUSED = {
    SKIPPED: "name it in all blocks",
    "model.layers.*.self_attn.q_proj.weight": "takes the inputs of the layers beside it from it",
}
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


def quantize(store, name, tool, environment, args, skip):
    return tenpak(
        *store, "quantize", FIXTURE / "base", "--name", name, *args, "--backend", tool, "--python",
        ROOT / environment / "bin/python", "--skip", skip, *CALIBRATION,
    )


def judge(store, name, what, run, before, verdict):
    tool, environment, args, limit = run
    exact, plain = before
    skip = SKIPS.get(tool, SKIPPED)
    made = quantize(store, name, tool, environment, args, skip)
    cost = perplexity(store, name) / exact - 1
    after = tenpak(*store, "load", name, "--digest")["digests"]
    skipped = fnmatch.filter(plain, skip)
    # AWQ scales them with the others.
    kept = [layer for layer in skipped if after.get(layer) == plain[layer] or layer in after and "awq" in args]
    verdict(cost <= limit and kept == skipped != [],
            f"{what}, version {made['quantization']['tool_version']}: perplexity {100 * cost:+.2f}% (at most {100 * limit:+.1f}%), "
            f"{len(kept)} of {len(skipped)} skipped layers kept, in {made['seconds']:.0f} s")


def perplexity(store, name):
    return tenpak(*store, "eval", "ppl", name, "--text", FIXTURE / "test.txt", "--context", "256")["perplexity"]


def main():
    wanted = sys.argv[1:]
    verdict = Verdicts()
    # Two threads that wait for each other in small products take ten times as long as one.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        store = ["--store", f"{work}/store"]
        tenpak(*store, "pack", FIXTURE / "base", "--name", "base")
        before = perplexity(store, "base"), tenpak(*store, "load", "base", "--digest")["digests"]
        for number, run in enumerate(RUNS):
            tool, what = run[0], f"{run[0]} {run[2][1]}"
            if not wanted or tool in wanted:
                with verdict.about(what):
                    judge(store, f"q{number}", what, run, before, verdict)
        if not wanted or "autoawq" in wanted:
            for skip, why in REFUSED.items():
                try:
                    quantize(store, "refused", *RUNS[-1][:3], skip)
                    verdict(False, f"autoawq, --skip {skip}: not refused")
                except RuntimeError as error:
                    verdict(why in str(error), f"autoawq, --skip {skip}: {str(error).splitlines()[-1]}")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
