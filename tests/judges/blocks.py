"""Records what gguf-py and llama.cpp's own C make of random blocks of every GGML type, which must agree.

`blocks.py FILE` writes the vectors, `blocks.py --check FILE` makes them anew and compares. One entry is a type, its
number in files, blocks in hexadecimal and the SHA-256 of their values as f32.
"""

import ctypes
import hashlib
import json
import pathlib
import sys

import gguf
import numpy as np

LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).parent.parent.parent / ".venv-judges/sources/libggml_quants.so"))
TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
]
# gguf-py's size of Q8_1 is that of an older ggml.
SIZES = {"Q8_1": (32, 36)}


def by_c(name: str, blocks: np.ndarray, elements: int) -> np.ndarray | None:
    letters = name if name.endswith("_K") else name.lower()
    letters = f"{letters[0].lower()}{letters[1:]}" if name.endswith("_K") else letters
    function = getattr(LIBRARY, f"dequantize_row_{letters}", None)
    if function is None:
        return None
    out = np.zeros(elements, dtype=np.float32)
    function(blocks.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(elements))
    return out


def by_python(kind: gguf.GGMLQuantizationType, blocks: np.ndarray) -> np.ndarray | None:
    try:
        with np.errstate(all="ignore"):
            return gguf.quants.dequantize(blocks, kind).reshape(-1).astype(np.float32)
    except NotImplementedError:
        return None


def q8_1(blocks: np.ndarray) -> np.ndarray:
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return (scales * blocks[:, 4:].view(np.int8).astype(np.float32)).reshape(-1)


def cases():
    random = np.random.default_rng(23)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = SIZES.get(name, gguf.GGML_QUANT_SIZES[kind])
        kept = []
        while len(kept) < 3:
            block = random.integers(0, 256, (1, size), dtype=np.uint8)
            made = [q8_1(block)] if name == "Q8_1" else [by_c(name, block, elements), by_python(kind, block)]
            made = [one for one in made if one is not None]
            if not all(np.isfinite(one).all() for one in made):
                continue
            assert made and all(one.tobytes() == made[0].tobytes() for one in made), name
            kept.append((block, made[0]))
        values = np.concatenate([values for _, values in kept])
        yield {
            "type": name.lower(), "number": int(kind), "elements": elements,
            "blocks": [block.tobytes().hex() for block, _ in kept],
            "values": hashlib.sha256(values.tobytes()).hexdigest(),
        }


def main() -> int:
    *flags, path = sys.argv[1:]
    lines = ",\n".join(json.dumps(case) for case in cases())
    text = f"[\n{lines}\n]\n"
    if flags == ["--check"]:
        same = open(path).read() == text
        print(f"{len(TYPES)} types are {'what' if same else 'NOT what'} gguf-py and llama.cpp give today")
        return 0 if same else 1
    open(path, "w").write(text)
    print(f"{len(TYPES)} types in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
