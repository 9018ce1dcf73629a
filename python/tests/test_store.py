"""What writes: the command's work, its progress, and what ends it."""

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tenpak
from conftest import NAME


def test_what_is_packed_is_listed_copied_and_verified(tmp_path, folder):
    store = tenpak.Store(tmp_path / "store")
    told = []
    packed = store.pack(folder, "org/model:v1", allow_incomplete=True, progress=told.append)
    assert told and told[-1].done == told[-1].total > 0 and told[-1].unit == "bytes"
    (listed,) = store.ls()
    assert (listed.name, listed.tag, listed.manifest) == ("org/model", "v1", packed["manifest"])
    assert store.ls("org/") == [listed] and store.ls("other/") == []
    assert store.verify()["ok"] and store.verify("org/model:v1")["chunks"] > 0
    other = tenpak.Store(tmp_path / "other")
    store.cp("org/model:v1", other, force=True)
    assert other.ls()[0].manifest == packed["manifest"]
    other.unpack("org/model:v1", tmp_path / "out")
    assert (tmp_path / "out/config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert store.open("org/model:v1").id == packed["manifest"]


def test_an_exception_in_a_callback_ends_the_work_and_comes_out(tmp_path, folder):
    store = tenpak.Store(tmp_path / "store")

    def fail(at):
        raise RuntimeError(f"enough of {at.phase}")

    with pytest.raises(RuntimeError, match="enough of packing"):
        store.pack(folder, NAME, allow_incomplete=True, progress=fail)
    with pytest.raises(tenpak.TenpakError):
        store.open(NAME)
    with pytest.raises(RuntimeError):
        tenpak.quantize(MODEL, "org/q", store=store, preset="bnb_nf4", progress=fail)
    with pytest.raises(tenpak.TenpakError):
        store.open("org/q")


MODEL = Path(__file__).resolve().parents[2] / "fixtures/lm/base"


def test_a_model_is_quantized_and_a_fine_tune_kept_as_a_delta(tmp_path):
    store = tenpak.Store(tmp_path / "store")
    store.pack(MODEL, "org/base")
    told = []
    tenpak.quantize("org/base", "org/base-int8", store=store, method="rtn", bits=8, progress=told.append)
    assert told
    small = store.open("org/base-int8")
    assert small.lineage["quantization"]["method"] == "rtn" and small.lineage["source"]
    tuned = tmp_path / "tuned"
    shutil.copytree(MODEL, tuned)
    tenpak.delta(tuned, "org/base", "org/tuned", store=store)
    assert store.open("org/tuned").lineage["delta"]["base_model_id"]


def test_a_command_that_fails_says_why(tmp_path):
    store = tenpak.Store(tmp_path / "store")
    with pytest.raises(tenpak.TenpakError) as raised:
        store.pack(tmp_path / "none", NAME)
    assert "none" in str(raised.value) and isinstance(raised.value, tenpak.NotFoundError)
    with pytest.raises(tenpak.InvalidError, match="quantize"):
        tenpak.quantize(MODEL, "org/q", store=store, no_such_option=3)


def test_the_command_is_found(tmp_path, monkeypatch):
    said = subprocess.run([sys.executable, "-m", "tenpak", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("tenpak ")
    said = subprocess.run([sys.executable, "-m", "tenpak", "ls", "--store", tmp_path / "no"], capture_output=True)
    assert said.returncode == 3
    monkeypatch.delenv("TENPAK_COMMAND")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(tenpak.TenpakError, match="TENPAK_COMMAND"):
        tenpak.Store(tmp_path).ls()


def test_asyncio_goes_on_meanwhile(store, tensors, tmp_path, folder):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        loaded = await tenpak.aio.load_file(NAME, framework="np", store=store)
        names = [name async for name, _ in tenpak.aio.stream(NAME, framework="np", store=store)]
        async for _ in tenpak.aio.stream(NAME, framework="np", store=store):
            break
        artifact = await tenpak.aio.open_artifact(NAME, store=store)
        half = await tenpak.aio.call(artifact.get, "half")
        opened = await tenpak.aio.safe_open(NAME, "np", store=store)
        ticking.cancel()
        assert loaded.keys() == set(names) == tensors.keys() and half.shape == (33, 17) and ticks > 5
        assert len(opened.keys()) == 11
        with pytest.raises(tenpak.NotFoundError):
            await tenpak.aio.open_artifact("org/none", store=store)

    asyncio.run(main())


def test_a_cancelled_task_stops_waiting():
    import socket

    quiet = socket.create_server(("127.0.0.1", 0))

    async def main():
        where = f"http://127.0.0.1:{quiet.getsockname()[1]}"
        task = asyncio.create_task(tenpak.aio.open_artifact(NAME, store=where))
        await asyncio.get_running_loop().run_in_executor(None, quiet.accept)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 1
        # The server goes, and the thread hears of it.
        quiet.close()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 60
