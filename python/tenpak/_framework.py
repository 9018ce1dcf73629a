"""Memory as tensors of torch, numpy, jax and others, without a copy where they can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from ._errors import InvalidError

if TYPE_CHECKING:
    from ._tenpak import Buffer

Make = Callable[["Buffer", "tuple[int, ...] | None"], Any]

_NAMES = {
    "pt": "torch", "torch": "torch", "pytorch": "torch",
    "np": "numpy", "numpy": "numpy",
    "jax": "jax", "flax": "jax",
    "tf": "tensorflow", "tensorflow": "tensorflow",
    "mlx": "mlx", "paddle": "paddle",
    "buffer": "buffer",
}  # fmt: skip

_TORCH = {
    "BOOL": "bool", "U8": "uint8", "BYTES": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16",
    "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}  # fmt: skip

_NUMPY = {
    "BOOL": "?", "U8": "u1", "BYTES": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4",
    "U32": "<u4", "I64": "<i8", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip

_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def name_of(framework: str) -> str:
    """The framework's one name."""
    found = _NAMES.get(framework)
    if found is None:
        known = ", ".join(sorted(set(_NAMES)))
        raise InvalidError(f"no framework {framework!r}: one of {known}")
    return found


def maker(framework: str, device: Any = "cpu") -> Make:
    """What makes a tensor of a buffer, of another shape of as many elements if one is given."""
    name = name_of(framework)
    if name == "torch":
        return _torch(device)
    if not _is_cpu(device) and name != "jax":
        raise InvalidError(f"{name} tensors are made on the cpu, not on {device!r}")
    return {
        "numpy": _numpy,
        "jax": lambda buffer, shape: _jax(buffer, shape, device),
        "tensorflow": _tensorflow,
        "mlx": _mlx,
        "paddle": _paddle,
        "buffer": lambda buffer, shape: buffer,
    }[name]


def _is_cpu(device: Any) -> bool:
    return str(device).split(":")[0] == "cpu"


def _torch(device: Any) -> Make:
    import torch

    target = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    stays = target.type == "cpu"

    def make(buffer: Buffer, shape: tuple[int, ...] | None) -> Any:
        dtype = torch_dtype(buffer.dtype)
        dims = buffer.shape if shape is None else shape
        if buffer.dtype == "F4" and dims:
            dims = (*dims[:-1], dims[-1] // 2)
        if buffer.nbytes == 0:
            return torch.empty(dims, dtype=dtype, device=target)
        tensor = torch.frombuffer(buffer, dtype=dtype).reshape(dims)
        return tensor if stays else tensor.to(target)

    return make


def torch_dtype(dtype: str) -> Any:
    """The type of torch that a type of safetensors is."""
    import torch

    found = getattr(torch, _TORCH.get(dtype, ""), None)
    if found is None:
        raise InvalidError(f"torch {torch.__version__} has no type for {dtype}")
    return found


def numpy_dtype(dtype: str) -> Any:
    """The type of numpy that a type of safetensors is; of ml_dtypes where numpy has none."""
    import numpy

    if dtype in _NUMPY:
        return numpy.dtype(_NUMPY[dtype])
    if dtype not in _ML_DTYPES:
        raise InvalidError(f"numpy has no type for {dtype}")
    try:
        import ml_dtypes
    except ImportError:
        raise InvalidError(
            f"numpy has no type of its own for {dtype}: install ml_dtypes, or ask for framework='pt'"
        ) from None
    return numpy.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))


def _numpy(buffer: Buffer, shape: tuple[int, ...] | None) -> Any:
    import numpy

    dtype = numpy_dtype(buffer.dtype)
    dims = buffer.shape if shape is None else shape
    if buffer.nbytes == 0:
        return numpy.empty(dims, dtype)
    return numpy.frombuffer(buffer, dtype).reshape(dims)


def _jax(buffer: Buffer, shape: tuple[int, ...] | None, device: Any) -> Any:
    import jax

    array = _numpy(buffer, shape)
    return jax.device_put(array, None if _is_cpu(device) else device)


def _tensorflow(buffer: Buffer, shape: tuple[int, ...] | None) -> Any:
    import tensorflow

    return tensorflow.convert_to_tensor(_numpy(buffer, shape))


def _mlx(buffer: Buffer, shape: tuple[int, ...] | None) -> Any:
    import mlx.core

    if buffer.dtype == "BF16":
        import numpy

        dims = buffer.shape if shape is None else shape
        return mlx.core.array(numpy.frombuffer(buffer, "<u2").reshape(dims)).view(mlx.core.bfloat16)
    return mlx.core.array(_numpy(buffer, shape))


def _paddle(buffer: Buffer, shape: tuple[int, ...] | None) -> Any:
    import paddle

    tensor = paddle.utils.dlpack.from_dlpack(buffer)
    return tensor if shape is None else tensor.reshape(shape)
