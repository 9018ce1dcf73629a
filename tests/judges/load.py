"""Quantizes small Llamas and loads every result with transformers on the CPU.

For each recipe: transformers loads the checkpoint with the format's own library; the weights that the
library makes of it are, bit for bit, those that `tenpak load --dtype` delivers; and the logits are those
of a model with these weights.
"""

import json
import os
import pathlib
import sys
import tempfile

import blake3
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ours import FIXTURE, Verdicts, off, tenpak, tensors

FEW = ["--samples", "8", "--sample-length", "128"]
RECIPES = {
    "nf4": ["--preset", "bnb_nf4"],
    "nf4-double": ["--preset", "nf4_double"],
    "int8": ["--preset", "bnb_int8"],
    "int4-g128": ["--method", "rtn"],
    # Asymmetric codes are left out: compressed-tensors 0.20 builds the model it loads into with zero
    # points that are not packed, and so refuses its own checkpoints.
    "int4-g64": ["--method", "rtn", "--group-size", "64"],
    "int3-row": ["--method", "rtn", "--bits", "3", "--group-size", "-1"],
    "w8a8": ["--method", "rtn", "--bits", "8", "--group-size", "-1"],
    "fp8": ["--method", "fp8"],
}
# Layers of different bits, by what the fixture model's predictions depend on.
MIXED = {
    "mixed-4.00": ["--method", "rtn", "--group-size", "64", "--average-bits", "4", *FEW],
    "mixed-3.25": ["--method", "rtn", "--group-size", "64", "--average-bits", "3.25", *FEW],
}
BITSANDBYTES = ("nf4", "nf4-double", "int8")
# These quantize activations too, so that logits differ by more than the weights do.
ACTIVATIONS = {"w8a8": 0.1, "fp8": 0.25, "int8": 0.1}


def weights_of(module: torch.nn.Module, recipe: str) -> torch.Tensor:
    """The weight that the format's library computes with, in the model's type."""
    if recipe.startswith("nf4"):
        import bitsandbytes.functional as bnb

        return bnb.dequantize_4bit(module.weight.data, module.weight.quant_state).to(torch.bfloat16)
    if recipe == "int8":
        import bitsandbytes.functional as bnb

        weight = module.weight
        scb = weight.SCB if getattr(weight, "SCB", None) is not None else module.state.SCB
        return bnb.int8_vectorwise_dequant(weight.data, scb).to(torch.bfloat16)
    return module.weight.data


def run_by_the_library(work: str, recipe: str, verdict: Verdicts) -> None:
    """The same through `--backend bitsandbytes`: every stored tensor is the same."""
    name = f"library/{recipe}"
    tenpak("--store", f"{work}/store", "quantize", f"{work}/model", "--name", name, *RECIPES[recipe],
           "--backend", "bitsandbytes", "--python", sys.executable)
    tenpak("--store", f"{work}/store", "unpack", name, "--out", f"{work}/library-{recipe}")
    own, theirs = tensors(f"{work}/{recipe}"), tensors(f"{work}/library-{recipe}")
    different = sorted(own.keys() ^ theirs.keys()) + [
        name for name in own.keys() & theirs.keys()
        if own[name].dtype != theirs[name].dtype or own[name].shape != theirs[name].shape
        or not torch.equal(own[name], theirs[name])
    ]
    verdict(not different, f"{recipe}, run by bitsandbytes itself: {len(theirs) - len(different)} of {len(theirs)} tensors are the same"
            + "".join(f", not {name}" for name in different[:3]))


def judge(work: str, source: str, recipe: str, args: list[str], verdict: Verdicts) -> None:
    name = f"judged/{recipe}"
    made = tenpak("--store", f"{work}/store", "quantize", source, "--name", name, *args)
    tenpak("--store", f"{work}/store", "unpack", name, "--out", f"{work}/{recipe}")
    digests = tenpak("--store", f"{work}/store", "load", name, "--dtype", "bf16", "--digest")["digests"]
    model = AutoModelForCausalLM.from_pretrained(f"{work}/{recipe}", dtype=torch.bfloat16).eval()
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    tokens = torch.randint(0, model.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(1))
    if recipe not in BITSANDBYTES:
        model(tokens)  # compressed-tensors makes the weights at the first forward
    layers = {name: module for name, module in reference.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"}
    equal = 0
    for layer, own in layers.items():
        weight = weights_of(model.get_submodule(layer), recipe)
        own.weight.data = weight.clone()
        data = weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        equal += blake3.blake3(data).hexdigest() == digests[f"{layer}.weight"]
    # Only now: bitsandbytes packs its weights anew at the first forward.
    config = json.loads(pathlib.Path(work, recipe, "config.json").read_text())["quantization_config"]
    mixes = recipe not in MIXED or len(config["config_groups"]) > 1
    differ, limit = off(model(tokens).logits, reference(tokens).logits), ACTIVATIONS.get(recipe, 0.02)
    verdict(equal == len(layers) == 21 and differ <= limit and mixes,
            f"{recipe}, {made['average_bits']:.2f} bits: weights equal: {equal} of {len(layers)}; logits differ by {differ:.4f} (at most {limit})")


def main() -> int:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=1024, max_position_embeddings=256,
    )
    verdict = Verdicts()
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(f"{work}/model", max_shard_size="1500KB")
        for recipe, args in RECIPES.items():
            with verdict.about(recipe):
                judge(work, f"{work}/model", recipe, args, verdict)
        for recipe, args in MIXED.items():
            with verdict.about(recipe):
                judge(work, str(FIXTURE / "base"), recipe, args, verdict)
        # As bitsandbytes adds on one thread.
        os.environ["OMP_NUM_THREADS"] = "1"
        for recipe in BITSANDBYTES:
            with verdict.about(f"{recipe}, run by bitsandbytes itself"):
                run_by_the_library(work, recipe, verdict)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
