"""What is required of devices: `device_bench` on what there is, loads into the GPU beside those of other
loaders, and the memory of a load through wgpu; each figure that needs a GPU is named where there is none.
"""

import dataclasses
import json
import os

from bench import HERE, MIB, REPOSITORY, Bench, Verdict, unmeasured
from lines import reason
from sampling import Failed, Sample, Unavailable, run, run_peer

MEMORY_LIMIT = 256 * MIB
DECODE_GB_S = 64
UPLOAD = 0.9
# What is required of each backend: the kinds of weights, and the share of the device's copy rate.
SHARES = {"cuda": 0.9, "wgpu": 0.7}
NO_GPU = "needs an NVIDIA GPU: benches/device.sh"
WITH_CUDA = REPOSITORY / ".venv-device/bin/python"
OURS = "tenpak load"
PEERS = {"safetensors' load_file": "safetensors_device.py", "runai-model-streamer": "runai_device.py"}


def device(bench: Bench) -> list[Verdict]:
    rows, missing = rates(bench)
    return verdicts(bench, rows, missing)


def verdicts(bench: Bench, rows: list[dict], missing: dict[str, str]) -> list[Verdict]:
    into_gpu = loads(bench, None if missing.get("cuda") == NO_GPU else "cuda")
    return correct(rows) + required(rows, missing) + into_gpu + memory(bench)


def rates(bench: Bench, *flags: str) -> tuple[list[dict], dict[str, str]]:
    """What `device_bench` measures, and for each kind of device that it does not, why."""
    use_nvrtc()
    try:
        report = run([str(bench.example("device_bench")), "--json", *flags]).report
    except (Unavailable, Failed) as why:
        return [], dict.fromkeys(SHARES, str(why))
    missing = dict(line.split(": not measured: ", 1) for line in report["missing"])
    return report["rows"], {kind: NO_GPU if why.startswith("no CUDA device") else why for kind, why in missing.items()}


def use_nvrtc() -> None:
    """NVRTC as tests/setup.sh installs it, if it is not named."""
    found = sorted((REPOSITORY / ".venv/lib").glob("python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13"))
    if found:
        os.environ.setdefault("TENPAK_NVRTC", str(found[0]))


def correct(rows: list[dict]) -> list[Verdict]:
    verdicts = []
    for name in dict.fromkeys(row["device"] for row in rows):
        compared = [row for row in rows if row["device"] == name and row["correct"] is not None]
        if compared:
            equal = sum(row["correct"] for row in compared)
            line = f"kernels on {name.split(' (')[0]}"
            verdicts.append(Verdict(line, "equal to the reference", f"{equal} of {len(compared)}", equal == len(compared)))
    return verdicts


def required(rows: list[dict], missing: dict[str, str]) -> list[Verdict]:
    """Figures that a GPU must reach: those of the rows that say so, or why there are none."""
    verdicts = []
    # A backend's own copy may be slow: what counts is what the card can copy.
    copy = max((row["gb_per_s"] for row in rows if row["what"] == "copy on the device"), default=0)
    for backend, share in SHARES.items():
        line, target = f"{backend}: NF4, INT4, INT8 to bf16 / device copy", f">= {share}"
        own = [row for row in rows if row["required"] == share]
        if not own:
            verdicts.append(unmeasured(line, target, missing.get(backend, NO_GPU)))
            continue
        worst = min(own, key=lambda row: row["gb_per_s"])
        reached = worst["gb_per_s"] / copy
        verdicts.append(Verdict(line, target, f"{reached:.2f}", reached >= share, f"{worst['what']}; the card copies {copy:.0f} GB/s"))
    on_cuda = {row["what"]: row for row in rows if "(sm_" in row["device"]}
    reason = missing.get("cuda", NO_GPU)
    decode, pinned, ring = (on_cuda.get(n) for n in ("decode bf16, output", "pinned upload", "upload through the ring"))
    line, target = "cuda: float decode, GB/s of output", f">= {DECODE_GB_S}"
    if decode:
        verdicts.append(Verdict(line, target, f"{decode['gb_per_s']:.0f}", decode["gb_per_s"] >= DECODE_GB_S))
    else:
        verdicts.append(unmeasured(line, target, reason))
    line, target = "cuda: upload through the ring / pinned copy", f">= {UPLOAD}"
    if pinned and ring:
        share = ring["gb_per_s"] / pinned["gb_per_s"]
        verdicts.append(Verdict(line, target, f"{share:.2f}", share >= UPLOAD))
    else:
        verdicts.append(unmeasured(line, target, reason))
    return verdicts


