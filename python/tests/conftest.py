"""A model in a store, made once, and what tests do to stores."""

import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tenpak

NAME = "org/model"


def weights() -> dict:
    rng = np.random.default_rng(7)
    bf16 = lambda *shape: rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)  # noqa: E731
    return {
        "model.embed_tokens.weight": bf16(512, 256),
        "model.layers.0.self_attn.q_proj.weight": bf16(1024, 1024),
        "model.layers.0.self_attn.o_proj.weight": bf16(2048, 2048),
        "model.layers.0.mlp.experts.gate_up_proj": bf16(4, 256, 512),
        "model.norm.weight": rng.standard_normal(256, np.float32),
        "bytes": rng.integers(0, 256, (3, 5), np.uint8),
        "empty": np.zeros((0, 3), np.float16),
        "half": rng.standard_normal((33, 17)).astype(np.float16),
        "scalar": np.array(3.5, np.float64),
        "ints": rng.integers(-9, 9, (6, 7, 8), np.int64),
        "mask": rng.integers(0, 2, 40).astype(bool),
    }


@pytest.fixture(scope="session")
def tensors():
    return weights()


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tensors):
    folder = tmp_path_factory.mktemp("model")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "np"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["None"]}))
    (folder / "notes").mkdir()
    (folder / "notes" / "read me.txt").write_text("plain words\n" * 1000)
    return folder


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Nothing of the user's: no keys, no refs that were seen."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    for name in ("TENPAK_STORE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def store(tmp_path_factory, folder):
    store = tmp_path_factory.mktemp("store") / "store"
    tenpak.Store(store).pack(folder, NAME, allow_incomplete=True)
    return str(store)


class Ranges(http.server.BaseHTTPRequestHandler):
    """Files of a folder, whole or in ranges, as any web server gives them."""

    protocol_version = "HTTP/1.1"
    folder: Path
    given: list
    """What was asked for: path, first byte, and the byte after the last."""

    def do_GET(self):
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked, size = self.headers.get("Range"), path.stat().st_size
        start, stop = 0, size
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start = int(first) if first else max(size - int(last), 0)
            stop = min(int(last) + 1, size) if first and last else size
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.given.append((self.path, start, stop))
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start))

    def log_message(self, *arguments):
        pass


class Web:
    """A folder behind a web server."""

    def __init__(self, folder):
        self.given = []
        handler = type("Own", (Ranges,), {"folder": Path(folder), "given": self.given})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def web(store):
    """The store behind a web server."""
    web = Web(store)
    yield web
    web.close()


@pytest.fixture(scope="session")
def web_store(web):
    return web.url


@pytest.fixture
def own_store(tmp_path, store):
    """A copy of the store, to be damaged."""
    return str(shutil.copytree(store, tmp_path / "own"))


@pytest.fixture
def opened(store):
    with tenpak.safe_open(NAME, "np", store=store) as opened:
        yield opened


def flip(store: str, every: str = "packs") -> None:
    """Turns a bit of each chunk over: of every KiB of every pack."""
    for path in Path(store, every).iterdir():
        content = bytearray(path.read_bytes())
        # Not the index at the end.
        for at in range(0, max(len(content) - 20_000, 1), 1024):
            content[at] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
