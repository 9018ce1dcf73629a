"""`pack` and `cp` into an S3 bucket that takes so many bytes a second on each connection.

The server is `examples/slow_bucket`: in memory, so that it is no slower than asked for. It counts the bodies of
1 MiB and more: bytes, how many come at a time, and from the first byte to the last. What one connection would
take is counted, not run. By itself: `bucket.py TENPAK SLOW_BUCKET MODEL STORE NAME [--rate BYTES]`.
"""

import argparse
import json
import pathlib
import subprocess

import sampling
from bench import MIB, MODEL_NAME, Bench, Verdict, unmeasured
from origin import free_port
from sampling import Sample, Unavailable

RATE = 20e6
TIMES = 10
MEMORY = 256 * MIB


class SlowBucket:
    """The server; `environment` makes `s3://` mean it."""

    def __init__(self, program: pathlib.Path, rate: float):
        if not program.exists():
            raise Unavailable(f"{program.name} is not built")
        self.rate = rate
        self.command = [str(program), str(free_port()), f"{rate:.0f}"]

    def __enter__(self) -> "SlowBucket":
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = [self.process.stdout.readline() for _ in range(4)]
        self.environment = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        return self

    def uploads(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


def upload(server: pathlib.Path, rate: float, *command: object) -> Sample:
    """One command against an empty bucket; its report has what the server counted."""
    with SlowBucket(server, rate) as bucket:
        sample = sampling.run([*map(str, command), "--json"], environment=bucket.environment)
        sample.report["uploads"] = bucket.uploads()
        return sample


def commands(tenpak: object, model: object, store: object, name: str) -> dict[str, list]:
    return {
        "pack": [tenpak, "pack", model, "--name", name, "--codec", "raw", "--store", "s3://weights/packed"],
        "cp": [tenpak, "cp", name, "--store", store, "--to", "s3://weights/copied"],
    }


def judged(what: str, sample: Sample, rate: float) -> list[Verdict]:
    uploads = sample.report["uploads"]
    alone = uploads["bytes"] / rate
    times = alone / sample.process_s
    told = f"{alone:.1f} s over one connection, {sample.process_s:.2f} s; {uploads['at_once']} uploads at most at a time"
    return [
        Verdict(f"{what} into a bucket, {rate / 1e6:.0f} MB/s for each connection", f">= {TIMES} x one", f"{times:.1f}", times >= TIMES, told),
        Verdict(f"peak memory of {what} into a bucket", "<= 256 MiB", f"{sample.peak_rss / MIB:.0f} MiB", sample.peak_rss <= MEMORY),
    ]


def bucket(bench: Bench) -> list[Verdict]:
    verdicts = []
    server = bench.example("slow_bucket")
    for what, command in commands(bench.tenpak, bench.model, bench.store, MODEL_NAME).items():
        runs = bench.interleave(f"{what} into a bucket", {what: lambda: upload(server, RATE, *command)})
        series = runs.get(what)
        if not series:
            verdicts.append(unmeasured(f"{what} into a bucket", f">= {TIMES} x one", runs.missing[what]))
            continue
        by_time = sorted(series.samples, key=lambda sample: sample.process_s)
        verdicts += judged(what, by_time[len(by_time) // 2], RATE)
    return verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tenpak", type=pathlib.Path)
    parser.add_argument("server", type=pathlib.Path, help="slow_bucket")
    parser.add_argument("model", type=pathlib.Path, help="a folder to pack")
    parser.add_argument("store", type=pathlib.Path, help="a store to copy from")
    parser.add_argument("name", help="what is copied from it")
    parser.add_argument("--rate", type=float, default=RATE, help="bytes a second of each connection; default 20e6")
    args = parser.parse_args()
    for what, command in commands(args.tenpak, args.model, args.store, args.name).items():
        sample = upload(args.server, args.rate, *command)
        for verdict in judged(what, sample, args.rate):
            print(f"{verdict.line}: {verdict.measured} ({verdict.target}); {verdict.limit}")
        print(f"CPU {sample.cpu_s:.2f} s; {sample.report['uploads']}")
