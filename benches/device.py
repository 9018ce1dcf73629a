"""What is required of devices: `device_bench` on what there is, each figure that needs a GPU named where
there is none, and the memory of a load through wgpu."""

import json
import os

from bench import MIB, REPOSITORY, Bench, Verdict, unmeasured
from sampling import Failed, Unavailable, run

MEMORY_LIMIT = 256 * MIB
DECODE_GB_S = 64
UPLOAD = 0.9
# What is required of each backend: the kinds of weights, and the share of the device's copy rate.
SHARES = {"cuda": 0.9, "wgpu": 0.7}
NO_GPU = "needs an NVIDIA GPU: benches/device.sh there"


def device(bench: Bench) -> list[Verdict]:
    use_nvrtc()
    try:
        report = run([str(bench.example("device_bench")), "--json"]).report
    except (Unavailable, Failed) as why:
        return [unmeasured("kernels on a device", "equal to the reference", str(why))]
    rows, missing = report["rows"], dict(line.split(": not measured: ", 1) for line in report["missing"])
    verdicts = correct(rows)
    verdicts += required(rows, missing)
    return verdicts + memory(bench)


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
    for backend, share in SHARES.items():
        line, target = f"{backend}: NF4, INT4, INT8 to bf16 / device copy", f">= {share}"
        own = [row for row in rows if row["required"] == share]
        if not own:
            verdicts.append(unmeasured(line, target, missing.get(backend, NO_GPU)))
            continue
        worst = min(own, key=lambda row: row["of_copy"])
        verdicts.append(Verdict(line, target, f"{worst['of_copy']:.2f}", worst["of_copy"] >= share, worst["what"]))
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
    for peer in ("safetensors' load_file", "runai-model-streamer"):
        verdicts.append(unmeasured(f"load into the GPU / {peer}", ">= 1", NO_GPU))
    return verdicts


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
