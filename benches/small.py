"""Loads of checkpoints of many small tensors, as NVFP4 and block FP8 have them.

What is counted are requests, from the server's log; what is timed is a load from an origin that answers each
request 30 ms late, and a load of the same bytes in few tensors beside one in many.
"""

import shutil

import sampling
from bench import GIB, MIB, Bench, Verdict, unmeasured
from network import SlowOrigin
from sampling import Failed, Round, Sample, Unavailable

NAME = "small"
FEW, TENSORS, MANY = 300, 20480, 250000
SMALL_SIZE = 27 * MIB // 2
DELAY_MS = 30
REQUESTS = 24
SECONDS = 1.5
TIMES = 1.3
TABLE = 0.08


class Checkpoint:
    """A checkpoint of so many tensors, packed."""

    def __init__(self, bench: Bench, tensors: int, size: int):
        self.bench = bench
        self.model = bench.data / f"nvfp4-{tensors}-{size // MIB}"
        self.store = bench.scratch / f"nvfp4-{tensors}"
        if not self.model.exists():
            bench.make(self.model, "make_nvfp4.py", lambda out: [out, "--tensors", tensors, "--size", size])
        shutil.rmtree(self.store, ignore_errors=True)
        self.packed = sampling.run([
            str(bench.tenpak), "pack", str(self.model), "--name", NAME, "--codec", "raw", "--store", str(self.store), "--json",
        ])

    @property
    def bytes(self) -> int:
        return self.packed.report["raw_bytes"]

    @property
    def packs(self) -> int:
        return len(list((self.store / "packs").iterdir()))

    @property
    def table(self) -> int:
        return sum(path.stat().st_size for path in (self.store / "tables").iterdir())

    def load(self, url: str) -> Sample:
        address = f"{url}/{self.store.relative_to(self.bench.data)}/"
        return self.bench.counted(lambda: sampling.run([
            str(self.bench.tenpak), "load", NAME, "--store", address, "--json",
        ]))


def late(bench: Bench, checkpoints: dict[str, Checkpoint], rate: float | None) -> Round:
    """Each of them in turn, from an origin that answers late."""
    with SlowOrigin(bench, rate, DELAY_MS) as origin:
        plain, bench.origin = bench.origin, None
        try:
            runs = sampling.interleave(min(bench.rounds, 3), {
                name: lambda own=own: own.load(origin.url) for name, own in checkpoints.items()
            }, warm_up=False)
        finally:
            bench.origin = plain
    bench.tables.append((f"small tensors: answers {DELAY_MS} ms late", runs))
    return runs


def small(bench: Bench) -> list[Verdict]:
    size = min(bench.size, GIB)
    lines = [
        (f"requests of a load of {TENSORS} tensors", f"<= {REQUESTS}"),
        (f"load of {TENSORS} tensors, answers {DELAY_MS} ms late", f"<= {SECONDS} s"),
        (f"requests of a load of {MANY} tensors", "<= packs x 2 + 16"),
        (f"load of {MANY} tensors, of one of {FEW}", f"<= {TIMES}"),
        (f"the same, answers {DELAY_MS} ms late", f"<= {TIMES}"),
        (f"table of {MANY} tensors, of the data", f"<= {TABLE:.0%}"),
    ]
    try:
        checkpoint = Checkpoint(bench, TENSORS, SMALL_SIZE)
        few, many = (Checkpoint(bench, tensors, size) for tensors in (FEW, MANY))
        near = bench.interleave("small tensors", {
            f"{TENSORS} tensors": lambda: checkpoint.load(bench.url()),
            f"{FEW} tensors": lambda: few.load(bench.url()),
            f"{MANY} tensors": lambda: many.load(bench.url()),
        })
        far = late(bench, {f"{TENSORS} tensors": checkpoint, f"{FEW} tensors": few, f"{MANY} tensors": many}, None)
        first, long = near.series[f"{TENSORS} tensors"], near.series[f"{MANY} tensors"]
        took = far.series[f"{TENSORS} tensors"].median("process_s")
    except (Unavailable, Failed, KeyError) as why:
        return [unmeasured(line, target, str(why)) for line, target in lines]

    def ratio(runs: Round) -> float:
        a, b = (runs.series[f"{tensors} tensors"].median("process_s") for tensors in (MANY, FEW))
        # Bytes per second: the two are not quite of one size.
        return (a / many.bytes) / (b / few.bytes)

    counted = checkpoint.bytes + checkpoint.table
    requests, most = long.high("requests"), many.packs * 2 + 16
    records = many.packed.report["tensors"] * 168 + many.packed.report["tensors"] * 150
    results = [
        (first.high("requests") <= REQUESTS, f"{first.high('requests'):.0f}", "5: ref, manifest, table, layout, one pack"),
        (took <= SECONDS, f"{took:.2f} s", f"{4 * DELAY_MS / 1e3:.2f} s: 4 round trips; {counted / 1e6:.1f} MB"),
        (requests <= most, f"{requests:.0f} of {most}", f"{many.packs} packs, {-(-many.table // (4 * MIB))} parts of the table"),
        (ratio(near) <= TIMES, f"{ratio(near):.2f}", f"{1 + many.table / many.bytes:.2f}: its table is read too"),
        (ratio(far) <= TIMES, f"{ratio(far):.2f}", ""),
        (many.table <= TABLE * many.bytes, f"{many.table / many.bytes:.1%}", f"{records / many.bytes:.1%}: 318 bytes a tensor, with its place"),
    ]
    return [Verdict(*line, measured, met, limit) for line, (met, measured, limit) in zip(lines, results)]
