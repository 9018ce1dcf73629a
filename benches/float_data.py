"""Writes the elements that the codecs are measured on, without their files' heads.

From a safetensors file: every tensor of the type asked, back to back, or cast to bf16. Prints one
JSON line with the order-0 entropy of the exponents and the raw rest, in bits of an element.
"""

import json
import pathlib
import sys

import numpy as np

WORDS = {"BF16": ("<u2", 8), "F16": ("<u2", 5), "F32": ("<u4", 8)}


def tensors(path: pathlib.Path, dtype: str):
    with open(path, "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name, tensor in sorted(head.items(), key=lambda t: t[1].get("data_offsets", [0])[0]):
            if name != "__metadata__" and tensor["dtype"] == dtype:
                first, end = tensor["data_offsets"]
                file.seek(start + first)
                yield name, tensor["shape"], np.frombuffer(file.read(end - first), WORDS[dtype][0])


def to_bf16(bits: np.ndarray) -> np.ndarray:
    """Rounds to nearest even, as frameworks do."""
    return ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype("<u2")


def entropy(x: np.ndarray, dtype: str) -> float:
    bits, exponent = x.itemsize * 8, WORDS[dtype][1]
    counts = np.bincount(x >> (bits - 1 - exponent) & ((1 << exponent) - 1))
    counts = counts[counts > 0]
    return float((counts * np.log2(x.size / counts)).sum() / x.size) + bits - exponent


def write_safetensors(path: pathlib.Path, all_tensors: list) -> None:
    head, at = {}, 0
    for name, shape, x in all_tensors:
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, _, x in all_tensors:
            out.write(x.tobytes())


def main() -> None:
    source, dtype, out, most = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])
    out.mkdir(parents=True, exist_ok=True)
    cast = sys.argv[5:] == ["cast"]
    found = list(tensors(source, dtype))
    if cast:
        found, dtype = [(name, shape, to_bf16(x)) for name, shape, x in found], "BF16"
        write_safetensors(out / "model.safetensors", found)
    elements = np.concatenate([x for _, _, x in found])[: most // found[0][2].itemsize]
    elements.tofile(out / "elements")
    print(json.dumps({"dtype": dtype, "bytes": elements.nbytes, "entropy": entropy(elements, dtype)}))


if __name__ == "__main__":
    main()
