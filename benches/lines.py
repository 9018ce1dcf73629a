"""The figures that must be reached, one function per line of the requirement.

Each runs its contenders interleaved and gives verdicts: target, measured, and
the limit counted from bytes and operations, so that a reader sees how far from
possible a figure is, not only whether it passes.
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time

from bench import GIB, MIB, Bench, Verdict, unmeasured
from link import Delay, Link
from origin import Origin
from sampling import Failed, Sample, Unavailable, run

GIGABIT = 1e9
MEMORY_LIMIT = 256 * MIB
DELAY_S = 0.1  # round trip while requests in sequence are counted
RANKS = 8
LARGER = 3  # times the model, where memory must not have grown


def http_load(bench: Bench) -> list[Verdict]:
    """Verified load over HTTP against curl, tensorizer and runai-model-streamer."""
    origin = bench.url()
    weights = bench.weights.relative_to(bench.data)
    tensors_url = f"{origin}/{bench.tensorizer_file.name}"
    runs = bench.interleave("load over HTTP", {
        "tenpak load": lambda: bench.load(bench.store_url()),
        "curl, 1 connection": lambda: bench.curl(origin, 1),
        "curl, 2 connections": lambda: bench.curl(origin, 2),
        "curl, 4 connections": lambda: bench.curl(origin, 4),
        "tensorizer, 1 reader": lambda: bench.counted(lambda: bench.peer("tensorizer_load.py", tensors_url, 1)),
        "tensorizer, 2 readers": lambda: bench.counted(lambda: bench.peer("tensorizer_load.py", tensors_url, 2)),
        "runai-model-streamer": lambda: bench.counted(
            lambda: bench.peer("runai_load.py", origin, weights.parts[0], "/".join(weights.parts[1:]))),
        "BLAKE3 of the file": lambda: bench.peer("blake3_hash.py", bench.weights, 1),
    })
    ours = runs.get("tenpak load")
    curl = runs.best("curl, 1 connection", "curl, 2 connections", "curl, 4 connections")
    verdicts = []
    for peer, best, target, aim in (
        ("curl", curl, 0.75, None),
        ("tensorizer", runs.best("tensorizer, 1 reader", "tensorizer, 2 readers"), 1.5, 2),
        ("runai-model-streamer", runs.best("runai-model-streamer"), 4, 6),
    ):
        line = f"HTTP load, throughput / {peer}'s"
        wanted = f">= {target}" + (f" (aim {aim})" if aim else "")
        if not ours or not best:
            verdicts.append(unmeasured(line, wanted, reason(runs, "tenpak load", best is None and peer)))
            continue
        ratio = best[1].median("process_s") / ours.median("process_s")
        limit = http_limit(runs, curl, best)
        if peer != "curl":
            limit = "; ".join(filter(None, (limit, f"{moved(ours)}, theirs {moved(best[1])}")))
        verdicts.append(Verdict(line, wanted, f"{ratio:.2f} ({best[0]})", ratio >= target, limit))
    return verdicts


def https_load(bench: Bench) -> list[Verdict]:
    """Verified load over HTTPS against curl, over HTTP/1.1 and over HTTP/2."""
    versions = {"HTTP/1.1": "--http1.1", "HTTP/2": "--http2"}
    plain = bench.origin
    try:
        with Origin(bench.data, tls=True) as bench.origin:
            ca = ("--cacert", bench.origin.certificate)
            names = {version: [f"curl, {version}, {count}" for count in (1, 2, 4)] for version in versions}
            curls = {
                name: lambda count=int(name[-1]), flag=flag: bench.curl(bench.url(), count, flag, *ca)
                for version, flag in versions.items() for name in names[version]
            }
            runs = bench.interleave("load over HTTPS (curl: version, connections)", {
                "tenpak load": lambda: bench.load(bench.store_url()),
                **curls,
                "BLAKE3 of the file": lambda: bench.peer("blake3_hash.py", bench.weights, 1),
            })
    finally:
        bench.origin = plain
    ours, verdicts = runs.get("tenpak load"), []
    for version in versions:
        line, target = f"HTTPS load, throughput / curl's over {version}", ">= 0.85"
        best = runs.best(*names[version])
        if not ours or not best:
            verdicts.append(unmeasured(line, target, reason(runs, "tenpak load", *names[version])))
            continue
        ratio = best[1].median("process_s") / ours.median("process_s")
        cpu = ours.median("cpu_s") / best[1].median("cpu_s")
        measured = f"{ratio:.2f} ({best[0]}), {cpu:.2f} times its CPU time"
        verdicts.append(Verdict(line, target, measured, ratio >= 0.85, http_limit(runs, best, best)))
    return verdicts


def moved(series) -> str:
    return f"{series.median('bytes') / 1e6:.1f} MB in {series.median('requests'):.0f} requests"


def http_limit(runs, curl, peer) -> str:
    """What two cores allow against a peer once BLAKE3 is added to curl's own work."""
    blake3 = runs.get("BLAKE3 of the file")
    if not blake3 or not curl:
        return ""
    cpu = curl[1].median("cpu_s") + curl[1].median("server_cpu_s") + blake3.median("cpu_s")
    cores = os.cpu_count() or 1
    possible = max(curl[1].median("process_s"), cpu / cores)
    return f"{peer[1].median('process_s') / possible:.2f} (curl's transfer and BLAKE3, {cpu:.2f} CPU s on {cores} cores)"