def loads(bench: Bench, device: str | None) -> list[Verdict]:
    """All tensors of the model from files into the device, and kept there. Everybody makes the device's
    context within what is timed."""
    lines = {peer: f"load into the GPU, throughput / {peer}'s" for peer in PEERS}
    if not device:
        return [unmeasured(line, "> 1.0", NO_GPU) for line in lines.values()]
    # The peers of `make bench` have no CUDA: benches/device.sh installs those that do.
    python = WITH_CUDA if WITH_CUDA.exists() else bench.python
    ours = {"cpu": ["--device", "host"]}.get(device, ["--device", device])
    contenders = {OURS: lambda: into(bench, str(bench.store), *ours)}
    if device == "cuda":
        contenders["tenpak load, decoded there"] = lambda: into(bench, coded(bench), *ours, "--decode", "device")
    for peer, program in PEERS.items():
        contenders[peer] = lambda program=program: run_peer(python, HERE / "peers" / program, str(bench.weights), device)
    runs = bench.interleave(f"load from files into {device}, tensors kept", contenders)
    own, verdicts = runs.get(OURS), []
    for peer, line in lines.items():
        series = runs.get(peer)
        if not own or not series:
            # Of a program that failed, what it said.
            verdicts.append(unmeasured(line, "> 1.0", reason(runs, OURS, peer).rpartition("exit status ")[2]))
            continue
        ratio = series.median("wall_s") / own.median("wall_s")
        context = max(sample.report["context_s"] for sample in series.samples)
        first = max(sample.report["first_tensor_seconds"] for sample in own.samples)
        limit = f"{own.median('wall_s'):.2f} s, the first tensor by {first:.2f}; theirs {series.median('wall_s'):.2f} s, {context:.2f} the context"
        verdicts.append(Verdict(line, "> 1.0", f"{ratio:.2f}", ratio > 1, limit))
    return verdicts


def into(bench: Bench, store: str, *flags: str) -> Sample:
    """As the peers are timed: the work alone, the release of memory at exit left out."""
    sample = bench.load(store, "--keep", *flags)
    return dataclasses.replace(sample, process_s=sample.wall_s)


def coded(bench: Bench) -> str:
    """A store of the same model with the codec of floats, packed once in a run."""
    store = bench.scratch / f"coded-{bench.size // MIB}"
    if not store.exists():
        bench.pack(store, "float")
    return str(store)


def memory(bench: Bench) -> list[Verdict]:
    """Host memory of a load through wgpu, beyond a load of next to nothing there. In software the
    device's memory is the host's, and is not taken off."""
    line, target = "load --device wgpu, peak beyond the adapter", "<= 256 MiB"
    try:
        store = str(bench.store)
        most = bench.load(store, "--device", "wgpu")
        least = bench.load(store, "--device", "wgpu", "--tensor", smallest(bench))
    except (Unavailable, Failed) as why:
        return [unmeasured(line, target, str(why))]
    peak = most.peak_rss - least.peak_rss
    tensors = most.report["raw_bytes"] / MIB
    name = most.report["device"].split(" (")[0]
    return [Verdict(line, target, f"{peak / MIB:.0f} MiB", peak <= MEMORY_LIMIT, f"{tensors:.0f} MiB of tensors into {name}, its memory included")]


def smallest(bench: Bench) -> str:
    with open(bench.weights, "rb") as weights:
        header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    sizes = {name: t["data_offsets"][1] - t["data_offsets"][0] for name, t in header.items() if name != "__metadata__"}
    return min(sizes, key=sizes.get)
