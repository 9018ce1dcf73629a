"""Reads the GGUF files that `quantize` writes as transformers does (`gguf_file=`), by the gguf package.

The weights that transformers makes of the blocks are, bit for bit, those that `tenpak load --dtype f32`
delivers, under the file's names and in its order of rows; the logits are those of a model with these weights and the original config, so that what the file
says of the model is right as well; its tokenizer gives the same tokens.
"""

import os
import sys
import tempfile

import blake3
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ours import FIXTURE, Verdicts, off, tenpak

MODEL = FIXTURE / "base"
# What rounding may change of a weight, as a share of its norm.
METHODS = {"q8_0": 0.01, "q4_0": 0.12, "q4_k": 0.1}
LIMIT = 1e-5  # of the logits' norm: both compute in f32


def in_file(weight, layer, config):
    """Rows as llama.cpp's converter orders them (convert_hf_to_gguf.py, permute): halves of a head become pairs."""
    if not layer.endswith(("q_proj", "k_proj")):
        return weight
    heads = config.num_attention_heads if layer.endswith("q_proj") else config.num_key_value_heads
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def judge(store, work, method, rounding, text, verdict):
    out = f"{work}/{method}"
    tenpak(*store, "quantize", MODEL, "--name", method, "--method", method)
    tenpak(*store, "unpack", method, "--out", out)
    file = f"model-{method.upper()}.gguf"
    digests = tenpak(*store, "load", method, "--dtype", "f32", "--digest")["digests"]
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=file, dtype=torch.float32).eval()
    reference = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    theirs, own = dict(model.named_parameters()), dict(reference.named_parameters())
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    equal, rounded = 0, 0.0
    for name, weight in theirs.items():
        layer = name.removesuffix(".weight")
        data = in_file(weight.data, layer, model.config).contiguous().numpy().tobytes()
        equal += blake3.blake3(data).hexdigest() == digests[f"{names.get_name(layer)}.weight"]
        rounded = max(rounded, off(weight, own[name]))
        own[name].data = weight.data.clone()
    original = PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"))
    tokens = original(text)["input_ids"]
    same = AutoTokenizer.from_pretrained(out, gguf_file=file)(text, add_special_tokens=False)["input_ids"] == tokens
    ids = torch.tensor([tokens[:256]])
    differ = off(model(ids).logits, reference(ids).logits)
    verdict(equal == len(theirs) == len(own) and rounded <= rounding and differ <= LIMIT and same,
            f"{method}: weights equal: {equal} of {len(theirs)}, {rounded:.4f} from the model's (at most {rounding}); logits differ by {differ:.1e} (at most {LIMIT:.0e}); "
            f"tokens are {'the same' if same else 'OTHERS'}")


def main():
    text = (FIXTURE / "test.txt").read_text()[:20_000]
    verdict = Verdicts()
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        os.environ["XDG_STATE_HOME"] = f"{work}/state"
        for method, rounding in METHODS.items():
            with verdict.about(method):
                judge(["--store", f"{work}/store"], work, method, rounding, text, verdict)
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
