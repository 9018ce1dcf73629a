"""An opened artifact: what it holds, and its tensors one by one, sliced, or as a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _framework, _index, _tenpak
from ._errors import InvalidError, TenpakError

if TYPE_CHECKING:
    from types import TracebackType

    from ._tenpak import Buffer

Trust = str | Iterable[str] | bool | None
"""Whom to trust: a public key, a trust file or `hmac:FILE`, or several of them. `None` means the trust file
in the user's configuration directory, if there is one; `False` means that signatures are not looked at."""


KEEP = (1 << 64) - 1
"""The budget of who keeps whatever arrives: nothing is gained by holding it back."""


class TensorInfo(NamedTuple):
    """A tensor as the artifact lists it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    digest: str


class FileInfo(NamedTuple):
    """A file of an artifact."""

    path: str
    size: int
    sha256: str
    executable: bool
    has_tensors: bool


class Stats(NamedTuple):
    """What was done for an artifact or a stream."""

    requests: int
    fetched_bytes: int
    delivered_bytes: int


def store_location(store: str | os.PathLike[str] | None) -> str:
    """The store that is meant: that one, `TENPAK_STORE`, or the user's own."""
    if store is not None:
        return os.fspath(store)
    if named := os.environ.get("TENPAK_STORE"):
        return named
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "tenpak", "store")


def several(given: str | os.PathLike[str] | Iterable[str] | None) -> list[str]:
    """None, one or several, as a list."""
    if given is None:
        return []
    if isinstance(given, (str, os.PathLike)):
        return [os.fspath(given)]
    return [os.fspath(one) for one in given]


def trusted(trust: Trust) -> list[str] | None:
    """The keys that are meant; `None` for the user's own."""
    if trust is None or trust is True:
        return None
    if trust is False:
        return []
    keys = several(trust)
    if not keys:
        raise InvalidError("trust names no key: give one, or False to look at no signature")
    return keys


