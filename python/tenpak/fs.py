"""Artifacts as a file system of fsspec: `tenpak://store!org/model:tag/file`, read only, every byte verified.

The store is what `store=` says where the address names none: `tenpak://org/model:tag/file`.
"""

from __future__ import annotations

from typing import Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from ._artifact import Artifact, Trust
from ._errors import NotFoundError

SCHEME = "tenpak://"
DEPTH = 2
"""Segments of an artifact's name; only the last may have a tag."""


def _divide(path: str) -> tuple[str | None, list[str]]:
    """The store, if the address names one, and the segments after it. A store's address has no `!`; names of files
    may."""
    store, mark, rest = path.partition("!")
    if not mark:
        store, rest = "", path
    return store or None, [part for part in rest.split("/") if part]


class TenpakFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read-only files of artifacts.

    Args:
        store: where addresses name none; by default `TENPAK_STORE`
        trust, mirror, headers, ca: see `tenpak.Artifact`
    """

    protocol = "tenpak"
    root_marker = ""

    def __init__(
        self,
        store: str | None = None,
        trust: Trust = None,
        mirror: str | list[str] | None = None,
        headers: str | list[str] | None = None,
        ca: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._how = {"trust": trust, "mirror": mirror, "headers": headers, "ca": ca}
        self._store = store
        self._artifacts: dict[tuple[str | None, str], Artifact] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = str(path)
        return path.removeprefix(SCHEME).removesuffix("/")

    def artifact(self, path: str) -> tuple[Artifact, str, str]:
        """The artifact that a path leads to, how the path names it, and what follows.

        Raises:
            NotFoundError: there is none
        """
        store, parts = _divide(self._strip_protocol(path))
        named = next((at for at, part in enumerate(parts) if ":" in part or part.startswith("@")), DEPTH - 1)
        spec = "/".join(parts[: named + 1])
        if not spec or len(parts) < named + 1:
            raise NotFoundError(f"{path} names no artifact: tenpak://store!org/model:tag/file")
        prefix = f"{store}!{spec}" if store else spec
        key = (store, spec)
        if key not in self._artifacts:
            self._artifacts[key] = Artifact(spec, store=store or self._store, **self._how)  # type: ignore[arg-type]
        return self._artifacts[key], prefix, "/".join(parts[named + 1 :])

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """What lies in a folder, or the file itself.

        Raises:
            FileNotFoundError: there is nothing of that name
        """
        artifact, prefix, below = self.artifact(path)
        found: dict[str, dict[str, Any]] = {}
        for file in artifact.files:
            whole = f"{prefix}/{file.path}"
            if file.path == below:
                found = {whole: _file(whole, file)}
                break
            if below and not file.path.startswith(below + "/"):
                continue
            rest = file.path[len(below) + 1 :] if below else file.path
            first, mark, _ = rest.partition("/")
            name = f"{prefix}/{below}/{first}" if below else f"{prefix}/{first}"
            found[name] = {"name": name, "size": 0, "type": "directory"} if mark else _file(name, file)
        if not found and (below or not artifact.files):
            raise FileNotFoundError(path)
        entries = sorted(found.values(), key=lambda one: str(one["name"]))
        return entries if detail else [one["name"] for one in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size, type and SHA-256 of a file, or that it is a folder."""
        artifact, prefix, below = self.artifact(path)
        name = f"{prefix}/{below}" if below else prefix
        for file in artifact.files:
            if file.path == below:
                return _file(name, file)
            if not below or file.path.startswith(below + "/"):
                return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Verified bytes of a file; negative places count from its end."""
        artifact, _, below = self.artifact(path)
        size = self.info(path)
        if size["type"] != "file":
            raise IsADirectoryError(path)
        first, stop, _ = slice(start, end).indices(size["size"])
        return artifact.read(below, first, max(first, stop))

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> TenpakFile:
        if mode != "rb":
            raise OSError(30, "artifacts are read only", path)
        if self.info(path)["type"] != "file":
            raise IsADirectoryError(path)
        return TenpakFile(self, path, mode, block_size or 8 << 20, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forgets what names meant: a tag that has moved is followed."""
        self._artifacts.clear()
        super().invalidate_cache(path)

    def ukey(self, path: str) -> str:
        """What changes when the file does."""
        return str(self.info(path).get("sha256", ""))

    def checksum(self, path: str) -> int:
        """The same as a number."""
        return int(self.ukey(path) or "0", 16)

    def created(self, path: str) -> Any:
        raise NotImplementedError("artifacts keep no times")

    modified = created


def _file(name: str, file: Any) -> dict[str, Any]:
    return {"name": name, "size": file.size, "type": "file", "sha256": file.sha256, "islink": False}


class TenpakFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file of an artifact."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = self.fs.cat_file(self.path, start, end)
        return found
