"""Loads what `quantize` writes in the GPTQ and AWQ formats with transformers and GPTQModel's kernels for the CPU.

Run by the environment that has GPTQModel. The weights that the stored tensors stand for are worked out here,
and are, bit for bit, those that `tenpak load --dtype f32` delivers; the logits of the loaded model are those of
a model with these weights, within what its kernels lose: they compute in f16 or bf16.
"""

import json
import os
import pathlib
import re
import sys
import tempfile

# With fewer than three cores it asks its pool for more workers than it has.
cores = os.cpu_count() or 1
os.cpu_count = lambda: max(cores, 3)

import blake3
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ours import FIXTURE, Verdicts, off, tenpak, tensors

MODEL = FIXTURE / "base"
RECIPES = {
    "gptq": ["--preset", "gptq_quality"],
    "gptq, act order": ["--method", "gptq", "--act-order", "group"],
    "gptq, g64": ["--preset", "gptq_fast"],
    "gptq, zero points": ["--method", "gptq", "--asymmetric"],
    "gptq, 8 bits": ["--method", "gptq", "--bits", "8"],
    "gptq, 3 bits": ["--preset", "gptq_aggressive"],
    "gptq_v2": ["--method", "gptq", "--format", "gptq_v2"],
    # Of 2, 3, 4 and 8 bits.
    "gptq, mixed": ["--method", "gptq", "--group-size", "64", "--average-bits", "3.5"],
    "gptq, mixed with 8": ["--method", "gptq", "--group-size", "64", "--average-bits", "5"],
    "awq": ["--preset", "awq_balanced"],
    "awq, g64": ["--preset", "awq_fast"],
}
LIMIT = 0.01  # of the logits' norm
FEW = ["--samples", "8", "--sample-length", "128"]


def bits_of(words, bits, dim):
    """Codes of so many bits along a dimension of int32 words, the lowest first; they may straddle words."""
    words = words.movedim(dim, -1).contiguous()
    planes = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    planes = planes.flatten(-2).unflatten(-1, (-1, bits))
    codes = (planes << torch.arange(bits, dtype=torch.int32)).sum(-1)
    return codes.movedim(-1, dim)


def gptq(layer, part, config):
    """https://github.com/AutoGPTQ/AutoGPTQ: w = scale * (code - (zero + 1)), v2 without the 1; columns by g_idx."""
    rules = config.get("dynamic", {}).items()
    own = [rule["bits"] for name, rule in rules if name.startswith("+:") and re.match(name[2:], layer)]
    bits = own[0] if own else config["bits"]
    codes = bits_of(part["qweight"], bits, 0)
    zeros = bits_of(part["qzeros"], bits, 1)[:, : codes.shape[1]]
    zeros = zeros + (0 if config.get("checkpoint_format") == "gptq_v2" else 1)
    at = part["g_idx"].long()
    return (part["scales"].float()[at] * (codes - zeros[at]).float()).t()


def awq(_, part, config):
    """GEMM: eight columns to a word, in the order 0 2 4 6 1 3 5 7; w = scale * (code - zero)."""
    def columns(words):
        shifts = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]) * 4
        return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)
    group = config["group_size"]
    codes, zeros = columns(part["qweight"]), columns(part["qzeros"])
    zeros, scales = (x.repeat_interleave(group, 0) for x in (zeros, part["scales"].float()))
    return (scales * (codes - zeros).float()).t()


def opened(out, config):
    # transformers, by optimum, knows one number of bits for all layers.
    if "dynamic" in config:
        from gptqmodel import GPTQModel

        return GPTQModel.load(out, device="cpu", dtype=torch.float16).model.eval()
    return AutoModelForCausalLM.from_pretrained(out, device_map="cpu", dtype=torch.float16).eval()


def judge(store, work, recipe, args, tokens, verdict):
    name, out = recipe.replace(",", "").replace(" ", "-"), f"{work}/{recipe}"
    made = tenpak(*store, "quantize", MODEL, "--name", name, *args, *FEW)
    tenpak(*store, "unpack", name, "--out", out)
    digests = tenpak(*store, "load", name, "--dtype", "f32", "--digest")["digests"]
    config = json.loads((pathlib.Path(out) / "config.json").read_text())["quantization_config"]
    stored = tensors(out)
    reference = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    own, equal, layers = dict(reference.named_parameters()), 0, 0
    for key, tensor in stored.items():
        if key in own:
            own[key].data = tensor.float()
        if key.endswith(".qweight"):
            layer = key.removesuffix(".qweight")
            part = {k: stored[f"{layer}.{k}"] for k in ("qweight", "qzeros", "scales", "g_idx") if f"{layer}.{k}" in stored}
            weight = (awq if config["quant_method"] == "awq" else gptq)(layer, part, config).contiguous()
            own[f"{layer}.weight"].data = weight
            layers += 1
            equal += blake3.blake3(weight.numpy().tobytes()).hexdigest() == digests[f"{layer}.weight"]
    model = opened(out, config)
    mixes = "dynamic" in config or "mixed" not in recipe
    kernels = sorted({type(module).__name__ for module in model.modules() if hasattr(module, "qweight")})
    differ = off(model(tokens).logits, reference(tokens).logits)
    verdict(equal == layers == 21 and differ <= LIMIT and kernels and mixes,
            f"{recipe}, {made['average_bits']:.2f} bits: weights equal: {equal} of {layers}; by {', '.join(kernels)}, logits "
            f"differ by {differ:.4f} (at most {LIMIT})")


def main():
    text = (FIXTURE / "test.txt").read_text()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"))
    tokens = torch.tensor([tokenizer(text)["input_ids"][:256]])
    verdict = Verdicts()
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        for recipe, args in RECIPES.items():
            with verdict.about(recipe):
                judge(["--store", f"{work}/store"], work, recipe, args, tokens, verdict)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
