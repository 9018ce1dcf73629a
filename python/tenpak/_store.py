"""Stores, and what is made in them: everything that writes is the command's work, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import _command
from ._artifact import Artifact, Trust, several, store_location, trusted
from ._command import Callback
from ._errors import DamagedError

Path = str | os.PathLike[str]


class Listed(NamedTuple):
    """A name of a store."""

    name: str
    tag: str
    manifest: str
    version: int
    raw_bytes: int | None
    stored_bytes: int | None
    tensors: int | None


def _flags(**given: Any) -> list[str]:
    """Options of the command: `max_kl=0.1` is `--max-kl 0.1`, `True` a flag, a list repeats it."""
    flags: list[str] = []
    for name, value in given.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            flags.append(flag)
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            # With `=`, so that a value which begins with `-` is none of ours.
            flags.append(f"{flag}={os.fspath(one) if isinstance(one, os.PathLike) else one}")
    return flags


def _run(arguments: list[str], progress: Callback | bool | None) -> dict[str, Any]:
    if progress is not True:
        return _command.run(arguments, progress or None)
    tell, close = _command.bar()
    try:
        return _command.run(arguments, tell)
    finally:
        close()


class Store:
    """A store: a folder, a bucket, or a web server.

    Args:
        location: a folder, `s3://`, `gs://`, `az://` or `http(s)://`; by default `TENPAK_STORE`
        trust: see `tenpak.Trust`
        mirror: other copies of the store, to read from where the first fails
    """

    def __init__(
        self,
        location: Path | None = None,
        *,
        trust: Trust = None,
        mirror: str | Iterable[str] | None = None,
    ) -> None:
        self.location = store_location(location)
        self._trust = trust
        self._mirrors = several(mirror)

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    def _global(self) -> list[str]:
        # Trusting nobody is what the command does without a key and without a trust file of the user's.
        return _flags(store=self.location, trust=trusted(self._trust) or None, mirror=self._mirrors)

    def open(self, spec: str) -> Artifact:
        """Opens an artifact of it."""
        return Artifact(spec, store=self.location, trust=self._trust, mirror=self._mirrors)

    def ls(self, name: str | None = None) -> list[Listed]:
        """What is there: all names, those of one artifact, or those that begin with `org/` or `org/llama-*`."""
        found = _command.run(["ls", *self._global(), *(["--", name] if name else [])])
        fields = Listed._fields
        return [Listed(*(one.get(field) for field in fields)) for one in found["artifacts"]]

    def pack(
        self,
        path: Path,
        name: str,
        *,
        sign: Path | Iterable[Path] | None = None,
        codec: str | None = None,
        base: str | None = None,
        expires: int | None = None,
        opaque: str | Iterable[str] | None = None,
        allow_incomplete: bool = False,
        progress: Callback | bool | None = None,
    ) -> dict[str, Any]:
        """Packs a model folder or file under a name, as `tenpak pack` does.

        `progress` is called with a `Progress` some times a second; if it raises, nothing is published. `True` shows
        a bar, if tqdm is installed.

        Returns:
            What the command reports: `manifest`, `name`, `tag`, `raw_bytes`, `stored_bytes` and more
        """
        flags = _flags(
            name=name, sign=_paths(sign), codec=codec, base=base, expires=expires, opaque=several(opaque),
            allow_incomplete=allow_incomplete,
        )  # fmt: skip
        return _run(["pack", *self._global(), *flags, "--", os.fspath(path)], progress)

    def verify(self, spec: str | None = None, *, progress: Callback | bool | None = None) -> dict[str, Any]:
        """Checks every byte of an artifact, or of all that the store's names lead to.

        Raises:
            DamagedError: something is not what was signed. It names the first tensor or file; `damaged` has all.
        """
        report = _run(["verify", *self._global(), *(["--", spec] if spec else [])], progress)
        if report["ok"]:
            return report
        damaged = report["damaged"]
        first, more = next((one for one in damaged if one.get("tensor")), damaged[0]), len(damaged) - 1
        where = [f"tensor {first['tensor']!r}"] if first.get("tensor") else []
        where += [f"chunk {first['chunk']}"] if first.get("chunk") is not None else []
        places = f", and {more} more places" if more else ""
        error = DamagedError(
            f"{': '.join([*where, first['error']])}{places}",
            artifact=first.get("artifact"),
            tensor=first.get("tensor"),
            chunk=first.get("chunk"),
            pack=first.get("pack"),
            offset=first.get("offset"),
            location=self.location,
        )
        error.damaged = damaged  # type: ignore[attr-defined]
        raise error

    def cp(
        self,
        spec: str,
        to: Path | Store,
        *,
        force: bool = False,
        sign: Path | Iterable[Path] | None = None,
        progress: Callback | bool | None = None,
    ) -> dict[str, Any]:
        """Copies an artifact to another store; only what that store lacks is sent."""
        target = to.location if isinstance(to, Store) else os.fspath(to)
        flags = _flags(to=target, force=force, sign=_paths(sign))
        return _run(["cp", *self._global(), *flags, "--", spec], progress)

    def unpack(
        self, spec: str, out: Path, *, force: bool = False, progress: Callback | bool | None = None
    ) -> dict[str, Any]:
        """Writes an artifact's files to a folder, byte for byte."""
        flags = _flags(out=os.fspath(out), force=force)
        return _run(["unpack", *self._global(), *flags, "--", spec], progress)


