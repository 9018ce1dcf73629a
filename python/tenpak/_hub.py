"""Artifacts in the cache of huggingface_hub, so that `from_pretrained` finds them offline."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ._artifact import Artifact, FileInfo, Trust, several
from ._engine import MARKER
from ._errors import InvalidError

PIECE = 64 << 20
"""Bytes of a file that are asked for at a time."""

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.safetensors.index.json")


def cache_folder() -> Path:
    """Where huggingface_hub keeps its cache, by the same variables."""
    if found := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(found).expanduser()
    home = os.environ.get("HF_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home).expanduser() / "hub"


def snapshot_download(
    spec: str,
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    trust: Trust = None,
    mirror: str | Iterable[str] | None = None,
    headers: str | Iterable[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    allow_patterns: str | Iterable[str] | None = None,
    ignore_patterns: str | Iterable[str] | None = None,
    weights: bool = True,
) -> str:
    """Puts an artifact's verified files into the cache of huggingface_hub and gives the folder of its snapshot.

    Afterwards `from_pretrained(repo_id)` finds it with `HF_HUB_OFFLINE=1`, and every file that another snapshot of the
    same repository has is there once.

    Args:
        spec: `org/model[:tag]`, or `@id` together with `repo_id`
        repo_id: what the Hub's clients call it; by default the artifact's name
        revision: by default `main` for the tag `latest`, else the tag
        cache_dir: by default huggingface_hub's own
        allow_patterns, ignore_patterns: which files, as in huggingface_hub
        weights: whether the weights are wanted; without them an engine that streams them has its configuration

    Raises:
        DamagedError: a chunk is not what was signed; no file holds a byte of it
    """
    artifact = Artifact(spec, store=store, trust=trust, mirror=mirror, headers=headers, ca=ca)
    named = artifact.name
    if repo_id is None:
        if named is None:
            raise InvalidError("an artifact that is named by its id needs a repo_id", artifact=artifact.id)
        repo_id = named.partition(":")[0]
    if revision is None:
        tag = "latest" if named is None else named.partition(":")[2]
        revision = "main" if tag == "latest" else tag
    root = Path(cache_dir) if cache_dir is not None else cache_folder()
    folder = root / ("models--" + repo_id.replace("/", "--"))
    # A revision of the Hub has 40 digits.
    commit = artifact.id[:40]
    snapshot = folder / "snapshots" / commit
    blobs = folder / "blobs"
    for own in (snapshot, blobs, folder / "refs"):
        own.mkdir(parents=True, exist_ok=True)
    allow, ignore = several(allow_patterns), several(ignore_patterns)
    for file in artifact.files:
        if allow and not _matches(file.path, allow) or _matches(file.path, ignore):
            continue
        if not weights and (file.has_tensors or _matches(os.path.basename(file.path), WEIGHTS)):
            continue
        _place(artifact, file, blobs, snapshot)
    if not weights:
        # What an engine's loader looks for.
        told = {"artifact": f"@{artifact.id}" if named is None else named, "store": artifact.store, "id": artifact.id}
        _write(snapshot / MARKER, json.dumps(told).encode())
    _write(folder / "refs" / revision, commit.encode())
    return str(snapshot)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    # As huggingface_hub has it, a folder means all that is in it.
    return any(fnmatch.fnmatch(path, one + "*" if one.endswith("/") else one) for one in patterns)


def _place(artifact: Artifact, file: FileInfo, blobs: Path, snapshot: Path) -> None:
    """Puts a file among the blobs, and a link to it into the snapshot."""
    blob = blobs / file.sha256
    if not blob.exists() or blob.stat().st_size != file.size:
        handle, name = tempfile.mkstemp(dir=blobs, prefix=".tenpak-")
        try:
            with os.fdopen(handle, "wb") as out:
                for start in range(0, file.size, PIECE):
                    out.write(artifact.read(file.path, start, start + PIECE))
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, (0o777 if file.executable else 0o666) & ~umask)
            os.replace(name, blob)
        except BaseException:
            os.unlink(name)
            raise
    link = snapshot / file.path
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    os.symlink(target, link)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tenpak-")
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    os.replace(name, path)
