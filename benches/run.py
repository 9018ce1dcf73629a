"""`make bench`: every required figure in one run on one machine.

Prints what each contender did (medians of interleaved rounds), then one table
of targets, measured ratios and counted limits; all samples go to
bench-data/results.json. Exit status 1 when a figure was missed or, unless
--partial, could not be measured.
"""

import argparse
import os
import pathlib
import platform
import shutil
import signal
import sys

import bucket
import deltas
import device
import edge
import floats
import mount
import network
import produce
import python
import serve
import small
from bench import GIB, MIB, REPOSITORY, Bench, Verdict
from lines import LINES
from link import enter_own_network
from origin import Origin

QUICK_SIZE = 128 * MIB
QUIET_LOAD = 0.5
LINES = LINES | {"bucket": bucket.bucket, "codec": floats.codec, "delta": deltas.delta, "device": device.device, "edge": edge.edge, "mount": mount.mount, "network": network.network, "python": python.python, "serve": serve.serve, "small": small.small} | produce.LINES
# Lines of one name, and what comes after a hyphen in the name of each.
GROUPS = {name.split("-")[0] for name in LINES}
VERDICTS = {True: "met", False: "MISSED", None: "not measured"}


def machine() -> str:
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def print_runs(bench: Bench) -> None:
    for title, runs in bench.tables:
        if not runs.series:
            continue
        print(f"\n{title}")
        rows = [["", "wall s", "spread", "CPU s", "server CPU s", "peak MiB", "MB", "requests", "GB/s"]]
        for name, s in runs.series.items():
            moved = s.median("bytes") or bench.weights.stat().st_size
            counted = s.median("requests")
            rows.append([
                name,
                f"{s.median('process_s'):.3f}",
                f"{s.low('process_s'):.2f}-{s.high('process_s'):.2f}",
                f"{s.median('cpu_s'):.2f}",
                f"{s.median('server_cpu_s'):.2f}" if counted else "",
                f"{s.median('peak_rss') / MIB:.0f}",
                f"{moved / 1e6:.1f}",
                f"{counted:.0f}" if counted else "",
                f"{moved / s.median('process_s') / 1e9:.2f}",
            ])
        print_table(rows)


def print_verdicts(verdicts: list[Verdict]) -> None:
    print()
    rows = [["figure", "target", "measured", "", "counted limit"]]
    for v in verdicts:
        rows.append([v.line, v.target, v.measured[:90], VERDICTS[v.met], v.limit])
    print_table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted({*LINES, *GROUPS}), help="measure these lines only (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a 128 MiB model and 2 rounds: a trial, not a result")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partial", action="store_true", help="do not fail on figures that could not be measured")
    parser.add_argument("--data", type=pathlib.Path, default=REPOSITORY / "bench-data")
    args = parser.parse_args()
    python = REPOSITORY / ".venv-bench/bin/python"
    if not python.exists():
        sys.exit("benches/run.py: run benches/setup.sh first")

    enter_own_network()
    # Ended from outside, it must still end nginx and the delay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load = os.getloadavg()[0]
    args.data.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.data, QUICK_SIZE if args.quick else GIB, 2 if args.quick else args.rounds, python)
    bench.prepare()
    verdicts: list[Verdict] = []
    try:
        with Origin(args.data) as bench.origin:
            for name, line in LINES.items():
                if not args.only or {name, name.split("-")[0]} & {*args.only}:
                    verdicts += line(bench)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)

    print(f"\n{machine()}; model of {bench.weights.stat().st_size / 1e6:.1f} MB; medians of {bench.rounds} interleaved rounds")
    if load > QUIET_LOAD:
        print(f"The machine was not quiet: load average {load:.1f} at the start. Wall times are not to be trusted.")
    print_runs(bench)
    print_verdicts(verdicts)
    count = {met: sum(v.met is met for v in verdicts) for met in VERDICTS}
    print(f"\n{count[True]} met, {count[False]} missed, {count[None]} not measured; samples in {bench.write_results(verdicts)}")
    return 1 if count[False] or (count[None] and not args.partial) else 0


if __name__ == "__main__":
    sys.exit(main())
