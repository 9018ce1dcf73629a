"""One run of a program as a sample, and interleaved rounds of several programs.

A machine's speed drifts; so contenders take turns (A B C, A B C, ...) after one
warm-up each, and medians of the same rounds are compared. CPU time and peak
memory of a process are the operating system's (wait4). The host of a virtual
machine may take back memory that is free for a second or two, and then the first
touch of a page costs more than hashing what it holds; so memory is touched and
freed again before every sample, whosever it is.
"""

import dataclasses
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable

RUN_TIMEOUT_S = 600
TOUCHED = 2 << 30
TOUCH = f"""
import ctypes, mmap
memory = mmap.mmap(-1, {TOUCHED}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, {TOUCHED})
"""


class Unavailable(Exception):
    """A contender that is not built or not installed; the message says how to get it."""


class Failed(Exception):
    """A contender that ran and did not do its work."""


@dataclasses.dataclass
class Sample:
    process_s: float  # start to exit
    wall_s: float  # the work alone, where the program tells; else process_s
    cpu_s: float
    peak_rss: int
    bytes: int = 0
    page_faults: int = 0
    requests: int = 0
    server_cpu_s: float = 0.0
    report: dict = dataclasses.field(default_factory=dict)


def run(command: list[str], stdin: str = "", expected: int = 0, environment: dict[str, str] | None = None) -> Sample:
    """Runs a program whose last line of standard output is one JSON object, to the status expected."""
    if not pathlib.Path(command[0]).exists():
        raise Unavailable(f"{pathlib.Path(command[0]).name} is not built")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as inp:
        inp.write(stdin)
        inp.seek(0)
        # In a process of its own: a child's peak memory starts at its parent's.
        subprocess.run([sys.executable, "-S", "-c", TOUCH], check=True)
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=inp, stdout=out, stderr=err, env=os.environ | (environment or {}))
        status, usage = wait_with_timeout(child, command)
        wall = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        lines = out.read().strip().splitlines()
        if status != expected:
            raise Failed(f"{' '.join(command)}: exit status {status}: {err.read().strip()[-800:]}")
    try:
        report = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise Failed(f"{' '.join(command)}: the last line of its output is not JSON") from None
    return Sample(
        process_s=wall,
        wall_s=report.get("seconds", wall),
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss=usage.ru_maxrss * 1024,
        page_faults=usage.ru_minflt,
        report=report,
    )


def wait_with_timeout(child: subprocess.Popen, command: list[str]):
    """wait4, which alone gives the usage of this one child; killed when it hangs."""
    pidfd = os.pidfd_open(child.pid)
    try:
        if not select.select([pidfd], [], [], RUN_TIMEOUT_S)[0]:
            child.kill()
            os.wait4(child.pid, 0)
            child.returncode = -9
            raise Failed(f"{' '.join(command)}: no end after {RUN_TIMEOUT_S} s")
        _, status, usage = os.wait4(child.pid, 0)
    finally:
        os.close(pidfd)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage


def run_peer(python: pathlib.Path, program: pathlib.Path, *arguments: str, stdin: str = "") -> Sample:
    """A program of peers/: it times itself, so imports do not count against it."""
    sample = run([str(python), str(program), *arguments], stdin)
    report = sample.report
    return dataclasses.replace(
        sample, process_s=report["wall_s"], wall_s=report["wall_s"], cpu_s=report["cpu_s"],
        peak_rss=report["peak_rss"], bytes=report["bytes"],
    )


class Series:
    """The samples of one contender."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples

    def median(self, field: str) -> float:
        return statistics.median(getattr(s, field) for s in self.samples)

    def low(self, field: str) -> float:
        return min(getattr(s, field) for s in self.samples)

    def high(self, field: str) -> float:
        return max(getattr(s, field) for s in self.samples)


@dataclasses.dataclass
class Round:
    """What interleaved contenders did, and why some did not run."""

    series: dict[str, Series]
    missing: dict[str, str]

    def get(self, name: str) -> Series | None:
        return self.series.get(name)

    def best(self, *names: str, field: str = "process_s") -> tuple[str, Series] | None:
        there = [(n, self.series[n]) for n in names if n in self.series]
        return min(there, key=lambda pair: pair[1].median(field)) if there else None


def interleave(rounds: int, contenders: dict[str, Callable[[], Sample]], warm_up: bool = True) -> Round:
    missing: dict[str, str] = {}
    samples: dict[str, list[Sample]] = {}
    for turn in range(0 if warm_up else 1, rounds + 1):
        for name, contender in contenders.items():
            if name in missing:
                continue
            try:
                sample = contender()
            except (Unavailable, Failed) as reason:
                missing[name] = str(reason)
                samples.pop(name, None)
                print(f"  {name}: {reason}", file=sys.stderr)
                continue
            if turn > 0:  # the first turn warms up
                samples.setdefault(name, []).append(sample)
            print(f"  {'warm-up' if turn == 0 else f'round {turn}':8} {name:28} {sample.process_s:7.3f} s", file=sys.stderr)
    return Round({n: Series(s) for n, s in samples.items()}, missing)