def local_load(bench: Bench) -> list[Verdict]:
    """Verified load from a directory, all tensors kept, against safetensors and clones."""
    runs = bench.interleave("load from a directory, tensors kept", {
        "tenpak load --keep": lambda: bench.load(str(bench.store), "--keep"),
        "safetensors and clones": lambda: bench.peer("safetensors_clone.py", bench.weights, os.cpu_count() or 1),
        "safetensors and clones, 1 thread": lambda: bench.peer("safetensors_clone.py", bench.weights, 1),
        "BLAKE3, 2 threads": lambda: bench.peer("blake3_hash.py", bench.weights, 2),
    })
    ours, peer = runs.get("tenpak load --keep"), runs.best("safetensors and clones", "safetensors and clones, 1 thread", field="wall_s")
    line, target = "directory load, throughput / safetensors with clones", "> 1.0"
    if not ours or not peer:
        return [unmeasured(line, target, reason(runs, "tenpak load --keep"))]
    ratio = peer[1].median("wall_s") / ours.median("wall_s")
    blake3 = runs.get("BLAKE3, 2 threads")
    limit = f"BLAKE3 alone {blake3.median('wall_s'):.2f} s of {ours.median('wall_s'):.2f} s; " if blake3 else ""
    limit += f"{ours.median('page_faults'):.0f} page faults"
    return [Verdict(line, target, f"{ratio:.2f} ({peer[0]})", ratio > 1, limit)]


def verification(bench: Bench) -> list[Verdict]:
    """What hashing costs: against a reader of the same ranges that does not hash."""
    runs = bench.interleave("verification, over HTTP", {
        "tenpak load": lambda: bench.load(bench.store_url()),
        "reader without hashing": lambda: bench.load_unverified(bench.store_url()),
        "BLAKE3 of the file": lambda: bench.peer("blake3_hash.py", bench.weights, 1),
    })
    verdicts = [verification_cpu(bench, runs)]
    line, target = "verification's time at 10 Gbit/s", "within the runs' spread or 2%"
    try:
        with Link(10 * GIGABIT):
            limited = bench.interleave("verification, at 10 Gbit/s", {
                "tenpak load": lambda: bench.load(bench.store_url()),
                "reader without hashing": lambda: bench.load_unverified(bench.store_url()),
                "curl, 4 connections": lambda: bench.curl(bench.url(), 4),
            })
    except Unavailable as why:
        return verdicts + [unmeasured(line, target, str(why))]
    ours, plain = limited.get("tenpak load"), limited.get("reader without hashing")
    if not ours or not plain:
        return verdicts + [unmeasured(line, target, reason(limited, "tenpak load", "reader without hashing"))]
    extra = ours.median("process_s") / plain.median("process_s") - 1
    hidden = extra <= 0.02 or ours.median("process_s") <= plain.high("process_s")
    ideal = bench.stored_bytes * 8 / (10 * GIGABIT)
    return verdicts + [Verdict(line, target, f"{extra:+.1%}", hidden, f"the link alone needs {ideal:.2f} s of {plain.median('process_s'):.2f} s")]


