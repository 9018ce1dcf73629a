"""The quantizers of llama.cpp's reference, out of llama-cpp-python's source: those that gguf lacks."""

import ctypes
import pathlib

import numpy as np
import torch

LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).parent.parent.parent / ".venv-judges/sources/libggml_quants.so"))


def q4_k(w: torch.Tensor) -> dict[str, torch.Tensor]:
    values = np.ascontiguousarray(w.float().numpy())
    blocks = np.zeros((w.shape[0], w.shape[1] // 256 * 144), dtype=np.uint8)
    LIBRARY.quantize_row_q4_K_ref(
        values.ctypes.data_as(ctypes.c_void_p), blocks.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.size)
    )
    return {"weight": torch.from_numpy(blocks)}
