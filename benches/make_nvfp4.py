"""Writes a checkpoint of many small tensors, as NVFP4 and block FP8 have them.

Each linear layer is four tensors: packed weights (U8), one scale for each block
of 16 (F8_E4M3), and two scalars (F32) which take few values in the whole model.
Half of all tensors are such scalars. The same arguments give the same bytes on
every machine with the same numpy; memory stays at one layer whatever the size.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from make_model import parse_size, write_json

PARTS = ("input_scale", "weight", "weight_scale", "weight_scale_2")
PROJECTIONS = ("down_proj", "gate_proj", "up_proj")
EXPERTS = 64
ROWS = 32
BLOCK = 16
# Bytes of a scalar, and of a weight with its part of the block's scale, in sixteenths.
SCALAR = 4
PER_WEIGHT = 9


def linears(count: int) -> list[str]:
    """Names of so many linear layers, sorted: those of a mixture of experts."""
    names = []
    for index in range(count):
        expert, projection = divmod(index, len(PROJECTIONS))
        layer, expert = divmod(expert, EXPERTS)
        names.append(f"model.layers.{layer}.mlp.experts.{expert}.{PROJECTIONS[projection]}")
    return sorted(names)


def shape(size: int, count: int) -> tuple[int, int]:
    """Rows and columns of each linear, so that all of them take about `size` bytes."""
    weights = max(0, size - 2 * SCALAR * count) // count * 16 // PER_WEIGHT
    rows = ROWS
    while rows * rows * 4 < weights and rows < 4096:
        rows *= 2
    return rows, max(BLOCK, weights // rows // BLOCK * BLOCK)


def tensors(linear: str, rows: int, columns: int) -> list[tuple[str, str, list[int], int]]:
    forms = {
        "input_scale": ("F32", [], SCALAR),
        "weight": ("U8", [rows, columns // 2], rows * columns // 2),
        "weight_scale": ("F8_E4M3", [rows, columns // BLOCK], rows * columns // BLOCK),
        "weight_scale_2": ("F32", [], SCALAR),
    }
    return [(f"{linear}.{part}", *forms[part]) for part in PARTS]


def content(rng: np.random.Generator, part: str, length: int, scalars: np.ndarray) -> bytes:
    if length == SCALAR and part in ("input_scale", "weight_scale_2"):
        return scalars[rng.integers(len(scalars))].tobytes()
    if part == "weight_scale":
        return rng.integers(0x60, 0x7E, length, dtype=np.uint8).tobytes()
    return rng.bytes(length)


def write_file(path: pathlib.Path, own: list[str], form: tuple[int, int], seed: int, base: int, scalars: np.ndarray) -> int:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for linear in own:
        for name, dtype, dims, length in tensors(linear, *form):
            header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + length]}
            offset += length
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as out:
        out.write(len(encoded).to_bytes(8, "little"))
        out.write(encoded)
        for index, linear in enumerate(own):
            # One stream per linear: other files hold the same bytes for it.
            rng = np.random.Generator(np.random.SFC64([seed, base + index]))
            for part, (_, _, _, length) in zip(PARTS, tensors(linear, *form)):
                out.write(content(rng, part, length, scalars))
    return offset


def make_checkpoint(out: pathlib.Path, count: int, size: int, seed: int, files: int, values: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = linears(max(1, count // len(PARTS)))
    form = shape(size, len(names))
    scalars = np.random.Generator(np.random.SFC64([seed])).random(values, dtype=np.float32)
    weight_map, written = {}, 0
    for number in range(files):
        base, end = number * len(names) // files, (number + 1) * len(names) // files
        name = "model.safetensors" if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        written += write_file(out / name, names[base:end], form, seed, base, scalars)
        weight_map |= {f"{linear}.{part}": name for linear in names[base:end] for part in PARTS}
    if files > 1:
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": written}, "weight_map": weight_map})
    write_json(out / "config.json", {"model_type": "synthetic", "quantization_config": {"quant_algo": "NVFP4", "group_size": BLOCK}})
    print(f"{out}: {len(names) * len(PARTS)} tensors, {written} bytes in {files} file(s)", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tensors", type=int, default=20480, help="default 20480")
    parser.add_argument("--size", type=parse_size, default=27 << 19, help="bytes, or with K, M, G (binary); default 13.5M")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--values", type=int, default=64, help="how many values the scalars take; default 64")
    args = parser.parse_args()
    make_checkpoint(args.out, args.tensors, args.size, args.seed, args.files, args.values)
