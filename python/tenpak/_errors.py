"""What goes wrong, as exceptions. Every one is a `TenpakError`."""

from __future__ import annotations

import re
from typing import Any


class TenpakError(Exception):
    """Something of an artifact or a store could not be had.

    Attributes, each `None` where it is not known:
        artifact: the id of the artifact
        tensor: the name of the tensor
        chunk: which of the tensor's chunks
        pack: the pack in which the chunk lies
        offset: where in the pack
        location: the store or the mirror
    """

    artifact: str | None
    tensor: str | None
    chunk: int | None
    pack: str | None
    offset: int | None
    location: str | None

    def __init__(
        self,
        message: str = "",
        *,
        artifact: str | None = None,
        tensor: str | None = None,
        chunk: int | None = None,
        pack: str | None = None,
        offset: int | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(message)
        self.artifact = artifact
        self.tensor = tensor
        self.chunk = chunk
        self.pack = pack
        self.offset = offset
        self.location = location

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args, self.__dict__

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DamagedError(TenpakError):
    """Bytes are not those that were signed, or an object that a manifest names is missing."""


class UntrustedError(TenpakError):
    """No trusted key signed it, or the name is older than one that was seen, or has expired."""


class NotFoundError(TenpakError, FileNotFoundError):
    """No such store, artifact, tensor or file."""


class NetworkError(TenpakError):
    """The network or the store failed, retries included: trying again may help."""


class DeniedError(TenpakError, PermissionError):
    """The store refuses: credentials are missing or do not suffice."""


class InvalidError(TenpakError, ValueError):
    """What was asked makes no sense: a name that is none, options that exclude each other."""


class CommandError(TenpakError):
    """The command failed, for a reason that is none of the others'.

    Attributes:
        status: its exit status
    """

    status: int | None = None


_REFUSALS = (
    "is unsigned", "untrusted keys", "the signature by key", "is revoked", " expired on ", "is trusted, but not for",
    "was rolled back", "its publisher signed two",
)  # fmt: skip
"""How the command says that nobody who is trusted vouches."""


_SITES = (
    r'(?:artifact (?P<artifact>[0-9a-f]{64}): )?(?:tensor "(?P<tensor>(?:[^"\\]|\\.)*)": )?'
    r"(?:base of )?chunk (?P<chunk>\d+) \(pack (?P<pack>[0-9a-f]{64}) at (?P<offset>\d+)\)",
    r"packs/(?P<pack>[0-9a-f]{64}) at offset (?P<offset>\d+)",
)
"""How the command says where a chunk was to come from and go to."""


def _place(message: str) -> dict[str, Any]:
    for site in _SITES:
        if found := re.search(site, message):
            place: dict[str, Any] = found.groupdict()
            return {name: int(value) if name in ("chunk", "offset") and value else value for name, value in place.items()}
    return {}


def of_status(status: int, message: str) -> TenpakError:
    """The exception for an exit status of the command."""
    kinds: dict[int, type[TenpakError]] = {
        2: InvalidError,
        3: NotFoundError,
        4: DamagedError,
        5: NetworkError,
    }
    kind = kinds.get(status, CommandError)
    # One status stands for whatever is not as promised; the text tells which.
    if status == 4 and any(phrase in message for phrase in _REFUSALS):
        kind = UntrustedError
    error = kind(message, **_place(message))
    if isinstance(error, CommandError):
        error.status = status
    return error
