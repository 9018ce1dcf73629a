"""GPTQ and AWQ through the packers of AutoGPTQ and AutoAWQ, loaded alone out of their packages.

The packages import CUDA code and versions of transformers that are gone; the packers need neither.
"""

import importlib.util
import pathlib
import sys
import types

import torch

ROOT = pathlib.Path(__file__).parent.parent.parent / ".venv-judges/sources"


def load(name: str, path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stub(name: str, **attributes) -> None:
    module = sys.modules.setdefault(name, types.ModuleType(name))
    for key, value in attributes.items():
        setattr(module, key, value)


def packers():
    # What qlinear_cuda_old imports of its package: a logger, a base class, optional kernels.
    for name in ["auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear", "auto_gptq.quantization"]:
        stub(name, __path__=[])
    stub("auto_gptq.nn_modules.qlinear", GeneralQuantLinear=torch.nn.Module)
    quantizer = load("auto_gptq.quantization.quantizer", "auto_gptq/quantization/quantizer.py")
    qlinear = load("auto_gptq.nn_modules.qlinear.qlinear_cuda_old", "auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py")
    for name in ["awq", "awq.utils", "awq.modules", "awq.modules.linear"]:
        stub(name, __path__=[])
    stub("awq.utils.module", try_import=lambda name: (None, "not here"))
    stub("awq.utils.utils", get_best_device=lambda: "cpu")
    stub("awq.utils.packing_utils", dequantize_gemm=None)
    gemm = load("awq.modules.linear.gemm", "awq/modules/linear/gemm.py")
    return quantizer, qlinear, gemm


QUANTIZER, QLINEAR, GEMM = packers()


def linear(w: torch.Tensor) -> torch.nn.Linear:
    made = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
    made.weight.data = w.clone()
    return made


def gptq(w: torch.Tensor, bits: int, group: int, symmetric: bool) -> dict[str, torch.Tensor]:
    """Scales and zero points by AutoGPTQ's quantizer, group by group, packed by its packer."""
    w = w.float()
    group = group or w.shape[1]
    quantizer = QUANTIZER.Quantizer()
    quantizer.configure(bits, perchannel=True, sym=symmetric)
    scales, zeros, values = [], [], []
    for part in w.split(group, dim=1):
        quantizer.find_params(part, weight=True)
        scales.append(quantizer.scale.reshape(-1, 1))
        zeros.append(quantizer.zero.reshape(-1, 1).expand(-1, 1))
        values.append(quantizer.quantize(part))
    scales, zeros = torch.cat(scales, 1), torch.cat(zeros, 1)
    layer = QLINEAR.QuantLinear(bits, group, w.shape[1], w.shape[0], False, use_cuda_fp16=False)
    # In f32 the packer finds the codes again from values and scales.
    layer.pack(linear(torch.cat(values, 1)), scales, zeros.clone(), None)
    codes = torch.round((torch.cat(values, 1).unflatten(-1, (-1, group)) + (zeros * scales).unsqueeze(-1)) / scales.unsqueeze(-1))
    fits = bool((codes >= 0).all() and (codes <= 2**bits - 1).all() and (zeros >= 1).all())
    index = torch.arange(w.shape[1], dtype=torch.int32) // group
    tensors = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": scales.t().contiguous().half(), "g_idx": index}
    return tensors if fits else {"scales": tensors["scales"], "g_idx": index}


def awq(w: torch.Tensor, group: int) -> dict[str, torch.Tensor]:
    """AutoAWQ's rule in f16 (awq/quantize/quantizer.py, pseudo_quantize_tensor), packed by its packer."""
    w = w.half()
    grouped = w.reshape(-1, group)
    high, low = grouped.amax(dim=1, keepdim=True), grouped.amin(dim=1, keepdim=True)
    scales = (high - low).clamp(min=1e-5) / 15
    zeros = (-torch.round(low / scales)).clamp_(0, 15)
    values = (torch.clamp(torch.round(grouped / scales) + zeros, 0, 15) - zeros) * scales
    scales, zeros = scales.view(w.shape[0], -1), zeros.view(w.shape[0], -1)
    layer = GEMM.WQLinear_GEMM.from_linear(
        linear(values.reshape(w.shape)), 4, group, False, scales.t().contiguous(), zeros.t().contiguous()
    )
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales}
