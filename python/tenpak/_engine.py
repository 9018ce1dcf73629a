"""What the loaders of engines share: which artifact a model is, which of its tensors count, and how they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Set
from fnmatch import fnmatch
from typing import Any

from ._artifact import Artifact, TensorInfo, TensorStream
from ._errors import InvalidError

MARKER = ".tenpak.json"
"""In a folder without weights: which artifact they are in."""

INDEX = "model.safetensors.index.json"
OPTIONS = ("store", "trust", "mirror", "headers", "ca")


def find(path: str, revision: str | None, given: dict[str, Any]) -> Artifact:
    """The artifact that an engine's model means: what was given for it, what the folder says, or the name itself.

    Raises:
        InvalidError: the folder says nothing
        TenpakError: it cannot be opened
    """
    how = {name: given[name] for name in OPTIONS if name in given}
    if spec := given.get("artifact"):
        return Artifact(spec, **how)
    if os.path.isdir(path):
        try:
            with open(os.path.join(path, MARKER), encoding="utf-8") as file:
                told = json.load(file)
        except FileNotFoundError:
            raise InvalidError(
                f"{path} does not say which artifact has its weights: "
                "make the folder with tenpak.snapshot_download(..., weights=False), or name the artifact"
            ) from None
        how = {"store": told.get("store"), **how}
        artifact = Artifact(told["artifact"], **how)
        # A name may have moved since its configuration was written here.
        return artifact if artifact.id == told["id"] else Artifact(f"@{told['id']}", **how)
    spec = path if revision in (None, "main") or ":" in path or path.startswith("@") else f"{path}:{revision}"
    return Artifact(spec, **how)


def counted(artifact: Artifact, patterns: list[str] | None = None, folder: str | None = None) -> list[TensorInfo]:
    """The tensors that are the model's, in load order: those of the files that its index names, or else of all but a
    consolidated copy."""
    prefix = f"{folder.strip('/')}/" if folder else ""
    paths = {file.path for file in artifact.files if file.has_tensors and file.path.startswith(prefix)}
    names = {path: path[len(prefix) :] for path in paths}
    if patterns is not None:
        keep = {path for path in paths if any(fnmatch(names[path], pattern) for pattern in patterns)}
    else:
        keep = {path for path in paths if "/" not in names[path] and names[path].endswith(".safetensors")} or paths
        if any(file.path == prefix + INDEX for file in artifact.files):
            index = json.loads(artifact.read(prefix + INDEX))
            keep &= {prefix + path for path in index["weight_map"].values()}
        elif len(keep) > 1:
            keep = {path for path in keep if not names[path].startswith("consolidated")} or keep
    return [one for one in artifact.tensors if one.file in keep]


class Told:
    """What reading the tensors took, once all were."""

    requests = 0
    fetched_bytes = 0


def tensors(
    artifact: Artifact,
    wanted: list[TensorInfo],
    *,
    is_lazy: bool,
    progress: bool = False,
    told: Told | None = None,
    held: Set[TensorInfo] = frozenset(),
) -> Iterator[tuple[str, Any]]:
    """Torch tensors by name, in this order: as a stream in bounded memory; or, if only parts of each will be looked at,
    such that are read then. Those that the engine holds already are of the latter kind."""
    if not wanted:
        return
    told = told or Told()
    before = artifact.stats
    rest = [one for one in wanted if one not in held]
    # Of a name that is in several files a stream gives all at a time.
    is_ambiguous = bool(held) and len({one.name for one in wanted}) < len(wanted)
    if is_lazy or is_ambiguous or not rest:
        yield from _lazy(artifact, wanted, held)
    else:
        yield from _mixed(artifact, wanted, rest, held, progress, told)
    after = artifact.stats
    told.requests += after.requests - before.requests
    told.fetched_bytes += after.fetched_bytes - before.fetched_bytes


def _mixed(
    artifact: Artifact,
    wanted: list[TensorInfo],
    rest: list[TensorInfo],
    held: Set[TensorInfo],
    progress: bool,
    told: Told,
) -> Iterator[tuple[str, Any]]:
    places = {file.path: at for at, file in enumerate(artifact.files)}
    keep = {(one.name, places[one.file]) for one in rest}
    names = None if len(rest) == len(artifact.tensors) else list(dict.fromkeys(one.name for one in rest))
    with artifact.stream(names, framework="pt", progress=progress) as stream:
        streamed = only(stream, keep)
        for one in wanted:
            yield next(_lazy(artifact, [one], held) if one in held else streamed)
        told.requests, told.fetched_bytes, _ = stream.stats


def only(stream: TensorStream, keep: set[tuple[str, int]]) -> Iterator[tuple[str, Any]]:
    """Of a stream the tensors of these files."""
    while (found := stream.next_buffer()) is not None:
        name, file, buffer = found
        if (name, file) in keep:
            yield name, stream.make(buffer)


def _lazy(artifact: Artifact, wanted: list[TensorInfo], held: Set[TensorInfo]) -> Iterator[tuple[str, Any]]:
    from . import _framework
    from ._lazy import lazy

    make: Callable[..., Any] = _framework.maker("pt")
    opened = artifact._opened
    for one in wanted:
        tensor = lazy(opened, one.name, one.dtype, one.shape, one.file, one in held)
        yield one.name, make(opened.get(one.name, one.file), None) if tensor is None else tensor
