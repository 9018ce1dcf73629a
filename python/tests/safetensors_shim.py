"""A plugin of pytest under which safetensors' own tests read with tenpak: what they wrote is packed into a store."""

import hashlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

import safetensors
import safetensors.numpy
import safetensors.torch

import tenpak

STORES = Path(tempfile.mkdtemp(prefix="tenpak-safetensors-"))
OPENED = []
"""How often ours was asked."""
PACKING = threading.Lock()


class Wrapped:
    """Ours, whose exceptions are safetensors'."""

    def __init__(self, own):
        self._own = own

    def __getattr__(self, name):
        found = getattr(self._own, name)
        return mapped(found) if callable(found) else found

    def __getitem__(self, index):
        return mapped(self._own.__getitem__)(index)

    def __enter__(self):
        self._own.__enter__()
        return self

    def __exit__(self, *exception):
        self._own.__exit__(*exception)


def mapped(method):
    def call(*arguments, **options):
        try:
            found = method(*arguments, **options)
        except (tenpak.TenpakError, IndexError, ValueError) as error:
            raise safetensors.SafetensorError(str(error)) from error
        return Wrapped(found) if isinstance(found, tenpak.SafeSlice) else found

    return call


def pack(path):
    content = Path(path).read_bytes()
    store = STORES / hashlib.sha256(content).hexdigest()
    # Threads may have written the same.
    with PACKING:
        if not store.exists():
            folder = Path(tempfile.mkdtemp(dir=STORES))
            (folder / "model.safetensors").write_bytes(content)
            tenpak.Store(store).pack(folder, "safetensors/test", allow_incomplete=True)
            shutil.rmtree(folder)
    OPENED.append(path)
    return str(store)


def safe_open(filename, framework="pt", device="cpu", *, backend="mmap"):
    if not os.path.exists(filename):
        raise FileNotFoundError(f"No such file or directory: {filename}")
    own = mapped(tenpak.safe_open)
    store = mapped(pack)(filename)
    return Wrapped(own("safetensors/test", framework, device, store=store, backend=backend))


def load_torch(filename, device="cpu", *, backend="mmap"):
    with safe_open(filename, "pt", device, backend=backend) as opened:
        return dict(opened.get_tensors())


def load_numpy(filename):
    with safe_open(filename, "np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}


safetensors.safe_open = safe_open
safetensors.torch.safe_open = safe_open
safetensors.torch.load_file = load_torch
safetensors.numpy.safe_open = safe_open
safetensors.numpy.load_file = load_numpy


def pytest_sessionfinish(session):
    print(f"\nopened with tenpak: {len(OPENED)} times")
    shutil.rmtree(STORES, ignore_errors=True)
    assert OPENED or session.config.option.collectonly
