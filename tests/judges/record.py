"""Runs the libraries whose formats TenPak writes, and records what they store.

`record.py FILE` writes the vectors; `record.py --check FILE` makes them anew and compares. One entry is a
weight (see weights.py), a method with its numbers, and for each stored tensor its type, shape and SHA-256.
"""

import hashlib
import json
import sys

import bitsandbytes
import bitsandbytes.functional as bnb
import compressed_tensors
import gguf
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

import ggml
import peers
from weights import DTYPES, KINDS, weight

NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8",
    torch.int32: "I32", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3",
}


def nf4(w: torch.Tensor, double: bool) -> dict[str, torch.Tensor]:
    codes, state = bnb.quantize_4bit(w, blocksize=64, compress_statistics=double, quant_type="nf4")
    return {"weight": codes} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}


def int8(w: torch.Tensor) -> dict[str, torch.Tensor]:
    codes, scb, _ = bnb.int8_vectorwise_quant(w.to(torch.float16))
    return {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def compressed(w: torch.Tensor, bits: int, group: int, symmetric: bool, kind: str, form: str) -> dict[str, torch.Tensor]:
    grouped = w.unflatten(-1, (-1, group)) if group else w.unsqueeze(1)
    args = QuantizationArgs(
        num_bits=bits, type=kind, symmetric=symmetric, strategy="group" if group else "channel",
        group_size=group or None,
    )
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    codes = quantize(w, scale, None if symmetric else zero, args, dtype=torch.float8_e4m3fn if kind == "float" else torch.int8)
    if form != "pack":
        return {"weight": codes, "weight_scale": scale}
    tensors = {"weight_packed": pack_to_int32(codes, bits), "weight_scale": scale, "weight_shape": torch.tensor(w.shape)}
    if not symmetric:
        tensors["weight_zero_point"] = pack_to_int32(zero.to(torch.int8), bits, packed_dim=0).contiguous()
    return tensors


def block(w: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    data = gguf.quants.quantize(w.float().numpy(), getattr(gguf.GGMLQuantizationType, kind.upper()))
    return {"weight": torch.from_numpy(data)}


def described(tensors: dict[str, torch.Tensor]) -> dict[str, list]:
    def one(t: torch.Tensor) -> list:
        data = t.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
        return [NAMES[t.dtype], list(t.shape), hashlib.sha256(data).hexdigest()]
    return {name: one(tensors[name]) for name in sorted(tensors)}


def cases():
    seed = 0
    def case(method: str, run, rows: int, columns: int, kind: str, dtype: str, **numbers):
        nonlocal seed
        seed += 1
        w = weight(seed, rows, columns, kind, dtype)
        return {
            "seed": seed, "rows": rows, "columns": columns, "kind": kind, "dtype": dtype,
            "method": method, **numbers, "tensors": described(run(w)),
        }
    for dtype in DTYPES:
        for kind in KINDS:
            for rows, columns in [(12, 192), (7, 13), (5, 64), (1, 1), (3, 67)]:
                for double in [False, True]:
                    yield case("nf4", lambda w: nf4(w, double), rows, columns, kind, dtype, double=double)
                yield case("int8", int8, rows, columns, kind, dtype)
            # Beyond the range of f16 the reference divides by 0.
            for kind_of_block in ["q4_0", "q8_0"] if kind != "tiny" else []:
                yield case(kind_of_block, lambda w: block(w, kind_of_block), 9, 256, kind, dtype)
            if kind != "tiny":
                yield case("q4_k", ggml.q4_k, 5, 512, kind, dtype)
            for bits in [4, 2, 3, 8]:
                for symmetric in [True, False]:
                    for group in [32, 128, 0]:
                        yield case(
                            "gptq", lambda w: peers.gptq(w, bits, group, symmetric), 32, 256, kind, dtype,
                            bits=bits, group=group, symmetric=symmetric,
                        )
            for group in [32, 64, 128]:
                yield case("awq", lambda w: peers.awq(w, group), 32, 256, kind, dtype, group=group)
            if kind == "tiny" and dtype == "f16":
                continue  # scales below the least of f16 become 0, and 0 / 0 has no meaning to record
            for bits in range(1, 9):
                for group in [32, 0]:
                    for symmetric in [True, False]:
                        yield case(
                            "packed", lambda w: compressed(w, bits, group, symmetric, "int", "pack"), 11, 96, kind, dtype,
                            bits=bits, group=group, symmetric=symmetric,
                        )
            yield case("packed", lambda w: compressed(w, 4, 0, False, "int", "pack"), 9, 77, kind, dtype, bits=4, group=0, symmetric=False)
            yield case("int-quantized", lambda w: compressed(w, 8, 0, True, "int", "int"), 9, 77, kind, dtype)
            yield case("float-quantized", lambda w: compressed(w, 8, 0, True, "float", "float"), 9, 77, kind, dtype)


    # More absmax than one level of torch's cascade adds, in one thread's order.
    yield case("nf4", lambda w: nf4(w, True), 512, 2000, "plain", "bf16", double=True)
    yield case("nf4", lambda w: nf4(w, True), 1024, 2500, "outliers", "bf16", double=True)


def main() -> int:
    # The mean of absmax is that of torch on one thread.
    torch.set_num_threads(1)
    *flags, path = sys.argv[1:]
    made = {
        "tools": {
            "bitsandbytes": bitsandbytes.__version__, "compressed-tensors": compressed_tensors.__version__,
            "gguf": "0.19.0", "torch": torch.__version__, "auto-gptq": "0.7.1 (packer)", "autoawq": "0.2.9 (packer)",
            "llama-cpp-python": "0.3.9 (ggml-quants.c)",
        },
        "cases": list(cases()),
    }
    lines = ",\n".join(json.dumps(case) for case in made["cases"])
    text = f'{{"tools": {json.dumps(made["tools"])},\n"cases": [\n{lines}\n]}}\n'
    if flags != ["--check"]:
        open(path, "w").write(text)
        print(f"{len(made['cases'])} vectors in {path}")
        return 0
    recorded = json.load(open(path))
    different = [case for case, old in zip(made["cases"], recorded["cases"], strict=True) if case != old]
    for case in different:
        print("not as recorded:", {k: v for k, v in case.items() if k != "tensors"})
    print(f"{len(made['cases']) - len(different)} of {len(made['cases'])} vectors are what the libraries give today")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
