"""What safetensors' methods give, and what slices fetch."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import tenpak
from conftest import NAME


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def test_every_tensor_is_what_was_packed(opened, tensors):
    assert opened.keys() == sorted(tensors)
    assert sorted(opened.offset_keys()) == sorted(tensors)
    assert opened.metadata() == {"format": "np"}
    for name, tensor in tensors.items():
        same(opened.get_tensor(name), tensor)
    for name, tensor in opened.get_tensors().items():
        same(tensor, tensors[name])
    some = opened.get_tensors(["half", "bytes", "half"])
    assert list(some) == ["half", "bytes"]
    same(some["half"], tensors["half"])
    assert opened.get_tensors([]) == {}


def test_load_file_and_stream_give_all(store, tensors):
    loaded = tenpak.load_file(NAME, framework="np", store=store)
    assert loaded.keys() == tensors.keys()
    for name, tensor in loaded.items():
        same(tensor, tensors[name])
    asked = ["scalar", "model.norm.weight", "empty", "bytes"]
    assert [name for name, _ in tenpak.stream(NAME, asked, framework="np", store=store)] == asked
    # What is kept is not counted: a budget of nothing is no hang.
    kept = dict(tenpak.stream(NAME, framework="np", store=store, budget=1))
    assert kept.keys() == tensors.keys()


INDEXES = np.s_[
    2, -1, :, ..., 2:4, 1:5:2, 3:3, (slice(None), 3), (..., 5), (2, slice(1, 6, 3)), (-1, -2, -3),
    (slice(1, 4), slice(2, 5), slice(3, 8)), (None, 2, ..., slice(1, 2)), (slice(None), slice(None), slice(2, 7, 2)),
    (slice(-3, None), slice(None, -1)), (slice(4, 2),), (),
]  # fmt: skip


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_slices_are_numpys(opened, tensors, index):
    part = opened.get_slice("ints")
    assert part.get_shape() == [6, 7, 8] and part.get_dtype() == "I64"
    same(part[index], tensors["ints"][index])


def test_random_slices_of_every_grid(opened, tensors):
    rng = np.random.default_rng(3)
    for name, tensor in tensors.items():
        # As torch: a range may end beyond the tensor.
        part = tenpak.SafeSlice(opened.artifact._opened, name, None, opened._make, is_strict=False)
        for _ in range(12):
            index = []
            for size in tensor.shape[: rng.integers(0, tensor.ndim + 1)]:
                first, last = sorted(rng.integers(-size - 1, size + 2, 2))
                index.append(
                    int(rng.integers(-size, size)) if size and rng.random() < 0.3
                    else slice(int(first), int(last), int(rng.integers(1, 4)))
                )  # fmt: skip
            same(np.asarray(part[tuple(index)]), np.asarray(tensor[tuple(index)]))


@pytest.mark.parametrize("index", [6, -7, (0, 0, 0, 0), (0, ..., ...)], ids=str)
def test_what_is_not_within_is_an_index_error(opened, index):
    with pytest.raises(IndexError):
        opened.get_slice("ints")[index]


def test_a_step_backwards_is_refused(opened):
    with pytest.raises(ValueError, match="greater than zero"):
        opened.get_slice("ints")[::-1]


def test_what_safetensors_refuses_of_numpy_is_refused_in_its_words(opened, tensors):
    part = opened.get_slice("ints")
    told = "Error during slicing [{}] with shape [6, 7, 8]: index {} out of bounds for tensor dimension #{} of size {}"
    for index, text in [
        (np.s_[:7], told.format(":7", 6, 0, 6)),
        (np.s_[2:, 1:20:3], told.format("2:, 1:20:3", 19, 1, 7)),
        (np.s_[..., 8], told.format("..., 8", 8, 2, 8)),
        (np.s_[..., -9], "Invalid index -9 for dimension 2 of size 8"),
    ]:
        with pytest.raises(IndexError) as raised:
            part[index]
        assert str(raised.value) == text
    with pytest.raises(tenpak.InvalidError, match="Non empty lists are not implemented"):
        part[[0, 2]]
    same(part[[]], tensors["ints"][:0])


def test_masks_go_to_the_framework(opened, tensors):
    same(opened.get_slice("half")[tensors["half"] > 0], tensors["half"][tensors["half"] > 0])


def test_a_slice_fetches_the_chunks_under_it_and_no_more(store):
    artifact = tenpak.Artifact(NAME, store=store)
    name = "model.layers.0.self_attn.o_proj.weight"
    whole = next(one for one in artifact.tensors if one.name == name).nbytes

    def fetched(index, framework="np"):
        before = artifact.stats.fetched_bytes
        tenpak.SafeOpen(artifact, framework, "cpu", None).get_slice(name)[index]
        return artifact.stats.fetched_bytes - before

    everything = fetched(np.s_[:])
    assert 0.5 * whole < everything < 1.01 * whole
    # It is cut into columns: a few of them are one band, half of them half.
    assert fetched(np.s_[:, :8]) < everything / 3
    assert fetched(np.s_[:, :1024]) < everything * 0.51
    assert fetched(np.s_[:, 1024:]) < everything * 0.51
    assert fetched(np.s_[3:3]) == 0


def test_a_slice_takes_from_the_origin_the_chunks_under_it(web):
    """Which chunks those are is asked of single elements, so many that each chunk under the slice has one."""
    artifact = tenpak.Artifact(NAME, store=web.url)
    part = tenpak.SafeOpen(artifact, "np", "cpu", None).get_slice("model.layers.0.self_attn.o_proj.weight")
    part[0, 0]

    def taken(*index):
        before = len(web.given)
        part[index]
        return joined((start, stop) for path, start, stop in web.given[before:])

    def joined(ranges):
        found = []
        for start, stop in sorted(ranges):
            if found and start <= found[-1][1]:
                found[-1][1] = max(found[-1][1], stop)
            else:
                found.append([start, stop])
        return found

    def points(first, last):
        return sorted({*range(first, last, 60), last - 1})

    rng = np.random.default_rng(11)
    windows = [(0, 1, 0, 2048), (0, 2048, 700, 701), (5, 6, 9, 10), (0, 300, 1020, 1030)]
    for _ in range(4):
        (top, left), (height, width) = rng.integers(0, 1500, 2), rng.integers(1, 500, 2)
        windows.append((int(top), int(top + height), int(left), int(left + width)))
    for top, bottom, left, right in windows:
        own = [one for row in points(top, bottom) for column in points(left, right) for one in taken(row, column)]
        assert all(0 < stop - start <= 1 << 20 for start, stop in own), "an element is one chunk"
        assert taken(slice(top, bottom), slice(left, right)) == joined(own)


def test_memory_is_shared_not_copied(store, opened):
    buffer = tenpak.Artifact(NAME, store=store).get("ints")
    view = memoryview(buffer)
    assert not view.readonly and view.nbytes == buffer.nbytes == 6 * 7 * 8 * 8 and len(buffer) == view.nbytes
    array = np.frombuffer(buffer, "<i8").reshape(buffer.shape)
    other = np.from_dlpack(buffer)
    array[0, 0, 0] = 12345
    assert other[0, 0, 0] == 12345 and bytes(np.asarray(buffer)[:2]) == b"\x39\x30"
    copied = np.from_dlpack(buffer, copy=True)
    array[0, 0, 0] = 1
    assert copied[0, 0, 0] == 12345
    assert opened.get_tensor("ints").flags.writeable
    with pytest.raises((BufferError, TypeError, ValueError)):
        np.from_dlpack(buffer, device="cuda")
    capsule = buffer.__dlpack__()
    assert "dltensor" in repr(capsule)
    del capsule


def test_tensors_outlive_their_artifact(store, tensors):
    opened = tenpak.safe_open(NAME, "np", store=store)
    name = "model.layers.0.self_attn.o_proj.weight"
    kept, part = opened.get_tensor(name), opened.get_slice(name)[5:7, 9:12]
    stream = opened.artifact.stream(framework="np")
    first = next(stream)
    view = memoryview(opened.artifact.get("half"))
    del opened, stream
    for _ in range(3):
        tenpak.load_file(NAME, framework="np", store=store)
    same(kept, tensors[name])
    same(part, tensors[name][5:7, 9:12])
    same(first[1], tensors[first[0]])
    assert bytes(view) == tensors["half"].tobytes()


def test_types_that_numpy_lacks_come_from_ml_dtypes(opened, monkeypatch):
    assert opened.get_tensor("model.embed_tokens.weight").dtype == ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(tenpak.InvalidError, match="install ml_dtypes"):
        opened.get_tensor("model.embed_tokens.weight")


def test_a_shard_is_what_a_rank_needs(store, tensors):
    name = "model.layers.0.self_attn.o_proj.weight"
    for rank in range(2):
        ((_, part),) = tenpak.stream(NAME, [name], framework="np", store=store, shard=(rank, 2))
        same(part, tensors[name][:, rank * 1024 : (rank + 1) * 1024])
    with pytest.raises(ValueError):
        tenpak.stream(NAME, store=store, framework="np", shard=(2, 2))


def test_files_are_read_in_ranges(store, folder):
    artifact = tenpak.Artifact(NAME, store=store)
    assert [one.path for one in artifact.files] == ["config.json", "model.safetensors", "notes/read me.txt"]
    for one in artifact.files:
        content = (folder / one.path).read_bytes()
        assert artifact.read(one.path) == content and one.size == len(content)
        for start, stop in [(0, 0), (5, 9), (100, 5000), (len(content) - 3, len(content) + 9), (len(content), 10**9)]:
            assert artifact.read(one.path, start, stop) == content[start:stop]
    with pytest.raises(FileNotFoundError):
        artifact.read("nothing")


def test_what_an_artifact_says_of_itself(store):
    artifact = tenpak.Artifact(NAME, store=store, trust=False)
    assert artifact.name == "org/model:latest" and artifact.store.endswith("/store")
    assert artifact.manifest["totals"]["tensors"] == 11 and artifact.signatures == []
    assert tenpak.Artifact(f"@{artifact.id}", store=store).id == artifact.id
    assert "@" not in repr(artifact) and artifact.lineage.get("quantization") is None
    assert artifact.warnings == []


def test_a_closed_file_gives_nothing(store):
    with tenpak.safe_open(NAME, "np", store=store) as opened:
        pass
    with pytest.raises(tenpak.TenpakError, match="closed"):
        opened.get_tensor("half")


def test_a_local_file_is_opened_by_safetensors(folder, tensors):
    path = folder / "model.safetensors"
    with tenpak.safe_open(path, "np") as opened:
        same(opened.get_tensor("ints"), tensors["ints"])
    assert tenpak.load_file(str(path), framework="np").keys() == tensors.keys()
    with pytest.raises(FileNotFoundError):
        tenpak.safe_open("no/such.safetensors", "np")


def test_importing_is_quick():
    code = (
        "import sys, time; t = time.process_time(); import tenpak; "
        "print(time.process_time() - t, 'tenpak._tenpak' in sys.modules, 'numpy' in sys.modules)"
    )
    taken = []
    for _ in range(5):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert said[1:] == ["False", "False"]
        taken.append(float(said[0]))
    assert min(taken) < 0.06


def test_every_name_is_there():
    for name in [*tenpak.__all__, "__version__", "aio"]:
        assert getattr(tenpak, name) is not None and name in dir(tenpak)
    with pytest.raises(AttributeError):
        tenpak.nothing
    assert os.environ.get("HOME")
