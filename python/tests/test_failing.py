"""What is raised: which exception, and which of its fields."""

import asyncio
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import tenpak
import tenpak.fs
from conftest import NAME, flip

LARGE = "model.layers.0.self_attn.o_proj.weight"


def call_open_tensor(store):
    tenpak.safe_open(NAME, "np", store=store).get_tensor(LARGE)


def call_tensors(store):
    tenpak.safe_open(NAME, "np", store=store).get_tensors([LARGE])


def call_slice(store):
    tenpak.safe_open(NAME, "np", store=store).get_slice(LARGE)[:, 100:200]


def call_load(store):
    tenpak.load_file(NAME, framework="np", store=store)


def call_stream(store):
    list(tenpak.stream(NAME, [LARGE], framework="np", store=store))


def call_get(store):
    tenpak.Artifact(NAME, store=store).get(LARGE)


def call_read(store):
    tenpak.Artifact(NAME, store=store).read("model.safetensors")


def call_verify(store):
    tenpak.Store(store).verify(NAME)


def call_file(store):
    with tenpak.fs.TenpakFileSystem(store=store).open(f"{NAME}/model.safetensors") as file:
        file.read()


def call_async_load(store):
    asyncio.run(tenpak.aio.load_file(NAME, framework="np", store=store))


def call_async_stream(store):
    async def read():
        async for _ in tenpak.aio.stream(NAME, framework="np", store=store):
            pass

    asyncio.run(read())


def call_shard(store):
    list(tenpak.stream(NAME, [LARGE], framework="np", store=store, shard=(1, 2)))


def call_snapshot(store):
    tenpak.snapshot_download(NAME, store=store, cache_dir=Path(store).parent / "cache")