def verification_cpu(bench: Bench, runs) -> Verdict:
    line, target = "verification's CPU time", "<= BLAKE3 + 5% of the load"
    ours, plain, blake3 = (runs.get(n) for n in ("tenpak load", "reader without hashing", "BLAKE3 of the file"))
    if not ours or not plain or not blake3:
        return unmeasured(line, target, reason(runs, "tenpak load", "reader without hashing"))
    per_byte = blake3.median("cpu_s") / bench.weights.stat().st_size
    allowed = per_byte * bench.stored_bytes + 0.05 * ours.median("cpu_s")
    cost = ours.median("cpu_s") - plain.median("cpu_s")
    return Verdict(line, target, f"{cost:.3f} s of {allowed:.3f} s", cost <= allowed, f"BLAKE3 {per_byte * GIB:.2f} CPU s/GiB")


def limited_link(bench: Bench) -> list[Verdict]:
    """How much of a 1 Gbit/s link a load fills."""
    line, target = "share of a 1 Gbit/s link", ">= 0.95"
    try:
        with Link(GIGABIT):
            runs = bench.interleave("link of 1 Gbit/s", {
                "tenpak load": lambda: bench.load(bench.store_url()),
                "curl, 4 connections": lambda: bench.curl(bench.url(), 4),
            })
    except Unavailable as why:
        return [unmeasured(line, target, str(why))]
    ours, curl = runs.get("tenpak load"), runs.get("curl, 4 connections")
    limit = f"curl fills {filled(curl, GIGABIT):.3f}" if curl else ""
    if not ours:
        return [unmeasured(line, target, reason(runs, "tenpak load"))]
    share = filled(ours, GIGABIT)
    return [Verdict(line, target, f"{share:.3f}", share >= 0.95, limit)]


def filled(series, rate: float) -> float:
    return series.median("bytes") * 8 / series.median("process_s") / rate


def pack_synced(bench: Bench) -> Sample:
    """pack, then the sync of its file system, from a clean start, as copy_synced.py does it."""
    store = emptied(bench)
    sample = bench.pack(store)
    start = time.perf_counter()
    subprocess.run(["sync", "-f", str(store)], check=True)
    sample.process_s += time.perf_counter() - start
    return sample


def emptied(bench: Bench) -> pathlib.Path:
    """A path to write to, with nothing there and nothing left to flush."""
    target = bench.scratch / "written"
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    return target


def pack_directory(bench: Bench) -> list[Verdict]:
    """pack to a directory against cp, both synced."""
    runs = bench.interleave("pack to a directory, synced", {
        "tenpak pack": lambda: pack_synced(bench),
        "cp": lambda: bench.peer("copy_synced.py", bench.model, emptied(bench)),
        "openssl sha256": lambda: bench.peer("sha256_hash.py", bench.weights),
    })
    shutil.rmtree(bench.scratch / "written", ignore_errors=True)
    ours, copy = runs.get("tenpak pack"), runs.get("cp")
    line, target = "pack, throughput / cp's", ">= 0.8"
    if not ours or not copy:
        return [unmeasured(line, target, reason(runs, "tenpak pack")), unmeasured("pack, peak memory", "<= 256 MiB", reason(runs, "tenpak pack"))]
    ratio = copy.median("process_s") / ours.median("process_s")
    peak = ours.high("peak_rss")
    written = ours.samples[0].report["new_bytes"]
    limit = f"writes {written / 1e6:.1f} MB, cp {copy.median('bytes') / 1e6:.1f} MB"
    # A file's SHA-256 is one chain of blocks: no second core helps.
    if sha := runs.get("openssl sha256"):
        limit = f"{copy.median('process_s') / sha.median('wall_s'):.2f} (one file's SHA-256 alone {sha.median('wall_s'):.2f} s); {limit}"
    return [
        Verdict(line, target, f"{ratio:.2f}", ratio >= 0.8, limit),
        Verdict("pack, peak memory", "<= 256 MiB", mebibytes(peak), peak <= MEMORY_LIMIT, "highest of all rounds"),
    ]


