"""The command `tenpak`, which does whatever is written: found, run as a job, its progress told, ended when the
caller is."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ._errors import TenpakError, of_status

TICK = 0.1
"""How long a wait goes on before it is looked whether a signal came."""


class Progress(NamedTuple):
    """How far the work is, as callbacks are told."""

    phase: str
    done: int
    total: int
    unit: str


Callback = Callable[[Progress], object]


def find() -> str:
    """The path of the command: `TENPAK_COMMAND`, that of this installation, or that on the path.

    Raises:
        TenpakError: there is none
    """
    if named := os.environ.get("TENPAK_COMMAND"):
        return named
    places = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    if sys.version_info >= (3, 10):
        places.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    for place in places:
        path = os.path.join(place, "tenpak")
        if os.access(path, os.X_OK):
            return path
    if found := shutil.which("tenpak"):
        return found
    raise TenpakError("the command tenpak is not installed beside this package; TENPAK_COMMAND may name it")


def run(arguments: Iterable[str], progress: Callback | None = None) -> dict[str, Any]:
    """Runs the command as a job and gives its result.

    `progress` is called in this thread. If it raises, or a signal does, the job ends and nothing is published.

    Raises:
        TenpakError: the job failed
    """
    job = subprocess.Popen(
        [find(), "job", "--", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(job.stdout, lines.put, lambda: lines.put(None)), daemon=True),
        threading.Thread(target=_read, args=(job.stderr, errors.append, lambda: None), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        result = _follow(job, lines, progress)
        status = job.wait()
    except BaseException:
        # The end of its standard input would end it too; this is sooner.
        job.kill()
        job.wait()
        raise
    finally:
        for pipe in (job.stdin, job.stdout, job.stderr):
            if pipe is not None and pipe is not job.stdout and pipe is not job.stderr:
                try:
                    pipe.close()
                except OSError:
                    pass
        for reader in readers:
            reader.join(1)
        for pipe in (job.stdout, job.stderr):
            if pipe is not None:
                pipe.close()
    if result is not None:
        return result
    told = "".join(errors).strip() or "it said nothing"
    raise of_status(status, f"tenpak {next(iter(arguments), '')} ended with status {status}: {told[-2000:]}")


def _read(pipe: Any, take: Callable[[str], object], end: Callable[[], object]) -> None:
    try:
        for line in pipe:
            take(line)
    except (OSError, ValueError):
        pass
    end()


def _follow(
    job: subprocess.Popen[str], lines: queue.Queue[str | None], progress: Callback | None
) -> dict[str, Any] | None:
    result: dict[str, Any] | None = None
    for line in _lines(lines):
        told = json.loads(line)
        if "progress" in told:
            if progress is not None:
                at = told["progress"]
                progress(Progress(at["phase"], at["done"], at["total"], at["unit"]))
        elif told.get("gate"):
            assert job.stdin is not None
            job.stdin.write("publish\n")
            job.stdin.flush()
        elif "result" in told:
            result = told["result"]
        # A result that is there says itself what is wrong.
        elif "error" in told and result is None:
            raise of_status(int(told.get("status", 1)), told["error"])
    return result


def _lines(lines: queue.Queue[str | None]) -> Iterator[str]:
    while True:
        try:
            # A wait without an end would not hear Ctrl-C everywhere.
            line = lines.get(timeout=TICK)
        except queue.Empty:
            continue
        if line is None:
            return
        yield line


def bar() -> tuple[Callback | None, Callable[[], None]]:
    """A callback that moves a bar of tqdm, if it is there, and what closes it."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None, lambda: None
    state: dict[str, Any] = {}

    def tell(at: Progress) -> None:
        if state.get("phase") != at.phase:
            close()
            unit = "B" if at.unit == "bytes" else at.unit
            state.update(phase=at.phase, bar=tqdm(desc=at.phase, unit=unit, unit_scale=unit == "B"))
        shown = state["bar"]
        shown.total = at.total
        shown.update(at.done - shown.n)

    def close() -> None:
        if shown := state.pop("bar", None):
            shown.close()

    return tell, close
