"""The mount against `tenpak load`, against the plain file, and against rclone's mount, all from the same nginx."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

from bench import MODEL_NAME, Bench, Verdict, unmeasured
from lines import reason
from sampling import Failed, Sample, Unavailable

START_TIMEOUT_S = 30
RANKS = 8


@contextlib.contextmanager
def mounted(bench: Bench, command: list[str]):
    """A folder on which the command mounts, until it is told to end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mount-", dir=bench.scratch))
    if not shutil.which(command[0]):
        raise Unavailable(f"{pathlib.Path(command[0]).name} is not there")
    child = subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not folder.is_mount():
            if child.poll() is not None or time.monotonic() > end:
                child.kill()
                raise Failed(f"{' '.join(command)}: {child.stderr.read()[-800:]}")
            time.sleep(0.01)
        yield folder
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        if child.poll() is None:
            child.kill()
        if folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def ours(bench: Bench, *flags: str) -> list[str]:
    bench.require_store()
    return [str(bench.tenpak), "--store", bench.store_url(), "mount", *flags, MODEL_NAME]


def rclone(bench: Bench) -> list[str]:
    model = f"{bench.url()}/{bench.model.name}/"
    return ["rclone", "mount", "--read-only", "--config", "/dev/null", f":http,url='{model}':"]


def cold(bench: Bench, command: list[str]) -> Sample:
    with mounted(bench, command) as folder:
        return bench.counted(lambda: bench.peer("mount_read.py", folder / bench.weights.name))


def again(bench: Bench, *flags: str) -> Sample:
    """The second read of a mount with its cache on the disk, the system's pages let go; and what the origin gave then."""
    cache = pathlib.Path(tempfile.mkdtemp(prefix="cache-", dir=bench.scratch))
    try:
        with mounted(bench, ours(bench, "--cache", str(cache), "--memory", "64M", *flags)) as folder:
            weights = folder / bench.weights.name
            bench.peer("mount_read.py", weights)
            if "--trust-disk" in flags:
                wait_for(cache / "files", weights.stat().st_size)
            # What was written is on the disk, and not in memory.
            subprocess.run(["sync", "-f", str(cache)], check=True)
            drop = "import os,sys\nfor p in sys.argv[1:]:\n f=os.open(p,os.O_RDONLY);os.posix_fadvise(f,0,0,os.POSIX_FADV_DONTNEED);os.close(f)"
            files = [str(path) for path in cache.rglob("*") if path.is_file()]
            subprocess.run([str(bench.python), "-S", "-c", drop, *files], check=True)
            return bench.counted(lambda: bench.peer("mount_read.py", weights, "drop"))
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def wait_for(folder: pathlib.Path, size: int) -> None:
    """Waits until a file of this size is complete in the folder."""
    end = time.monotonic() + START_TIMEOUT_S
    while not any(path.stat().st_size == size for path in folder.glob("[0-9a-f]*")):
        if time.monotonic() > end:
            raise Failed(f"nothing of {size} bytes is kept in {folder}")
        time.sleep(0.05)


def ranks(bench: Bench) -> Sample:
    """Eight processes that read the whole model at once."""
    with mounted(bench, ours(bench)) as folder:
        command = [str(bench.python), str(pathlib.Path(__file__).parent / "peers/mount_read.py"), str(folder / bench.weights.name)]

        def all_at_once() -> Sample:
            children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(RANKS)]
            reports = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
            wall = max(report["wall_s"] for report in reports)
            return Sample(wall, wall, sum(r["cpu_s"] for r in reports), max(r["peak_rss"] for r in reports))

        return bench.counted(all_at_once)


def mount(bench: Bench) -> list[Verdict]:
    """load_file over a mount: cold, again, beside others; and eight processes at once."""
    runs = bench.interleave("safetensors' load_file over a mount, every byte touched", {
        "tenpak load --keep": lambda: bench.load(bench.store_url(), "--keep"),
        "tenpak mount, cold": lambda: cold(bench, ours(bench)),
        "rclone mount, cold": lambda: cold(bench, rclone(bench)),
        "tenpak mount, second read from its disk": lambda: again(bench),
        "tenpak mount --trust-disk, second read": lambda: again(bench, "--trust-disk"),
        "the plain file, pages dropped": lambda: bench.peer("mount_read.py", bench.weights, "drop"),
        f"tenpak mount, {RANKS} processes": lambda: ranks(bench),
    }, warm_up=False)
    verdicts = []
    for line, target, name, other in (
        ("mount, cold, throughput / tenpak load --keep's", 0.8, "tenpak mount, cold", "tenpak load --keep"),
        ("mount, cold, throughput / rclone mount's", 1.0, "tenpak mount, cold", "rclone mount, cold"),
        ("mount --trust-disk, second read, throughput / the plain file's", 0.9, "tenpak mount --trust-disk, second read", "the plain file, pages dropped"),
    ):
        own, peer = runs.get(name), runs.get(other)
        if not own or not peer:
            verdicts.append(unmeasured(line, f">= {target}", reason(runs, name, other)))
            continue
        ratio = peer.median("wall_s") / own.median("wall_s")
        verdicts.append(Verdict(line, f">= {target}", f"{ratio:.2f}", ratio >= target, f"{own.median('requests'):.0f} requests"))
    line, name = f"mount, {RANKS} processes, bytes fetched / stored", f"tenpak mount, {RANKS} processes"
    series = runs.get(name)
    if not series:
        return [*verdicts, unmeasured(line, "<= 1.00", reason(runs, name))]
    # Index and manifest apart.
    ratio = series.median("bytes") / bench.stored_bytes
    return [*verdicts, Verdict(line, "<= 1.00", f"{ratio:.3f}", ratio < 1.005, "with index and manifest")]