def _paths(given: Path | Iterable[Path] | None) -> list[str]:
    return several(given)  # type: ignore[arg-type]


def _store(store: Path | Store | None, trust: Trust) -> Store:
    return store if isinstance(store, Store) else Store(store, trust=trust)


def quantize(
    source: Path,
    name: str,
    *,
    store: Path | Store | None = None,
    trust: Trust = None,
    sign: Path | Iterable[Path] | None = None,
    progress: Callback | bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Makes a quantized checkpoint of a model, as `tenpak quantize` does.

    Args:
        source: a folder, or an artifact of the store
        name: what the result is called, `org/model-int4:tag`
        progress: called with a `Progress`; if it raises, the work ends, nothing is published, and the exception comes
            out. `True` shows a bar, if tqdm is installed
        options: those of the command: `preset="gptq_fast"`, `method="gptq"`, `bits=4`, `group_size=128`,
            `skip=["lm_head"]`, ...

    Returns:
        What the command reports
    """
    own = _store(store, trust)
    flags = _flags(name=name, sign=_paths(sign), **options)
    return _run(["quantize", *own._global(), *flags, "--", os.fspath(source)], progress)


def delta(
    tuned: Path,
    base: str,
    name: str,
    *,
    store: Path | Store | None = None,
    trust: Trust = None,
    sign: Path | Iterable[Path] | None = None,
    progress: Callback | bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Stores a fine-tune as its difference from a base, as `tenpak delta` does; see `quantize`.

    Args:
        tuned: a folder, or an artifact of the store
        base: the artifact that it was tuned from
        options: `method="lossless"`, `threshold=...`, ...
    """
    own = _store(store, trust)
    flags = _flags(name=name, base=base, sign=_paths(sign), **options)
    return _run(["delta", *own._global(), *flags, "--", os.fspath(tuned)], progress)


def optimize(
    model: Path,
    name: str,
    *,
    store: Path | Store | None = None,
    trust: Trust = None,
    sign: Path | Iterable[Path] | None = None,
    progress: Callback | bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Finds the cheapest quantization that keeps limits, as `tenpak optimize` does; see `quantize`.

    Args:
        model: a folder, or an artifact of the store
        options: `max_ppl_delta=2.0`, `max_latency_ms=30`, `hardware=["a10g"]`, ...
    """
    own = _store(store, trust)
    flags = _flags(name=name, sign=_paths(sign), **options)
    return _run(["optimize", *own._global(), *flags, "--", os.fspath(model)], progress)