def pack_memory(bench: Bench) -> list[Verdict]:
    """pack into memory against hf_xet's chunking and hashing, and against SHA-256 itself."""
    program = str(bench.example("pack_memory"))

    runs = bench.interleave("pack into memory", {
        "tenpak, without SHA-256": lambda: run([program, str(bench.weights), "--no-sha256"]),
        "tenpak, with SHA-256": lambda: run([program, str(bench.weights)]),
        "hf_xet.hash_files": lambda: bench.peer("xet_hash.py", bench.weights),
        "openssl sha256": lambda: bench.peer("sha256_hash.py", bench.weights),
        "BLAKE3, 2 threads": lambda: bench.peer("blake3_hash.py", bench.weights, 2),
    })
    plain, hashed = runs.get("tenpak, without SHA-256"), runs.get("tenpak, with SHA-256")
    xet, sha, blake3 = (runs.get(n) for n in ("hf_xet.hash_files", "openssl sha256", "BLAKE3, 2 threads"))
    limit = f"BLAKE3 on 2 threads {blake3.median('wall_s'):.2f} s" if blake3 else ""
    verdicts = []
    line, target = "pack into memory, SHA-256 off, throughput / hf_xet's", ">= 1.5"
    if plain and xet:
        ratio = xet.median("wall_s") / packing_s(plain)
        verdicts.append(Verdict(line, target, f"{ratio:.2f}", ratio >= 1.5, limit))
    else:
        verdicts.append(unmeasured(line, target, reason(runs, "tenpak, without SHA-256")))
    line, target = "pack into memory, SHA-256 on, time over SHA-256's own", "<= +25%"
    if hashed and sha:
        extra = packing_s(hashed) / sha.median("wall_s") - 1
        verdicts.append(Verdict(line, target, f"{extra:+.0%}", extra <= 0.25, f"SHA-256 {sha.median('wall_s'):.2f} s on one core"))
    else:
        verdicts.append(unmeasured(line, target, reason(runs, "tenpak, with SHA-256")))
    return verdicts


def packing_s(series) -> float:
    """The call alone, as the peers are timed: without the start and the end of the process."""
    return statistics.median(sample.report["seconds"] for sample in series.samples)


def load_memory(bench: Bench) -> list[Verdict]:
    """Peak memory of load, tensors kept and dropped, at this size and at a larger one."""
    large = bench.larger(LARGER)
    runs = bench.interleave(f"memory of a load over HTTP; x{LARGER} is a model {LARGER} times as large", {
        "load --keep": lambda: bench.load(bench.store_url(), "--keep"),
        f"load --keep, x{LARGER}": lambda: large.load(large.store_url(), "--keep"),
        "load --device host": lambda: bench.load(bench.store_url(), "--device", "host"),
        f"load --device host, x{LARGER}": lambda: large.load(large.store_url(), "--device", "host"),
    })
    verdicts = []
    for name, figure, delivered in (
        ("load --keep", "load --keep, peak beyond the tensors", True),
        (f"load --keep, x{LARGER}", f"the same, x{LARGER}", True),
        ("load --device host", "load, tensors dropped, peak", False),
        (f"load --device host, x{LARGER}", f"the same, x{LARGER}", False),
    ):
        series = runs.get(name)
        if not series:
            verdicts.append(unmeasured(figure, "<= 256 MiB", reason(runs, name)))
            continue
        peak = max(s.peak_rss - (s.report["raw_bytes"] if delivered else 0) for s in series.samples)
        tensors = mebibytes(series.samples[0].report["raw_bytes"])
        verdicts.append(Verdict(figure, "<= 256 MiB", mebibytes(peak), peak <= MEMORY_LIMIT, f"tensors are {tensors}"))
    figure = f"pack, peak memory, x{LARGER}"
    if large.packed:
        peak = large.packed.peak_rss
        verdicts.append(Verdict(figure, "<= 256 MiB", mebibytes(peak), peak <= MEMORY_LIMIT, ""))
    else:
        verdicts.append(unmeasured(figure, "<= 256 MiB", large.packed_missing))
    shutil.rmtree(large.store, ignore_errors=True)
    return verdicts


