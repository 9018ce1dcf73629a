"""What needs torch: its tensors, lazy ones, and from_pretrained over a snapshot. Run by `make judges`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tenpak

NAME = "org/torch"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))


@pytest.fixture(scope="session")
def tensors():
    seed = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(shape, generator=seed)  # noqa: E731
    return {
        "model.layers.0.self_attn.q_proj.weight": random(1024, 1024).bfloat16(),
        "model.layers.0.self_attn.o_proj.weight": random(2048, 2048).bfloat16(),
        "model.layers.0.mlp.experts.gate_up_proj": random(4, 256, 512).half(),
        "f8": random(64, 64).to(torch.float8_e4m3fn),
        "f5": random(8, 8).to(torch.float8_e5m2),
        "small": random(5, 6, 7),
        "double": random(9).double(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "mask": random(9) > 0,
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory, tensors):
    folder, store = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("store") / "store"
    save_file(tensors, folder / "model.safetensors")
    tenpak.Store(store).pack(folder, NAME, allow_incomplete=True)
    return str(store)


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    a, b = a.contiguous(), b.contiguous()
    assert not a.numel() or torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def test_every_type(store, tensors):
    loaded = tenpak.load_file(NAME, store=store)
    assert loaded.keys() == tensors.keys()
    for name, tensor in loaded.items():
        same(tensor, tensors[name])
    with tenpak.safe_open(NAME, "pt", store=store) as opened:
        for name, tensor in tensors.items():
            same(opened.get_tensor(name), tensor)
            same(opened.get_slice(name)[...], tensor)
        part = opened.get_slice("small")
        for index in [2, (slice(1, 4), 3), (..., slice(2, 5)), (None, 1), ([0, 2],), torch.tensor([True, False] * 2 + [True])]:
            same(part[index], tensors["small"][index])


def test_dlpack_shares_the_memory(store, tensors):
    artifact = tenpak.Artifact(NAME, store=store)
    for name in ["model.layers.0.self_attn.q_proj.weight", "f8", "f5", "small", "scalar", "mask", "double"]:
        same(torch.from_dlpack(artifact.get(name)), tensors[name])
    buffer = artifact.get("small")
    one, other = torch.from_dlpack(buffer), torch.from_dlpack(buffer)
    one[0, 0, 0] = 77
    assert other[0, 0, 0] == 77
    del buffer, artifact
    assert one.sum() == other.sum()


def lazies(store, tensors):
    from tenpak._lazy import lazy

    artifact = tenpak.Artifact(NAME, store=store)
    for one in artifact.tensors:
        yield artifact, lazy(artifact._opened, one.name, one.dtype, one.shape, one.file), tensors[one.name]


MOVES = {
    "narrow": lambda t: t.narrow(0, 1, max(t.shape[0] // 2, 1)),
    "last": lambda t: t.narrow(-1, 0, t.shape[-1] // 2),
    "select": lambda t: t[-1],
    "inner": lambda t: t[..., 1],
    "steps": lambda t: t[1::2],
    "again": lambda t: t[1:][:-1][..., :3],
    "transposed": lambda t: t.transpose(0, -1)[:2],
    "back": lambda t: t.transpose(0, -1).narrow(0, 1, 2).transpose(0, -1),
    "chunk": lambda t: t.chunk(2, 0)[1],
    "split": lambda t: t.split(2, -1)[-1],
    "data": lambda t: t.data[:2],
    "detached": lambda t: t.detach()[:2],
    "summed": lambda t: t.float().sum(0),
    "viewed": lambda t: t.reshape(-1)[3:],
    "cloned": lambda t: t[:2].clone(),
    "moved": lambda t: t[:2].to("cpu").contiguous(),
    "equal": lambda t: t.float() + 1,
}


@pytest.mark.parametrize("move", MOVES)
def test_lazy_tensors_are_what_torch_makes_of_them(store, tensors, move):
    from tenpak._lazy import LazyTensor

    for _, own, plain in lazies(store, tensors):
        if plain.dim() == 0 or plain.numel() == 0:
            continue
        moved, expected = MOVES[move](own), MOVES[move](plain)
        assert moved.shape == expected.shape and moved.dtype == expected.dtype
        target = torch.empty_like(expected, memory_format=torch.contiguous_format)
        target.copy_(moved)
        same(target, expected)
        if isinstance(moved, LazyTensor):
            same(moved.read(), expected)


def test_a_lazy_part_reads_its_chunks_only(store, tensors):
    for artifact, own, plain in lazies(store, tensors):
        if plain.shape != (2048, 2048):
            continue
        before = artifact.stats.fetched_bytes
        part = own.narrow(1, 0, 1024).data
        assert artifact.stats.fetched_bytes == before, "nothing was looked at"
        target = torch.empty(2048, 1024, dtype=plain.dtype)
        target.copy_(part)
        half = artifact.stats.fetched_bytes - before
        target.copy_(part)
        assert artifact.stats.fetched_bytes - before == half, "it is read once"
        assert 0.4 * plain.nbytes / 2 < half < 1.02 * plain.nbytes / 2
        same(target, plain[:, :1024])


def test_sglangs_hook_takes_a_folder_that_names_an_artifact(store, tensors, tmp_path):
    """A stand-in for SGLang: its registry calls what is registered so."""
    from types import SimpleNamespace

    from tenpak.sglang import around

    folder = tenpak.snapshot_download(NAME, store=store, cache_dir=tmp_path, weights=False)
    source = SimpleNamespace(model_or_path=folder, revision=None, prefix="own.")
    found = dict(around(lambda *_: pytest.fail("its own loader"), None, source))
    assert found.keys() == {f"own.{name}" for name in tensors}
    for name, tensor in tensors.items():
        same(found["own." + name], tensor)
    source.model_or_path = str(tmp_path)
    assert around(lambda loader, source: "its own", None, source) == "its own"


def test_from_pretrained_works_offline_over_a_snapshot(tmp_path):
    model = Path(__file__).resolve().parents[3] / "fixtures/lm/base"
    store = tenpak.Store(tmp_path / "store")
    store.pack(model, "org/base")
    tenpak.snapshot_download("org/base", store=store.location, cache_dir=tmp_path / "hub")
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM\n"
        "a = AutoModelForCausalLM.from_pretrained('org/base'); b = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = torch.arange(9)[None]\n"
        "assert torch.equal(a(ids).logits, b(ids).logits)\n"
    )
    own = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, model], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_streams_memory_is_bounded(tmp_path):
    """256 MiB beyond what is kept: a GiB passes through."""
    folder = tmp_path / "large"
    folder.mkdir()
    big = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(4096, 2048).bfloat16() for i in range(64)}
    save_file(big, folder / "model.safetensors")
    store = tenpak.Store(tmp_path / "store")
    store.pack(folder, NAME, allow_incomplete=True, codec="raw")
    code = (
        "import sys, tenpak, torch\n"
        "def peak(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')) >> 10\n"
        "x = torch.zeros(1)\n"
        "before, count, kept = peak(), 0, []\n"
        f"for name, tensor in tenpak.stream({NAME!r}, store=sys.argv[1]):\n"
        "    count += tensor.numel()\n"
        "    if sys.argv[2] == 'keep' and int(name.split('.')[2]) % 4 == 0: kept.append(tensor)\n"
        "assert count == 64 * 4096 * 2048\n"
        "print(peak() - before - (sum(t.nbytes for t in kept) >> 20))\n"
    )
    for keep in ("drop", "keep"):
        command = [sys.executable, "-c", code, store.location, keep]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(keep, done.stdout)
        assert int(done.stdout) < 256, f"{keep}: {done.stdout} MiB"


def test_the_readme_does_what_it_says(tmp_path, monkeypatch, capsys):
    root = Path(__file__).resolve().parents[3]
    (tmp_path / "fixtures").symlink_to(root / "fixtures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    text = (root / "python/README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert "model.norm.weight (256,)" in capsys.readouterr().out
