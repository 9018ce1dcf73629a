"""Records what compressed-tensors stores and reads of FP4 weights that Rust makes alike (weights.py), and what
compressed-tensors and transformers make of FP8 blocks and gpt-oss's experts.

`fp4.py FILE` writes the vectors, `fp4.py --check FILE` makes them anew and compares.
"""

import hashlib
import json
import sys

import numpy as np
import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.quant_scheme import MXFP4A16, NVFP4A16
from compressed_tensors.quantization.utils import calculate_qparams
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from weights import DTYPES, KINDS, weight

NAMES = {torch.float32: "F32", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def stored(w: torch.Tensor, method: str) -> dict[str, torch.Tensor]:
    nv = method == "nvfp4"
    args = (NVFP4A16 if nv else MXFP4A16)["weights"]
    compressor = NVFP4PackedCompressor if nv else MXFP4PackedCompressor
    grouped = w.unflatten(-1, (-1, args.group_size))
    shared = torch.tensor([64.0]) if nv else None
    scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args, global_scale=shared)
    state = {"weight": w, "weight_scale": scale} | ({"weight_global_scale": shared} if nv else {})
    return compressor.compress(state, QuantizationScheme(targets=["Linear"], weights=args))


def values(state: dict[str, torch.Tensor], method: str) -> torch.Tensor:
    """In f32, which compressed-tensors' own decompression rounds to bf16 on its way."""
    rows, half = state["weight_packed"].shape
    codes = unpack_fp4_from_uint8(state["weight_packed"], rows, 2 * half, torch.float32)
    if method == "nvfp4":
        scale = state["weight_scale"].float() / state["weight_global_scale"]
    else:
        scale = torch.exp2(state["weight_scale"].float() - 127)
    return (codes.unflatten(-1, (scale.shape[1], -1)) * scale.unsqueeze(-1)).flatten(-2)


def cases():
    seed = 7000
    for dtype in DTYPES:
        for kind in KINDS:
            for method in ["mxfp4", "nvfp4"]:
                seed += 1
                w = weight(seed, 7, 96, kind, dtype).float()
                state = stored(w, method)
                read = values(state, method)
                compressor = NVFP4PackedCompressor if method == "nvfp4" else MXFP4PackedCompressor
                args = (NVFP4A16 if method == "nvfp4" else MXFP4A16)["weights"]
                own = compressor.decompress(state, QuantizationScheme(targets=["Linear"], weights=args))["weight"]
                assert torch.allclose(own.float(), read, rtol=2**-7, atol=1e-30), (method, kind)
                yield {
                    "seed": seed, "rows": 7, "columns": 96, "kind": kind, "dtype": dtype, "method": method,
                    "tensors": {n: [NAMES[t.dtype], list(t.shape), digest(t)] for n, t in sorted(state.items())},
                    "values": digest(read),
                }
    # gpt-oss: experts, stacked.
    random = np.random.default_rng(23)
    blocks = torch.from_numpy(random.integers(0, 256, (2, 6, 3, 16), dtype=np.uint8))
    scales = torch.from_numpy(random.integers(110, 140, (2, 6, 3), dtype=np.uint8))
    read = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    yield {
        "method": "gpt_oss", "blocks": blocks.numpy().tobytes().hex(), "scales": scales.numpy().tobytes().hex(),
        "shape": list(read.shape), "values": digest(read),
    }
    # DeepSeek: blocks of 128 x 128, at edges less.
    codes = torch.from_numpy(random.integers(0, 0x7F, (130, 140), dtype=np.uint8)).view(torch.float8_e4m3fn)
    inverse = torch.from_numpy(random.random((2, 2), dtype=np.float32))
    spread = inverse.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :140]
    yield {
        "method": "fp8_blocks", "rows": 130, "columns": 140, "codes": digest(codes),
        "scales": inverse.numpy().tobytes().hex(), "values": digest((codes.float() * spread).to(torch.bfloat16)),
        "bytes": codes.view(torch.uint8).numpy().tobytes().hex(),
    }


def main() -> int:
    *flags, path = sys.argv[1:]
    lines = ",\n".join(json.dumps(case) for case in cases())
    text = f"[\n{lines}\n]\n"
    if flags == ["--check"]:
        same = open(path).read() == text
        print(f"the vectors are {'what' if same else 'NOT what'} the libraries give today")
        return 0 if same else 1
    open(path, "w").write(text)
    print(f"{text.count('method')} vectors in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
