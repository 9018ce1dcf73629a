"""The table of `benches/device.sh`: what each device does, how loads into it compare with other loaders', and
what is required of them. Exit status 1 when a figure was missed."""

import argparse
import pathlib
import shutil
import sys

import device
from bench import GIB, MIB, REPOSITORY, Bench
from run import VERDICTS, machine, print_runs, print_table, print_verdicts


def print_rates(rows: list[dict]) -> None:
    for name in dict.fromkeys(row["device"] for row in rows):
        print(f"\n{name}")
        table = [["", "GB/s", "of copy", ""]]
        for row in (row for row in rows if row["device"] == name):
            share = "" if row["of_copy"] is None else f"{row['of_copy']:.2f}"
            table.append([row["what"], f"{row['gb_per_s']:.2f}", share, {True: "equal", False: "WRONG", None: ""}[row["correct"]]])
        print_table(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benches/device.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a 128 MiB model and 2 rounds: a trial, not a result")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, help="MiB of bf16 that a kernel writes [default: 256 on a GPU, 4 in software]")
    parser.add_argument("--on-cpu", action="store_true", help="a trial without a GPU: all loaders to host memory instead")
    parser.add_argument("--programs", type=pathlib.Path, default=REPOSITORY / "target/release", help="where the programs lie")
    parser.add_argument("--data", type=pathlib.Path, default=REPOSITORY / "bench-data")
    args = parser.parse_args()

    args.data.mkdir(parents=True, exist_ok=True)
    size, rounds = (128 * MIB, 2) if args.quick else (GIB, args.rounds)
    bench = Bench(args.data, size, rounds, pathlib.Path(sys.executable))
    bench.programs = args.programs.resolve()
    bench.scratch.mkdir(exist_ok=True)
    try:
        bench.prepare_store()
        rows, missing = device.rates(bench, *(["--mib", str(args.mib)] if args.mib else []))
        verdicts = device.verdicts(bench, rows, missing)
        trial = device.loads(bench, "cpu") if args.on_cpu else []
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)

    print(f"{machine()}; model of {bench.weights.stat().st_size / 1e6:.1f} MB; medians of {rounds} interleaved rounds")
    print_rates(rows)
    print_runs(bench)
    print_verdicts(verdicts)
    if trial:
        print("\nThe same loaders to host memory, which shows that they run and nothing of a GPU (load_file then only maps the file):")
        print_verdicts(trial)
    count = {met: sum(v.met is met for v in verdicts) for met in VERDICTS}
    print(f"\n{count[True]} met, {count[False]} missed, {count[None]} not measured; samples in {bench.write_results(verdicts, 'device.json')}")
    return 1 if count[False] else 0


if __name__ == "__main__":
    sys.exit(main())
