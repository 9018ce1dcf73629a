"""Loads what `quantize` writes in the GPTQ and AWQ formats with transformers and GPTQModel's kernels for the CPU.

Run by the environment that has GPTQModel. The weights that the stored tensors stand for are worked out here,
and are, bit for bit, those that `tenpak load --dtype f32` delivers; the logits of the loaded model are those of
a model with these weights, within what its kernels lose: they compute in f16 or bf16.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

# With fewer than three cores it asks its pool for more workers than it has.
cores = os.cpu_count() or 1
os.cpu_count = lambda: max(cores, 3)

import blake3
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENPAK = ROOT / os.environ.get("TENPAK", "target/release/tenpak")
MODEL = ROOT / "fixtures/lm/base"
RECIPES = {
    "gptq, act order": ["--preset", "gptq_quality"],
    "gptq, g64": ["--preset", "gptq_fast"],
    "gptq, zero points": ["--method", "gptq", "--asymmetric"],
    "gptq, 8 bits": ["--method", "gptq", "--bits", "8"],
    "gptq, 3 bits": ["--preset", "gptq_aggressive"],
    "gptq_v2": ["--method", "gptq", "--format", "gptq_v2"],
    "awq": ["--preset", "awq_balanced"],
    "awq, g64": ["--preset", "awq_fast"],
}
LIMIT = 0.01  # of the logits' norm
FEW = ["--samples", "8", "--sample-length", "128"]


def tenpak(*args):
    done = subprocess.run([str(TENPAK), *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tenpak {' '.join(args)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def bits_of(words, bits, dim):
    """Codes of so many bits along a dimension of int32 words, the lowest first; they may straddle words."""
    words = words.movedim(dim, -1).contiguous()
    planes = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    planes = planes.flatten(-2).unflatten(-1, (-1, bits))
    codes = (planes << torch.arange(bits, dtype=torch.int32)).sum(-1)
    return codes.movedim(-1, dim)


def gptq(part, config):
    """https://github.com/AutoGPTQ/AutoGPTQ: w = scale * (code - (zero + 1)), v2 without the 1; columns by g_idx."""
    bits = config["bits"]
    codes = bits_of(part["qweight"], bits, 0)
    zeros = bits_of(part["qzeros"], bits, 1)[:, : codes.shape[1]]
    zeros = zeros + (0 if config.get("checkpoint_format") == "gptq_v2" else 1)
    at = part["g_idx"].long()
    return (part["scales"].float()[at] * (codes - zeros[at]).float()).t()


def awq(part, config):
    """GEMM: eight columns to a word, in the order 0 2 4 6 1 3 5 7; w = scale * (code - zero)."""
    def columns(words):
        shifts = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]) * 4
        return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)
    group = config["group_size"]
    codes, zeros = columns(part["qweight"]), columns(part["qzeros"])
    zeros, scales = (x.repeat_interleave(group, 0) for x in (zeros, part["scales"].float()))
    return (scales * (codes - zeros).float()).t()


def main():
    text = (ROOT / "fixtures/lm/test.txt").read_text()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"))
    tokens = torch.tensor([tokenizer(text)["input_ids"][:256]])
    bad = 0
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        store = ["--store", f"{work}/store"]
        for number, (recipe, args) in enumerate(RECIPES.items()):
            name, out = f"q{number}", f"{work}/q{number}"
            tenpak(*store, "quantize", str(MODEL), "--name", name, *args, *FEW)
            tenpak(*store, "unpack", name, "--out", out)
            digests = tenpak(*store, "load", name, "--dtype", "f32", "--digest")["digests"]
            config = json.loads((pathlib.Path(out) / "config.json").read_text())["quantization_config"]
            stored = {}
            for path in pathlib.Path(out).glob("*.safetensors"):
                with safe_open(path, "pt") as file:
                    stored |= {key: file.get_tensor(key) for key in file.keys()}
            reference = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
            own, equal, layers = dict(reference.named_parameters()), 0, 0
            for key, tensor in stored.items():
                if key in own:
                    own[key].data = tensor.float()
                if key.endswith(".qweight"):
                    layer = key.removesuffix(".qweight")
                    part = {k: stored[f"{layer}.{k}"] for k in ("qweight", "qzeros", "scales", "g_idx") if f"{layer}.{k}" in stored}
                    weight = (awq if config["quant_method"] == "awq" else gptq)(part, config).contiguous()
                    own[f"{layer}.weight"].data = weight
                    layers += 1
                    equal += blake3.blake3(weight.numpy().tobytes()).hexdigest() == digests[f"{layer}.weight"]
            model = AutoModelForCausalLM.from_pretrained(out, device_map="cpu", dtype=torch.float16).eval()
            kernels = sorted({type(module).__name__ for module in model.modules() if hasattr(module, "qweight")})
            logits = model(tokens).logits.float()
            expected = reference(tokens).logits
            off = ((logits - expected).norm() / expected.norm()).item()
            good = equal == layers == 21 and off <= LIMIT and kernels
            bad += not good
            print(f"{recipe}: weights equal: {equal} of {layers}; by {', '.join(kernels)}, logits differ by {off:.4f} "
                  f"(at most {LIMIT}): {'good' if good else 'BAD'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
