"""Dequantizes weights with numpy, as the libraries that write them do: the oracle of tests/quant.rs.

Reads a list of weights from standard input, one JSON object per line: the layout and its numbers,
and the folder of its parts; writes `expected` (f32, row-major) into that folder.

The formulae are those of bitsandbytes (`dequantize_4bit`, `int8_vectorwise_dequant`), AutoGPTQ
(`qlinear_cuda_old.py`), AutoAWQ (`awq/utils/packing_utils.py`) and compressed-tensors
(`unpack_from_int32`, `dequantize`); GGUF's is its own package.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

FLOATS = {"F32": np.float32, "F16": np.float16}


def floats(raw, kind):
    if kind == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, FLOATS[kind]).astype(np.float32)


def bits_along(words, bits, axis):
    """The unsigned `bits`-bit fields of a little-endian stream of 32-bit words along `axis`."""
    words = np.moveaxis(words, axis, -1)
    stream = np.unpackbits(words.copy().view(np.uint8), axis=-1, bitorder="little")
    count = stream.shape[-1] // bits
    fields = stream[..., : count * bits].reshape(*stream.shape[:-1], count, bits)
    values = (fields.astype(np.int32) << np.arange(bits)).sum(-1)
    return np.moveaxis(values, -1, axis)


def bnb4(w, parts):
    codes = np.frombuffer(parts["codes"], np.uint8)
    nibbles = np.stack([codes >> 4, codes & 15], -1).reshape(-1)[: w["rows"] * w["cols"]]
    table = np.frombuffer(parts["table"], np.float32)
    if w["nested"]:
        codes8 = np.frombuffer(parts["scales"], np.uint8)
        outer = np.frombuffer(parts["zeros"], np.float32).repeat(w["nested"])[: codes8.size]
        absmax = table[16:][codes8] * outer + np.float32(w["offset"])
    else:
        absmax = np.frombuffer(parts["scales"], np.float32)
    return table[nibbles] * absmax.repeat(w["block"])[: nibbles.size]


def int8(w, parts):
    codes = np.frombuffer(parts["codes"], np.int8).reshape(w["rows"], w["cols"])
    absmax = np.frombuffer(parts["scales"], np.float32)[:, None]
    return codes.astype(np.float32) * absmax * np.float32(7.874015718698502e-3)


def gptq(w, parts):
    rows, cols, bits = w["rows"], w["cols"], w["bits"]
    codes = bits_along(np.frombuffer(parts["codes"], np.uint32).reshape(-1, rows), bits, 0)
    groups = -(-cols // w["group"])
    zeros = np.frombuffer(parts["zeros"], np.uint32).reshape(groups, -1)
    zeros = bits_along(zeros, bits, 1) + (1 if w["less_one"] else 0)
    scales = floats(parts["scales"], w["scale"]).reshape(groups, rows)
    index = np.frombuffer(parts["index"], np.int32) if w["indexed"] else np.arange(cols) // w["group"]
    return ((codes - zeros[index]).astype(np.float32) * scales[index]).T


def awq(w, parts):
    rows, cols, group = w["rows"], w["cols"], w["group"]
    order = np.array([0, 4, 1, 5, 2, 6, 3, 7])

    def unpack(raw):
        words = np.frombuffer(raw, np.uint32).reshape(-1, rows // 8)
        plain = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
        return plain[:, :, order].reshape(-1, rows).astype(np.int32)

    codes, zeros = unpack(parts["codes"]), unpack(parts["zeros"]).repeat(group, 0)[:cols]
    scales = floats(parts["scales"], w["scale"]).reshape(-1, rows).repeat(group, 0)[:cols]
    return ((codes - zeros).astype(np.float32) * scales).T


def packed(w, parts):
    rows, cols, bits = w["rows"], w["cols"], w["bits"]
    groups, middle = -(-cols // w["group"]), 1 << (w["bits"] - 1)
    words = np.frombuffer(parts["codes"], np.uint32).reshape(rows, -1)
    codes = bits_along(words, bits, 1)[:, :cols] - middle
    scales = floats(parts["scales"], w["scale"]).reshape(rows, groups)
    zeros = np.zeros((rows, groups), np.int32)
    if not w["symmetric"]:
        words = np.frombuffer(parts["zeros"], np.uint32).reshape(-1, groups)
        zeros = bits_along(words, bits, 0)[:rows] - middle
    index = np.frombuffer(parts["index"], np.int32) if w["indexed"] else np.arange(cols) // w["group"]
    return (codes - zeros[:, index]).astype(np.float32) * scales[:, index]


def e4m3():
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7) / 8
    value = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    value[(code & 127) == 127] = np.nan
    return np.where(code < 128, value, -value).astype(np.float32)


def fp8(w, parts):
    rows, cols = w["rows"], w["cols"]
    height, width = w["height"], w["width"]
    codes = np.frombuffer(parts["codes"], np.uint8).reshape(rows, cols)
    scales = floats(parts["scales"], w["scale"]).reshape(-(-rows // height), -(-cols // width))
    spread = scales[np.arange(rows) // height][:, np.arange(cols) // width]
    return e4m3()[codes] * spread


def signed(w, parts):
    rows, cols = w["rows"], w["cols"]
    codes = np.frombuffer(parts["codes"], np.int8).reshape(rows, cols).astype(np.float32)
    scales = floats(parts["scales"], w["scale"]).reshape(-(-rows // w["height"]), -1)
    spread = scales[np.arange(rows) // w["height"]][:, np.arange(cols) // w["width"]]
    return codes * spread


def block(kind):
    def dequantize(w, parts):
        return gguf.quants.dequantize(np.frombuffer(parts["codes"], np.uint8), kind)

    return dequantize


LAYOUTS = {
    "bnb4": bnb4,
    "int8": int8,
    "gptq": gptq,
    "awq": awq,
    "packed": packed,
    "fp8": fp8,
    "bytes": signed,
    "q4_0": block(gguf.GGMLQuantizationType.Q4_0),
    "q8_0": block(gguf.GGMLQuantizationType.Q8_0),
    "q4_k": block(gguf.GGMLQuantizationType.Q4_K),
}

for line in sys.stdin:
    weight = json.loads(line)
    folder = pathlib.Path(weight["folder"])
    names = ["codes", "scales", "zeros", "index", "table"]
    stored = {name: (folder / name).read_bytes() for name in names}
    with np.errstate(all="ignore"):
        result = LAYOUTS[weight["layout"]](weight, stored)
    (folder / "expected").write_bytes(np.ascontiguousarray(result, np.float32).tobytes())