CALLS = [
    call_open_tensor, call_tensors, call_slice, call_load, call_stream, call_get, call_read, call_verify, call_file,
    call_async_load, call_async_stream, call_shard, call_snapshot,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_flipped_bit_names_tensor_and_chunk(own_store, call):
    flip(own_store)
    with pytest.raises(tenpak.DamagedError) as raised:
        call(own_store)
    error = raised.value
    assert error.tensor and error.chunk is not None and error.pack and error.offset is not None, error.__dict__
    assert error.artifact == tenpak.Artifact(NAME, store=own_store).id
    assert error.tensor in str(error) and isinstance(error, tenpak.TenpakError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.__dict__ == error.__dict__ and str(again) == str(error)


def test_what_the_command_finds_damaged_is_named_too(own_store, tmp_path):
    flip(own_store)
    store = tenpak.Store(own_store)
    with pytest.raises(tenpak.DamagedError) as raised:
        store.unpack(NAME, tmp_path / "out")
    assert raised.value.pack and raised.value.chunk is not None and raised.value.offset is not None
    with pytest.raises(tenpak.DamagedError) as raised:
        store.cp(NAME, tmp_path / "copy", force=True)
    assert raised.value.pack and raised.value.offset is not None, str(raised.value)
    error = tenpak._errors.of_status(4, 'artifact ' + "a" * 64 + ': tensor "x\\"y": chunk 7 (pack ' + "b" * 64 + " at 9): damaged")
    assert (error.artifact, error.tensor, error.chunk, error.pack, error.offset) == ("a" * 64, 'x\\"y', 7, "b" * 64, 9)


@pytest.mark.parametrize("what", ["manifests", "tables"])
def test_a_flipped_bit_elsewhere_is_damage_too(own_store, what):
    for path in Path(own_store, what).iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    with pytest.raises(tenpak.DamagedError) as raised:
        tenpak.load_file(NAME, framework="np", store=own_store)
    assert what in str(raised.value) and raised.value.location


def test_a_mirror_mends_it(own_store, store, tensors):
    flip(own_store)
    loaded = tenpak.load_file(NAME, framework="np", store=own_store, mirror=store)
    assert loaded[LARGE].tobytes() == tensors[LARGE].tobytes()


def test_what_is_not_there(store, tmp_path):
    for call in [
        lambda: tenpak.Artifact("org/other", store=store),
        lambda: tenpak.Artifact(NAME, store=tmp_path / "none"),
        lambda: tenpak.safe_open(NAME, "np", store=store).get_tensor("nothing"),
        lambda: tenpak.safe_open(NAME, "np", store=store).get_slice("nothing"),
        lambda: list(tenpak.stream(NAME, ["nothing"], store=store, framework="np")),
        lambda: tenpak.safe_open(NAME, "np", store=store, file="other.safetensors"),
        lambda: tenpak.Store(store).open("org/other"),
        lambda: tenpak.Store(store).verify("org/other"),
        lambda: tenpak.Store(tmp_path / "none").ls(),
    ]:
        with pytest.raises(tenpak.NotFoundError) as raised:
            call()
        assert isinstance(raised.value, FileNotFoundError) and str(raised.value)


def test_what_makes_no_sense(store):
    for call in [
        lambda: tenpak.Artifact("no name at all", store=store),
        lambda: tenpak.safe_open(NAME, "cobol", store=store),
        lambda: tenpak.safe_open(NAME, "np", "cuda", store=store),
        lambda: tenpak.Artifact(NAME, store=store, trust=[]),
        lambda: tenpak.Store(store).pack(".", "no name at all"),
    ]:
        with pytest.raises(tenpak.InvalidError):
            call()


def test_who_is_not_trusted(store, tmp_path, folder):
    command = os.environ["TENPAK_COMMAND"]
    for name in ("mine", "other"):
        subprocess.run([command, "keygen", tmp_path / name], check=True, capture_output=True)
    with pytest.raises(tenpak.UntrustedError):
        tenpak.Artifact(NAME, store=store, trust=tmp_path / "mine.pub")
    with pytest.raises(tenpak.UntrustedError):
        tenpak.Store(store, trust=tmp_path / "mine.pub").verify(NAME)
    signed = tmp_path / "signed"
    tenpak.Store(signed).pack(folder / "config.json", "org/config", sign=tmp_path / "mine", allow_incomplete=True)
    artifact = tenpak.Artifact("org/config", store=signed, trust=tmp_path / "mine.pub")
    assert len(artifact.signatures) == 1
    with pytest.raises(tenpak.UntrustedError):
        tenpak.Artifact("org/config", store=signed, trust=[str(tmp_path / "other.pub")])


def test_a_server_that_is_gone():
    with pytest.raises(tenpak.TenpakError) as raised:
        tenpak.Artifact(NAME, store="http://127.0.0.1:9/store")
    assert isinstance(raised.value, tenpak.NetworkError)


def run(code, **options):
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("where", ["store", "web_store"])
def test_a_fork_goes_on_with_what_was_opened(where, request):
    # From a web server chunks are hashed by threads of the library's own, which a fork leaves behind.
    store = request.getfixturevalue(where)
    done = run(
        f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import tenpak
        opened = tenpak.safe_open({NAME!r}, "np", store={store!r})
        before = opened.get_tensor({LARGE!r})
        stream = opened.artifact.stream(framework="np")
        next(stream)
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                good = (opened.get_tensor({LARGE!r}) == before).all() and opened.get_slice("ints")[1].shape == (7, 8)
                good = good and len(tenpak.load_file({NAME!r}, framework="np", store={store!r})) == 11
                try:
                    # Some tensors had been handed out before.
                    list(stream)
                    good = False
                except tenpak.TenpakError as error:
                    good = good and "process" in str(error)
                os._exit(0 if good else 1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * 4, codes
        assert sum(1 for _ in stream) == 10
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["store", "web_store"])
def test_the_interpreter_ends_during_a_stream(where, request):
    store = request.getfixturevalue(where)
    for end in ["", "sys.exit(0)", "raise SystemExit(0)"]:
        done = run(
            f"""
            import sys, tenpak, threading
            stream = tenpak.stream({NAME!r}, framework="np", store={store!r}, budget=1)
            first = next(stream)
            threading.Thread(target=lambda: list(tenpak.stream({NAME!r}, framework="np", store={store!r})), daemon=True).start()
            {end}
            """
        )
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_an_interrupt_ends_a_wait():
    # A server that takes connections and says nothing.
    done = run(
        """
        import os, signal, socket, threading, time
        import tenpak
        # Whoever started the tests may have it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        quiet = socket.create_server(("127.0.0.1", 0))
        def interrupt():
            quiet.accept()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        try:
            tenpak.Artifact("org/model", store=f"http://127.0.0.1:{quiet.getsockname()[1]}")
        except KeyboardInterrupt:
            assert time.monotonic() - began < 5
            print("interrupted")
        """
    )
    assert done.stdout == "interrupted\n", done.stderr


WAITS = {
    "stream": "list(tenpak.stream({name!r}, framework='np', store=store))",
    "load_file": "tenpak.load_file({name!r}, framework='np', store=store)",
    "get_tensor": "tenpak.safe_open({name!r}, 'np', store=store).get_tensor({large!r})",
    "get_slice": "tenpak.safe_open({name!r}, 'np', store=store).get_slice({large!r})[:, 5]",
    "read": "tenpak.Artifact({name!r}, store=store).read('model.safetensors')",
}


@pytest.mark.parametrize("wait", WAITS)
def test_an_interrupt_ends_a_wait_for_chunks(store, wait):
    """The server gives all but the packs, of which it never says a word."""
    code = WAITS[wait].format(name=NAME, large=LARGE)
    done = run(
        f"""
        import os, signal, threading, time
        import tenpak
        from conftest import Ranges, Web
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first = threading.Lock()
        answer = Ranges.do_GET
        def quiet(self):
            if not self.path.startswith("/packs/"):
                return answer(self)
            if first.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
        Ranges.do_GET = quiet
        store = Web({store!r}).url
        began = time.monotonic()
        try:
            {code}
        except KeyboardInterrupt:
            assert time.monotonic() - began < 5
            print("interrupted", flush=True)
            os._exit(0)
        """,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_an_interrupt_ends_a_commands_work(tmp_path, folder):
    other = tmp_path / "first"
    other.mkdir()
    (other / "notes.txt").write_text("first")
    done = run(
        f"""
        import os, signal
        import tenpak
        signal.signal(signal.SIGINT, signal.default_int_handler)
        store = tenpak.Store({str(tmp_path / "store")!r})
        # A store that is there, whenever the interrupt comes.
        store.pack({str(other)!r}, "org/first", allow_incomplete=True)
        def interrupt(progress):
            os.kill(os.getpid(), signal.SIGINT)
        try:
            store.pack({str(folder)!r}, {NAME!r}, allow_incomplete=True, progress=interrupt)
        except KeyboardInterrupt:
            found = str(store.ls())
            print("interrupted", "org/first" in found, {NAME!r} in found)
        """
    )
    assert done.stdout == "interrupted True False\n", done.stderr


def test_other_threads_run_while_one_waits():
    done = run(
        """
        import socket, threading
        import tenpak
        quiet = socket.create_server(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{quiet.getsockname()[1]}"
        def wait():
            try: tenpak.Artifact("org/model", store=where)
            except BaseException: pass
        threading.Thread(target=wait, daemon=True).start()
        # Were the lock held, this would not come.
        quiet.accept()
        print("ran")
        """
    )
    assert done.stdout == "ran\n", done.stderr


def test_threads_share_an_artifact(store, tensors):
    opened = tenpak.safe_open(NAME, "np", store=store)
    stream = opened.artifact.stream(framework="np")
    wrong, streamed = [], []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            name = str(rng.choice(list(tensors)))
            if opened.get_tensor(name).tobytes() != tensors[name].tobytes():
                wrong.append(name)
        while (found := stream._stream.next_batch()):
            streamed.extend(name for name, _, _ in found)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sorted(streamed) == sorted(tensors)
