"""Writes a synthetic bf16 model whose weights have realistic statistics.

Names and shapes are a Llama's; every row of a matrix is normal with its own
lognormal scale, so a codec finds the entropy that real weights have and a
chunker finds no repetition. The same arguments give the same bytes on every
machine with the same numpy; memory stays at a few blocks whatever the size.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

GIB = 1 << 30
BLOCK_VALUES = 1 << 21
ROW_SCALE_SIGMA = 0.35
WEIGHT_STD = 0.02

# hidden, intermediate, vocabulary, key-value width; depth follows from the size
GEOMETRIES = {
    "full": (2048, 5632, 32000, 512),
    "small": (256, 704, 4096, 128),
}


def layer_tensors(index: int, hidden: int, inter: int, kv: int) -> list[tuple[str, tuple[int, ...]]]:
    p = f"model.layers.{index}."
    return [
        (p + "input_layernorm.weight", (hidden,)),
        (p + "mlp.down_proj.weight", (hidden, inter)),
        (p + "mlp.gate_proj.weight", (inter, hidden)),
        (p + "mlp.up_proj.weight", (inter, hidden)),
        (p + "post_attention_layernorm.weight", (hidden,)),
        (p + "self_attn.k_proj.weight", (kv, hidden)),
        (p + "self_attn.o_proj.weight", (hidden, hidden)),
        (p + "self_attn.q_proj.weight", (hidden, hidden)),
        (p + "self_attn.v_proj.weight", (kv, hidden)),
    ]


def values(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def plan(size: int) -> tuple[list[tuple[str, tuple[int, ...]]], dict]:
    """Tensors of about `size` bytes: whole layers, the last one's MLP narrowed to fit."""
    hidden, inter, vocab, kv = GEOMETRIES["full" if size >= GIB // 2 else "small"]
    tensors = [("model.embed_tokens.weight", (vocab, hidden))]
    tail = [("model.norm.weight", (hidden,)), ("lm_head.weight", (vocab, hidden))]
    fixed = 2 * sum(values(s) for _, s in tensors + tail)
    per_layer = 2 * sum(values(s) for _, s in layer_tensors(0, hidden, inter, kv))
    layers = max(1, (size - fixed) // per_layer)
    for index in range(layers):
        tensors += layer_tensors(index, hidden, inter, kv)
    # What is left goes to one more layer with a narrower MLP, in multiples of 64.
    attention = 2 * sum(values(s) for n, s in layer_tensors(0, hidden, 0, kv))
    left = size - fixed - layers * per_layer - attention
    narrow = left // (6 * hidden) // 64 * 64
    if narrow > 0:
        tensors += layer_tensors(layers, hidden, narrow, kv)
        layers += 1
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inter,
        "model_type": "llama",
        "num_attention_heads": hidden // 64,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv // 64,
        "torch_dtype": "bfloat16",
        "vocab_size": vocab,
    }
    return tensors + tail, config


def to_bf16(block: np.ndarray) -> np.ndarray:
    """Round to nearest even, as frameworks do."""
    bits = block.view(np.uint32)
    bits += ((bits >> 16) & 1) + 0x7FFF
    return (bits >> 16).astype("<u2")


def write_weights(out, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    if len(shape) == 1:
        block = 1 + 0.1 * rng.standard_normal(shape, dtype=np.float32)
        out.write(to_bf16(block.astype(np.float32)).tobytes())
        return
    rows, width = shape
    step = max(1, BLOCK_VALUES // width)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        scale = WEIGHT_STD * np.exp(ROW_SCALE_SIGMA * rng.standard_normal((count, 1), dtype=np.float32))
        block = rng.standard_normal((count, width), dtype=np.float32)
        block *= scale
        out.write(to_bf16(block).tobytes())


def write_shard(path: pathlib.Path, tensors: list[tuple[str, tuple[int, ...]]], seed: int, base: int) -> int:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + 2 * values(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as out:
        out.write(len(encoded).to_bytes(8, "little"))
        out.write(encoded)
        for index, (_, shape) in enumerate(tensors):
            # One stream per tensor: sharding differently leaves every tensor's bytes alone.
            write_weights(out, np.random.Generator(np.random.SFC64([seed, base + index])), shape)
    return offset


def split(tensors: list, shards: int) -> list[list]:
    total = sum(values(s) for _, s in tensors)
    groups: list[list] = [[] for _ in range(shards)]
    done = 0
    for tensor in tensors:
        groups[min(shards - 1, done * shards // total)].append(tensor)
        done += values(tensor[1])
    return [g for g in groups if g]


def write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def make_model(out: pathlib.Path, size: int, seed: int = 7, shards: int = 1) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors, config = plan(size)
    groups = split(tensors, shards)
    weight_map, written, base = {}, 0, 0
    for number, group in enumerate(groups, 1):
        name = "model.safetensors" if shards == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        written += write_shard(out / name, group, seed, base)
        base += len(group)
        weight_map.update({tensor: name for tensor, _ in group})
    if shards > 1:
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": written}, "weight_map": weight_map})
    write_json(out / "config.json", config)
    write_json(out / "tokenizer_config.json", {"model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast"})
    vocab = {f"token{i}": i for i in range(1000)}
    write_json(out / "tokenizer.json", {"version": "1.0", "model": {"type": "WordLevel", "unk_token": "token0", "vocab": vocab}})
    print(f"{out}: {len(tensors)} tensors, {written} bytes in {len(groups)} file(s)", file=sys.stderr)


def parse_size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if unit > 1 else text) * unit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--size", type=parse_size, default=GIB, help="bytes, or with K, M, G (binary); default 1G")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shards", type=int, default=1)
    args = parser.parse_args()
    make_model(args.out, args.size, args.seed, args.shards)