def terabyte_tensor(bench: Bench) -> list[Verdict]:
    """One tensor of a synthetic 1 TB artifact: requests in sequence, and bytes; memory for all of it."""
    lines = (
        ("one tensor of 1 TB, requests in sequence", "<= 4"),
        ("one tensor of 1 TB, bytes beside the manifest", "<= stored + max(1%, 128 KiB)"),
        ("one tensor of 1 TB, manifest's bytes", "<= 1 MiB"),
        ("load of 1 TB, peak when its first pack is asked for", "<= 256 MiB"),
    )
    store = bench.scratch / "terabyte"
    shutil.rmtree(store, ignore_errors=True)
    print("one tensor of a synthetic 1 TB artifact", flush=True)
    try:

        made = run([str(bench.example("synthetic_tb")), str(store)]).report
        with Delay(bench.origin.port, DELAY_S) as delay:
            url = f"{delay.url}/{store.relative_to(bench.data)}/"
            _, traffic, _ = bench.watched(lambda: bench.load(url, "--tensor", made["tensor"], name=made["name"]))
        # All its chunks' records were read by then; its packs are not there: verification fails.
        whole = run([str(bench.tenpak), "load", made["name"], "--store", str(store), "--json"], expected=4)
    except (Unavailable, Failed) as why:
        return [unmeasured(line, target, str(why)) for line, target in lines]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    rounds = traffic.rounds(DELAY_S / 2)
    manifest = traffic.under("manifests").body_bytes
    rest = traffic.body_bytes - manifest
    allowed = made["stored_bytes"] + max(made["stored_bytes"] // 100, 128 << 10)
    return [
        Verdict(*lines[0], str(rounds), rounds <= 4, f"{traffic.count} requests in all; ref, manifest, table part, pack"),
        Verdict(*lines[1], f"{rest} of {allowed}", rest <= allowed, f"the tensor stores {made['stored_bytes']}"),
        Verdict(*lines[2], str(manifest), manifest <= MIB, ""),
        Verdict(*lines[3], mebibytes(whole.peak_rss), whole.peak_rss <= MEMORY_LIMIT, "a million records of 128 bytes, 40 bytes of place each"),
    ]


def shards(bench: Bench) -> list[Verdict]:
    """What eight tensor-parallel ranks fetch together."""
    line, target = "eight shards' bytes / stored bytes", "<= 1.02"
    total, requests = 0, 0
    try:
        for rank in range(RANKS):
            sample = bench.load(bench.store_url(), "--shard", f"{rank}/{RANKS}")
            total, requests = total + sample.bytes, requests + sample.requests
    except (Unavailable, Failed) as why:
        return [unmeasured(line, target, str(why))]
    # Vectors are needed whole by every rank and count once.
    repeated = (RANKS - 1) * vector_bytes(bench)
    ratio = (total - repeated) / bench.stored_bytes
    return [Verdict(line, target, f"{ratio:.4f}", ratio <= 1.02, f"{total} bytes in {requests} requests, {repeated} of them repeated vectors")]


def vector_bytes(bench: Bench) -> int:
    with open(bench.weights, "rb") as weights:
        header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    spans = (t["data_offsets"] for n, t in header.items() if n != "__metadata__" and len(t["shape"]) <= 1)
    return sum(end - start for start, end in spans)


def mebibytes(count: float) -> str:
    return f"{count / MIB:.0f} MiB"


def reason(runs, *names: str | bool) -> str:
    return next((runs.missing[n] for n in names if n in runs.missing), "; ".join(runs.missing.values()))


LINES = {
    "http": http_load,
    "https": https_load,
    "local": local_load,
    "verification": verification,
    "link": limited_link,
    "pack": pack_directory,
    "hash": pack_memory,
    "memory": load_memory,
    "terabyte": terabyte_tensor,
    "shards": shards,
}
