"""fsspec, and the cache of huggingface_hub."""

import io
import os
import stat
from pathlib import Path

import fsspec
import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

import tenpak
from conftest import NAME, flip


def url(store, path):
    return f"tenpak://{store}!{NAME}/{path}"


def test_fsspec_finds_it_by_its_entry_point(store, folder):
    with fsspec.open(url(store, "config.json")) as file:
        assert file.read() == (folder / "config.json").read_bytes()
    with fsspec.open(url(store, "notes/read me.txt"), "rt") as file:
        assert file.readline() == "plain words\n"


def test_a_file_is_read_as_any(store, folder):
    fs, path = fsspec.url_to_fs(url(store, "model.safetensors"))
    content = (folder / "model.safetensors").read_bytes()
    with fs.open(path, block_size=1000) as file, io.BytesIO(content) as plain:
        for place, length in [(0, 8), (10, 100), (-50, 70), (5000, 3000), (3, 1), (-1, 5)]:
            whence = os.SEEK_END if place < 0 else os.SEEK_SET
            assert file.seek(place, whence) == plain.seek(place, whence)
            assert file.read(length) == plain.read(length)
    assert fs.cat_file(path, 5, 20) == content[5:20] and fs.cat_file(path, -9) == content[-9:]
    assert fs.cat_ranges([path, path], [0, 7], [3, 9]) == [content[:3], content[7:9]]
    assert fs.size(path) == len(content) and fs.head(path, 4) == content[:4] and fs.tail(path, 4) == content[-4:]
    assert fs.checksum(path) == fs.checksum(path) and len(fs.ukey(path)) == 64


def test_folders_are_listed_walked_and_matched(store):
    fs, root = fsspec.url_to_fs(f"tenpak://{store}!{NAME}")
    names = [one.removeprefix(root + "/") for one in fs.ls(root, detail=False)]
    assert names == ["config.json", "model.safetensors", "notes"]
    assert fs.isdir(root) and fs.isdir(root + "/notes") and fs.isfile(root + "/notes/read me.txt")
    assert not fs.exists(root + "/nothing") and not fs.exists(root + "/note")
    assert [one.rpartition("/")[2] for one in fs.glob(root + "/**/*.txt")] == ["read me.txt"]
    assert len(fs.find(root)) == 3 and fs.du(root) == sum(one["size"] for one in fs.find(root, detail=True).values())
    assert [entry[2] for entry in fs.walk(root)] == [["config.json", "model.safetensors"], ["read me.txt"]]


def test_files_are_fetched_to_disk(store, folder, tmp_path):
    fs, root = fsspec.url_to_fs(f"tenpak://{store}!{NAME}")
    fs.get(root, str(tmp_path / "out"), recursive=True)
    for path in ["config.json", "model.safetensors", "notes/read me.txt"]:
        assert (tmp_path / "out" / path).read_bytes() == (folder / path).read_bytes()


def test_nothing_is_written(store):
    fs, path = fsspec.url_to_fs(url(store, "config.json"))
    for call in [lambda: fs.open(path, "wb"), lambda: fs.rm_file(path), lambda: fs.pipe_file(path, b"")]:
        with pytest.raises((OSError, NotImplementedError)):
            call()


@pytest.mark.parametrize("path", ["nothing", "notes/none", "config.json/x"])
def test_what_is_not_there_is_not_found(store, path):
    fs, path = fsspec.url_to_fs(url(store, path))
    for call in [fs.info, fs.ls, fs.open, fs.cat_file]:
        with pytest.raises(FileNotFoundError):
            call(path)
    with pytest.raises(FileNotFoundError):
        fsspec.open(f"tenpak://{store}!org/none/x").open()


def test_a_store_may_be_given_apart(store):
    fs = fsspec.filesystem("tenpak", store=store)
    assert fs.cat("tenpak://org/model:latest/config.json") == fs.cat("org/model/config.json")
    identity = tenpak.Artifact(NAME, store=store).id
    assert fs.cat(f"@{identity}/config.json") == fs.cat("org/model/config.json")


def test_damage_is_an_exception_here_too(own_store):
    flip(own_store)
    fs, path = fsspec.url_to_fs(url(own_store, "model.safetensors"))
    with pytest.raises(tenpak.DamagedError):
        fs.cat_file(path)


def test_a_snapshot_is_what_the_hubs_clients_find(store, folder, tmp_path):
    cache = tmp_path / "cache"
    found = tenpak.snapshot_download(NAME, store=store, cache_dir=cache)
    for path in ["config.json", "model.safetensors", "notes/read me.txt"]:
        assert Path(found, path).read_bytes() == (folder / path).read_bytes()
        assert Path(found, path).is_symlink()
    assert hf_hub_download(NAME, "config.json", cache_dir=cache, local_files_only=True) == f"{found}/config.json"
    assert try_to_load_from_cache(NAME, "notes/read me.txt", cache_dir=cache) == f"{found}/notes/read me.txt"
    (repo,) = scan_cache_dir(cache).repos
    assert repo.repo_id == NAME and repo.nb_files == 3
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(os.stat(Path(found, "config.json")).st_mode) == 0o666 & ~umask
    # Again: nothing is written twice.
    before = {path: path.stat().st_ino for path in cache.rglob("*") if not path.is_symlink() and path.is_file()}
    tenpak.snapshot_download(NAME, store=store, cache_dir=cache)
    after = {path: path.stat().st_ino for path in before if "blobs" in str(path)}
    assert after == {path: node for path, node in before.items() if "blobs" in str(path)}


def test_some_files_only(store, tmp_path):
    found = tenpak.snapshot_download(NAME, store=store, cache_dir=tmp_path, weights=False)
    assert sorted(os.listdir(found)) == [".tenpak.json", "config.json", "notes"]
    other = tmp_path / "other"
    found = tenpak.snapshot_download(
        NAME, store=store, cache_dir=other, allow_patterns=["*.json", "notes/"], ignore_patterns="config*"
    )
    assert os.listdir(found) == ["notes"]


def test_no_damaged_file_is_left(own_store, tmp_path):
    flip(own_store)
    with pytest.raises(tenpak.DamagedError):
        tenpak.snapshot_download(NAME, store=own_store, cache_dir=tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not left


def test_a_tag_that_moves_is_followed_when_asked(tmp_path):
    store, folder = tenpak.Store(tmp_path / "store"), tmp_path / "folder"
    folder.mkdir()
    fs = fsspec.filesystem("tenpak", store=store.location, skip_instance_cache=True)
    for text in ("one", "two"):
        (folder / "a.txt").write_text(text)
        (folder / "odd! name").write_text(text)
        store.pack(folder, "org/moves", allow_incomplete=True)
        before = fs.cat("org/moves/a.txt") if text == "two" else b"one"
        assert before == b"one", "what was opened keeps its meaning"
        fs.invalidate_cache()
        assert fs.cat("org/moves/a.txt") == text.encode()
        assert fs.cat(f"{store.location}!org/moves/odd! name") == text.encode()
