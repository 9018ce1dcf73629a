"""The functions that most programs need: open, load, stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from ._artifact import KEEP, Artifact, SafeOpen, TensorStream, Trust
from ._errors import InvalidError, NotFoundError


def is_local(spec: str | os.PathLike[str], store: object) -> bool:
    """Whether a safetensors file on disk is meant, rather than an artifact of a store."""
    if isinstance(spec, os.PathLike):
        return True
    if store is not None or spec.startswith("@"):
        return False
    return spec.endswith(".safetensors") or os.path.isfile(spec)


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise InvalidError("to open local files, install safetensors") from None
    return safetensors


def safe_open(
    spec: str | os.PathLike[str],
    framework: str = "pt",
    device: Any = "cpu",
    *,
    store: str | os.PathLike[str] | None = None,
    trust: Trust = None,
    mirror: str | Iterable[str] | None = None,
    headers: str | Iterable[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    file: str | None = None,
    backend: str | None = None,
) -> Any:
    """Opens an artifact as `safetensors.safe_open` opens a file; a path to a local file is opened by safetensors.

    Args:
        spec: `org/model[:tag]`, `@id`, or the path of a .safetensors file
        framework: `pt`, `np`, `jax`, `tf`, `mlx`, `paddle`, or `buffer` for memory as it is
        device: where torch's tensors go: `cpu`, `cuda:0`, 0
        store, trust, mirror, headers, ca: see `tenpak.Artifact`
        file: only the tensors of this file of the artifact
        backend: how safetensors reads a local file: `mmap` or `pread`

    Returns:
        A `SafeOpen`, whose tensors are verified before you see them. Every one owns its memory, and outlives it.

    Raises:
        NotFoundError, UntrustedError, DamagedError, NetworkError: see `tenpak.Artifact`
    """
    if is_local(spec, store):
        how = {} if backend is None else {"backend": backend}
        return _safetensors().safe_open(os.fspath(spec), framework=framework, device=device, **how)
    if backend not in (None, "mmap", "pread"):
        raise InvalidError(f"no backend {backend!r}: mmap or pread")
    artifact = Artifact(
        os.fspath(spec), store=store, trust=trust, mirror=mirror, headers=headers, ca=ca
    )
    if file is not None and all(one.path != file for one in artifact.files):
        raise NotFoundError(f"{artifact.name or artifact.id} has no file {file}", artifact=artifact.id)
    return SafeOpen(artifact, framework, device, file)


def load_file(
    spec: str | os.PathLike[str],
    device: Any = "cpu",
    *,
    framework: str = "pt",
    store: str | os.PathLike[str] | None = None,
    trust: Trust = None,
    mirror: str | Iterable[str] | None = None,
    headers: str | Iterable[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    file: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """All tensors of an artifact by name, every byte verified; see `tenpak.safe_open`.

    With `progress`, tqdm shows a bar if it is installed.
    """
    if is_local(spec, store):
        with _safetensors().safe_open(os.fspath(spec), framework=framework, device=device) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}
    artifact = Artifact(
        os.fspath(spec), store=store, trust=trust, mirror=mirror, headers=headers, ca=ca
    )
    return dict(artifact.stream(framework=framework, device=device, file=file, budget=KEEP, progress=progress))


def stream(
    spec: str,
    names: Sequence[str] | None = None,
    *,
    framework: str = "pt",
    device: Any = "cpu",
    store: str | os.PathLike[str] | None = None,
    trust: Trust = None,
    mirror: str | Iterable[str] | None = None,
    headers: str | Iterable[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    file: str | None = None,
    shard: tuple[int, int] | None = None,
    budget: int | None = None,
    progress: bool = False,
) -> TensorStream:
    """Iterates over (name, tensor), each as soon as its last byte is verified.

    Args:
        names: which tensors, in which order; by default all, in load order
        shard: (rank, ranks): of each tensor the part that this rank of a tensor-parallel group needs
        budget: bytes of tensors that may be on their way; what you keep is not counted
        spec, framework, device, store, trust, mirror, headers, ca, file: see `tenpak.safe_open`
        progress: show a bar, if tqdm is installed

    Raises:
        DamagedError: a chunk is not what was signed; tensors before it were right
    """
    artifact = Artifact(spec, store=store, trust=trust, mirror=mirror, headers=headers, ca=ca)
    return artifact.stream(
        names, framework=framework, device=device, file=file, shard=shard, budget=budget, progress=progress
    )
