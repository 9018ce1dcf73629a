"""Records what llama.cpp's own C writes of weights that Rust makes alike (weights.py), for the GGUF types that are
written beside those of record.py.

`written.py FILE...` writes the vectors, `written.py --check FILE...` makes them anew and compares.
"""

import ctypes
import hashlib
import json
import pathlib
import sys

import gguf
import numpy as np

from weights import DTYPES, KINDS, weight

LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).parent.parent.parent / ".venv-judges/sources/libggml_quants.so"))
# The types of each file. What was recorded is never changed: further types go into a file of their own.
TYPES = {
    "written.json": ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"],
    "written_q5.json": ["Q5_0", "Q5_1"],
}


def written(name: str, values: np.ndarray) -> bytes:
    rows, columns = values.shape
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = np.zeros((rows, columns // elements * size), dtype=np.uint8)
    source, target = (array.ctypes.data_as(ctypes.c_void_p) for array in (values, blocks))
    if name.startswith("IQ"):
        function = getattr(LIBRARY, f"quantize_{name.lower()}")
        function(source, target, ctypes.c_int64(rows), ctypes.c_int64(columns), None)
    else:
        function = getattr(LIBRARY, f"quantize_row_{name[0].lower()}{name[1:]}_ref")
        function(source, target, ctypes.c_int64(values.size))
    return blocks.tobytes()


def cases(types: list[str]):
    seed = 5000
    for dtype in DTYPES:
        for kind in KINDS:
            # Beyond the range of f16 the reference divides by 0.
            if kind == "tiny":
                continue
            for name in types:
                seed += 1
                values = np.ascontiguousarray(weight(seed, 5, 512, kind, dtype).float().numpy())
                yield {
                    "seed": seed, "rows": 5, "columns": 512, "kind": kind, "dtype": dtype, "method": name.lower(),
                    "sha256": hashlib.sha256(written(name, values)).hexdigest(),
                }


def main() -> int:
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    status = 0
    for path in map(pathlib.Path, sys.argv[1 + len(flags):]):
        lines = ",\n".join(json.dumps(case) for case in cases(TYPES[path.name]))
        text = f"[\n{lines}\n]\n"
        if flags == ["--check"]:
            same = path.read_text() == text
            print(f"{path.name}: the vectors are {'what' if same else 'NOT what'} llama.cpp writes today")
            status |= not same
        else:
            path.write_text(text)
            print(f"{text.count('seed')} vectors in {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