class Artifact:
    """A model in a store, whose manifest was read and found signed by whom you trust.

    Args:
        spec: `org/model`, `org/model:tag`, or `@` and an id
        store: a folder, `s3://`, `gs://`, `az://` or `http(s)://`; by default `TENPAK_STORE`
        trust: see `tenpak.Trust`
        mirror: other copies of the store, to read from where the first fails
        headers: sent with every request over http, as `Name: value`
        ca: a file with certificates to trust beside the system's

    Raises:
        NotFoundError: there is no such store or artifact
        UntrustedError: no trusted key signed it, or its name was rolled back or has expired
        DamagedError: what the store holds is not what was signed
        NetworkError: the store could not be reached
    """

    def __init__(
        self,
        spec: str,
        *,
        store: str | os.PathLike[str] | None = None,
        trust: Trust = None,
        mirror: str | Iterable[str] | None = None,
        headers: str | Iterable[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        self._opened = _tenpak.open(
            spec,
            store_location(store),
            several(mirror),
            trusted(trust),
            several(headers),
            None if ca is None else os.fspath(ca),
        )
        self._spec = spec
        self._tensors: list[TensorInfo] | None = None

    def __repr__(self) -> str:
        return f"Artifact({self._spec!r}, id={self.id[:16]!r}, store={self.store!r})"

    @property
    def id(self) -> str:
        """Its identifier: the BLAKE3 of its manifest."""
        return self._opened.id

    @property
    def name(self) -> str | None:
        """The name and tag that it was opened by, `org/model:tag`; `None` if by its id."""
        named = self._opened.name
        return None if named is None else ":".join(named)

    @property
    def store(self) -> str:
        """The address of the store."""
        return self._opened.location

    @property
    def signatures(self) -> list[str]:
        """The trusted keys that signed it; none if nobody is trusted."""
        return self._opened.signed_by

    @property
    def warnings(self) -> list[str]:
        """What its reader should know although it could be opened."""
        return self._opened.warnings

    @property
    def manifest(self) -> dict[str, Any]:
        """The signed manifest."""
        found: dict[str, Any] = json.loads(self._opened.manifest)
        return found

    @property
    def manifest_bytes(self) -> bytes:
        """The exact bytes of the manifest, whose BLAKE3 is the artifact's id."""
        return self._opened.manifest

    @property
    def lineage(self) -> dict[str, Any]:
        """What it was made of and how: `source`, `quantization`, `delta` and `optimization` of its manifest,
        as far as it has them."""
        manifest = self.manifest
        fields = ("model_id", "source", "quantization", "delta", "optimization")
        return {field: manifest[field] for field in fields if manifest.get(field) is not None}

    @property
    def files(self) -> list[FileInfo]:
        """Its files, sorted by path."""
        return [FileInfo(*row) for row in self._opened.files()]

    @property
    def tensors(self) -> list[TensorInfo]:
        """Its tensors, in load order."""
        if self._tensors is None:
            rows = self._opened.tensors()
            self._tensors = [
                TensorInfo(name, dtype, tuple(shape), nbytes, file, digest)
                for name, dtype, shape, nbytes, file, digest in rows
            ]
        return self._tensors

    @property
    def stats(self) -> Stats:
        """What was fetched so far to open it, to list it, and for tensors that were asked for one by one."""
        return Stats(*self._opened.stats)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Verified bytes of one of its files, from `start` up to `stop`.

        Raises:
            NotFoundError: it has no such file
            DamagedError: a chunk is not what was signed
        """
        return self._opened.read_file(path, max(start, 0), (1 << 63) if stop is None else max(stop, 0))

    def get(self, name: str, *, file: str | None = None) -> Buffer:
        """A tensor's verified bytes, for DLPack or the buffer protocol."""
        return self._opened.get(name, file)

    def stream(
        self,
        names: Sequence[str] | None = None,
        *,
        framework: str = "pt",
        device: Any = "cpu",
        file: str | None = None,
        shard: tuple[int, int] | None = None,
        budget: int | None = None,
        progress: bool = False,
    ) -> TensorStream:
        """Tensors as they are verified; see `tenpak.stream`."""
        make = _framework.maker(framework, device)
        if names is not None:
            names = list(dict.fromkeys(names))
            if not names:
                return TensorStream(None, make, None)
        total = None
        if progress:
            wanted = None if names is None else set(names)
            total = sum(one.nbytes for one in self.tensors if wanted is None or one.name in wanted)
        stream = self._opened.stream(names, file, shard, budget)
        return TensorStream(stream, make, _bar(total))


def _bar(total: int | None) -> Any:
    """A bar of tqdm, if it is there and wanted."""
    if total is None:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="loading")


class TensorStream:
    """An iterator of (name, tensor). Closing it, or dropping it, ends the load."""

    def __init__(self, stream: _tenpak.Stream | None, make: _framework.Make, bar: Any) -> None:
        self._stream = stream
        self._make = make
        self._bar = bar
        self._ready: list[tuple[str, int, Buffer]] = []

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self

    def __next__(self) -> tuple[str, Any]:
        found = self.next_buffer()
        if found is None:
            raise StopIteration
        name, _, buffer = found
        return name, self.make(buffer)

    def next_buffer(self) -> tuple[str, int, Buffer] | None:
        """The next tensor as memory: its name, the place of its file among the artifact's, its bytes. `None` at the
        end."""
        if not self._ready:
            if self._stream is None:
                return None
            self._ready = self._stream.next_batch()
            self._ready.reverse()
            if not self._ready:
                self.close()
                return None
        found = self._ready.pop()
        if self._bar is not None:
            self._bar.update(found[2].nbytes)
        return found

    def make(self, buffer: Buffer) -> Any:
        """The memory as a tensor of the stream's framework."""
        return self._make(buffer, None)

    @property
    def stats(self) -> Stats:
        """What was fetched so far."""
        return Stats(0, 0, 0) if self._stream is None else Stats(*self._stream.stats)

    def close(self) -> None:
        """Ends the load."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._ready = []
        if self._stream is not None:
            self._stream.close()

    def forget(self) -> None:
        """Ends the load without waiting for what is on its way."""
        self._ready = []
        self._stream = None

    def __enter__(self) -> TensorStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SafeSlice:
    """A tensor of which parts are fetched: `safe_open(...).get_slice(name)[index]`."""

    def __init__(
        self, opened: _tenpak.Opened, name: str, file: str | None, make: _framework.Make, is_strict: bool
    ) -> None:
        self._opened, self._name, self._file, self._make, self._is_strict = opened, name, file, make, is_strict
        self._dtype, shape = opened.describe(name, file)
        self._shape = tuple(shape)

    def get_shape(self) -> list[int]:
        """The dimensions of the whole tensor."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """The element type as safetensors spells it."""
        return self._dtype

    def __getitem__(self, index: Any) -> Any:
        """The part of the tensor that `index` means. Only chunks under it are fetched: for integers, slices with
        positive steps, `None` and `...`; any other index fetches the whole tensor. As in safetensors, a slice of torch
        ends where the tensor ends; of other frameworks one that ends later is refused, and so are lists.

        Raises:
            IndexError: it is not within the tensor
            DamagedError: a chunk is not what was signed
        """
        meant = _index.normalize(index, self._shape, self._is_strict)
        if meant is None:
            return self._make(self._opened.get(self._name, self._file), None)[index]
        steps, shape = meant
        return self._make(self._opened.get_slice(self._name, steps, self._file), shape)


class SafeOpen:
    """What `tenpak.safe_open` gives: safetensors' methods over an artifact."""

    def __init__(self, artifact: Artifact, framework: str, device: Any, file: str | None) -> None:
        self.artifact = artifact
        self._file = file
        self._make = _framework.maker(framework, device)
        self._is_strict = _framework.name_of(framework) != "torch"
        self._is_open = True

    def _opened(self) -> _tenpak.Opened:
        if not self._is_open:
            raise TenpakError("it is closed: use it inside `with safe_open(...)`")
        return self.artifact._opened

    def _infos(self) -> list[TensorInfo]:
        self._opened()
        return [one for one in self.artifact.tensors if self._file is None or one.file == self._file]

    def keys(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted({one.name for one in self._infos()})

    def offset_keys(self) -> list[str]:
        """The names of all tensors, in the order in which they lie in the store."""
        return list(dict.fromkeys(one.name for one in self._infos()))

    def metadata(self) -> dict[str, str] | None:
        """`__metadata__` of the file, or of the first file with tensors that has any."""
        files = dict.fromkeys(one.file for one in self._infos())
        for path in files:
            if not path.endswith(".safetensors"):
                continue
            length = int.from_bytes(self.artifact.read(path, 0, 8), "little")
            header = json.loads(self.artifact.read(path, 8, 8 + length))
            found: Mapping[str, str] | None = header.get("__metadata__")
            if found:
                return dict(found)
        return None

    def get_tensor(self, name: str) -> Any:
        """A verified tensor.

        Raises:
            NotFoundError: there is none of that name
            DamagedError: a chunk is not what was signed; the exception names tensor and chunk
        """
        return self._make(self._opened().get(name, self._file), None)

    def get_tensors(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Several tensors at a time, or all: faster than one by one."""
        wanted = self.offset_keys() if names is None else list(dict.fromkeys(names))
        opened = self._opened()
        if not wanted:
            return {}
        stream = opened.stream(None if names is None else wanted, self._file, None, KEEP)
        return dict(TensorStream(stream, self._make, None))

    def get_slice(self, name: str) -> SafeSlice:
        """A tensor of which parts are fetched as they are indexed."""
        return SafeSlice(self._opened(), name, self._file, self._make, self._is_strict)

    def __enter__(self) -> SafeOpen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
