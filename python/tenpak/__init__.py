"""Signed model weights from any store into Python, every byte verified.

    import tenpak

    weights = tenpak.load_file("org/model", store="https://weights.example.com/store")

    with tenpak.safe_open("org/model", framework="pt") as model:
        part = model.get_slice("lm_head.weight")[:1024]

    for name, tensor in tenpak.stream("org/model"):
        ...

Nothing but this file is read before a name of it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._artifact import (
        Artifact,
        FileInfo,
        SafeOpen,
        SafeSlice,
        Stats,
        TensorInfo,
        TensorStream,
        Trust,
    )
    from ._command import Progress
    from ._errors import (
        CommandError,
        DamagedError,
        DeniedError,
        InvalidError,
        NetworkError,
        NotFoundError,
        TenpakError,
        UntrustedError,
    )
    from ._hub import snapshot_download
    from ._open import load_file, safe_open, stream
    from ._store import Store, delta, optimize, quantize
    from ._tenpak import Buffer

_NAMES = {
    "_artifact": (
        "Artifact", "FileInfo", "SafeOpen", "SafeSlice", "Stats", "TensorInfo", "TensorStream", "Trust",
    ),
    "_command": ("Progress",),
    "_errors": (
        "CommandError", "DamagedError", "DeniedError", "InvalidError", "NetworkError", "NotFoundError",
        "TenpakError", "UntrustedError",
    ),
    "_hub": ("snapshot_download",),
    "_open": ("load_file", "safe_open", "stream"),
    "_store": ("Store", "delta", "optimize", "quantize"),
    "_tenpak": ("Buffer",),
}  # fmt: skip
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Artifact", "Buffer", "CommandError", "DamagedError", "DeniedError", "FileInfo", "InvalidError",
    "NetworkError", "NotFoundError", "Progress", "SafeOpen", "SafeSlice", "Stats", "Store", "TenpakError",
    "TensorInfo", "TensorStream", "Trust", "UntrustedError", "delta", "load_file", "optimize", "quantize",
    "safe_open", "snapshot_download", "stream",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("._tenpak", __name__).VERSION
    if name == "aio":
        return importlib.import_module(".aio", __name__)
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module("." + module, __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "aio"])
