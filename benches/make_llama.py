"""A Llama that programs can run, of seeded weights: the blocks of `make_model.py`, all alike, behind the
vocabulary and the tokenizer of the fixture model. What calibrated quantization is timed on.

Twelve blocks are 1 GiB of bf16 in the layers that are quantized.
"""

import argparse
import pathlib
import shutil

from make_model import GEOMETRIES, layer_tensors, write_json, write_shard

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = REPOSITORY / "fixtures/lm/base"
VOCABULARY = 2048
SEED = 11


def make_llama(out: pathlib.Path, blocks: int) -> None:
    hidden, inter, _, kv = GEOMETRIES["full"]
    tensors = [("model.embed_tokens.weight", (VOCABULARY, hidden))]
    for index in range(blocks):
        tensors += layer_tensors(index, hidden, inter, kv)
    tensors.append(("model.norm.weight", (hidden,)))
    out.mkdir(parents=True, exist_ok=True)
    write_shard(out / "model.safetensors", tensors, SEED, 0)
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inter,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": hidden // 64,
        "num_hidden_layers": blocks,
        "num_key_value_heads": kv // 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
    })
    shutil.copyfile(FIXTURE / "tokenizer.json", out / "tokenizer.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--blocks", type=int, default=12)
    args = parser.parse_args()
    make_llama(args.out, args.blocks)
