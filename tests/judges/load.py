"""Quantizes a small Llama and loads every result with transformers on the CPU.

For each recipe: transformers loads the checkpoint with the format's own library; the weights that the
library makes of it are, bit for bit, those that `tenpak load --dtype` delivers; and the logits are those
of a model with these weights.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import blake3
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TENPAK = pathlib.Path(__file__).parent.parent.parent / os.environ.get("TENPAK", "target/release/tenpak")
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
# These quantize activations too, so that logits differ by more than the weights do.
ACTIVATIONS = {"w8a8": 0.1, "fp8": 0.25, "int8": 0.1}


def tenpak(*args: str) -> dict:
    done = subprocess.run([str(TENPAK), *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tenpak {' '.join(args)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


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


def tensors(folder: str) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def run_by_the_library(work: str, recipe: str) -> bool:
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
    print(f"{recipe}, run by bitsandbytes itself: {len(theirs) - len(different)} of {len(theirs)} tensors are the same", *different[:3])
    return not different


def gguf(work: str, method: str, plain: torch.nn.Module, limit: float) -> bool:
    """transformers reads the GGUF file as the model that it was made from, within the blocks' error."""
    name = f"judged/{method}"
    tenpak("--store", f"{work}/store", "quantize", f"{work}/model", "--name", name, "--method", method)
    tenpak("--store", f"{work}/store", "unpack", name, "--out", f"{work}/{method}")
    model = AutoModelForCausalLM.from_pretrained(f"{work}/{method}", gguf_file="model.gguf", dtype=torch.float32)
    worst = 0.0
    for layer, own in plain.state_dict().items():
        read = model.state_dict()[layer].float()
        worst = max(worst, ((read - own.float()).norm() / own.float().norm().clamp(min=1e-9)).item())
    print(f"{method}: weights differ by {worst:.4f} at most (at most {limit}): {'good' if worst <= limit else 'BAD'}")
    return worst <= limit


def main() -> int:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=1024, max_position_embeddings=256,
    )
    plain = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    tokens = torch.randint(0, 1024, (2, 64))
    bad = 0
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        plain.save_pretrained(f"{work}/model", max_shard_size="1500KB")
        for recipe, args in RECIPES.items():
            name = f"judged/{recipe}"
            tenpak("--store", f"{work}/store", "quantize", f"{work}/model", "--name", name, *args)
            tenpak("--store", f"{work}/store", "unpack", name, "--out", f"{work}/{recipe}")
            model = AutoModelForCausalLM.from_pretrained(f"{work}/{recipe}", dtype=torch.bfloat16).eval()
            if recipe not in ("nf4", "nf4-double", "int8"):
                model(tokens)  # compressed-tensors makes the weights at the first forward
            reference = LlamaForCausalLM(config).to(torch.bfloat16).eval()
            reference.load_state_dict(plain.state_dict())
            equal = "not read by tenpak yet"
            digests = None
            if recipe != "w8a8":
                loaded = tenpak("--store", f"{work}/store", "load", name, "--dtype", "bf16", "--digest")
                digests = loaded["digests"]
                equal = 0
            for layer, module in model.named_modules():
                own = dict(reference.named_modules()).get(layer)
                if not isinstance(own, torch.nn.Linear) or layer == "lm_head":
                    continue
                weight = weights_of(module, recipe)
                own.weight.data = weight.clone()
                if digests is not None:
                    data = weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                    equal += blake3.blake3(data).hexdigest() == digests[f"{layer}.weight"]
            # Only now: bitsandbytes packs its weights anew at the first forward.
            logits = model(tokens).logits.float()
            expected = reference(tokens).logits.float()
            off = ((logits - expected).norm() / expected.norm()).item()
            limit = ACTIVATIONS.get(recipe, 0.02)
            good = (digests is None or equal == 21) and off <= limit
            bad += not good
            print(f"{recipe}: weights equal: {equal} of 21; logits differ by {off:.4f} (at most {limit}): {'good' if good else 'BAD'}")
        for method, limit in (("q8_0", 0.01), ("q4_0", 0.12), ("q4_k", 0.1)):
            bad += not gguf(work, method, plain, limit)
        # As bitsandbytes adds on one thread.
        os.environ["OMP_NUM_THREADS"] = "1"
        bad += sum(not run_by_the_library(work, recipe) for recipe in ("nf4", "nf4-double", "int8"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
