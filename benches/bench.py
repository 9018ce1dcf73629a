"""What every line of the benchmark works with: data, origin, programs, verdicts.

`Bench` knows where things lie and how our binary is called; the lines in
`lines.py` only say what runs against what and which figure must come out.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import sampling
from origin import Origin, Traffic
from sampling import Failed, Sample, Unavailable

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
MIB = 1 << 20
GIB = 1 << 30
MODEL_NAME = "bench/model"
STAND_IN_PACK = 64 * MIB


@dataclasses.dataclass
class Verdict:
    """One figure that must be reached: `met` is None when it could not be measured."""

    line: str
    target: str
    measured: str
    met: bool | None
    limit: str = ""


def unmeasured(line: str, target: str, reason: str) -> Verdict:
    return Verdict(line, target, f"not measured: {reason}", None)


class Bench:
    def __init__(self, data: pathlib.Path, size: int, rounds: int, python: pathlib.Path):
        self.data, self.size, self.rounds, self.python = data, size, rounds, python
        self.model = data / f"model-{size // MIB}"
        self.weights = self.model / "model.safetensors"
        self.tensorizer_file = data / f"model-{size // MIB}.tensors"
        self.store = data / f"store-{size // MIB}"
        self.scratch = data / "scratch"
        self.programs = REPOSITORY / "target/release"
        self.origin: Origin | None = None
        self.packed: Sample | None = None
        self.packed_missing = ""
        self.tables: list[tuple[str, sampling.Round]] = []

    # -- data ---------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the model and its tensorizer form, unless they are there, and the store."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.prepare_store()
        if not self.tensorizer_file.exists():
            self.make(self.tensorizer_file, "peers/tensorizer_write.py", lambda out: [self.weights, out])

    def prepare_store(self) -> None:
        if not self.weights.exists():
            self.make(self.model, "make_model.py", lambda out: [out, "--size", str(self.size)])
        # Our own store is packed anew: the binary may have changed.
        shutil.rmtree(self.store, ignore_errors=True)
        try:
            self.packed = self.pack(self.store)
        except (Unavailable, Failed) as reason:
            self.packed_missing = str(reason)
            print(f"pack: {reason}; its packs are stood in for by pieces of the model", file=sys.stderr)
            self._cut_stand_in_packs()

    def make(self, target: pathlib.Path, program: str, arguments) -> None:
        """Runs a generator into a temporary place: an interrupted one leaves no half file."""
        partial = target.with_name(target.name + ".partial")
        if partial.is_dir():
            shutil.rmtree(partial)
        command = [str(self.python), str(HERE / program), *map(str, arguments(partial))]
        subprocess.run(command, check=True, stdout=sys.stderr)
        partial.rename(target)

    def _cut_stand_in_packs(self) -> None:
        packs = self.store / "packs"
        packs.mkdir(parents=True)
        with open(self.weights, "rb") as source:
            for number in range(-(-self.weights.stat().st_size // STAND_IN_PACK)):
                with open(packs / f"{number:04}", "wb") as pack:
                    # In small pieces: a child's peak memory starts at its parent's.
                    for _ in range(STAND_IN_PACK // MIB):
                        pack.write(source.read(MIB))

    @property
    def packs(self) -> list[pathlib.Path]:
        return sorted(p for p in (self.store / "packs").rglob("*") if p.is_file())

    @property
    def stored_bytes(self) -> int:
        return self.packed.report["stored_bytes"] if self.packed else sum(p.stat().st_size for p in self.packs)

    def larger(self, times: int) -> "Bench":
        """The same with a larger model: what must not grow with the model shows there."""
        other = Bench(self.data, self.size * times, self.rounds, self.python)
        other.origin = self.origin
        other.prepare_store()
        return other

    # -- programs -----------------------------------------------------------

    @property
    def tenpak(self) -> pathlib.Path:
        return self.programs / "tenpak"

    def peer(self, program: str, *arguments: object, stdin: str = "") -> Sample:
        return sampling.run_peer(self.python, HERE / "peers" / program, *map(str, arguments), stdin=stdin)

    def curl(self, base: str, connections: int, *flags: object) -> Sample:
        urls = "\n".join(f"{base}/{p.relative_to(self.data)}" for p in self.packs)
        return self.counted(lambda: self.peer("curl_fetch.py", connections, *flags, stdin=urls))

    def load(self, store: str, *flags: str, name: str = MODEL_NAME) -> Sample:
        self.require_store()
        command = [str(self.tenpak), "load", name, "--store", store, "--json", *flags]
        environment = self.origin.environment if self.origin else {}
        return self.counted(lambda: sampling.run(command, environment=environment))

    def load_unverified(self, store: str) -> Sample:
        self.require_store()
        return self.counted(lambda: sampling.run([str(self.example("read_unverified")), store, MODEL_NAME]))

    def pack(self, store: pathlib.Path, codec: str = "raw") -> Sample:
        return sampling.run([
            str(self.tenpak), "pack", str(self.model), "--name", MODEL_NAME,
            "--codec", codec, "--store", str(store), "--json",
        ])

    def example(self, name: str) -> pathlib.Path:
        return self.programs / "examples" / name

    def require_store(self) -> None:
        if self.packed_missing:
            raise Unavailable(f"no packed store ({self.packed_missing})")

    # -- what the origin saw --------------------------------------------------

    def url(self) -> str:
        return self.origin.url

    def store_url(self) -> str:
        return f"{self.url()}/{self.store.name}/"

    def counted(self, work) -> Sample:
        """Adds the requests, bytes and CPU time that the origin counted, if there is one."""
        if not self.origin:
            return work()
        sample, traffic, server_cpu = self.watched(work)
        if traffic.count:
            sample.requests, sample.bytes, sample.server_cpu_s = traffic.count, traffic.body_bytes, server_cpu
        return sample

    def watched(self, work) -> tuple[Sample, Traffic, float]:
        mark, cpu = self.origin.mark(), self.origin.cpu_seconds()
        sample = work()
        traffic = self.origin.since(mark)
        return sample, traffic, self.origin.cpu_seconds() - cpu

    # -- rounds ---------------------------------------------------------------

    def interleave(self, title: str, contenders, warm_up: bool = True) -> sampling.Round:
        print(f"{title}", file=sys.stderr)
        result = sampling.interleave(self.rounds, contenders, warm_up)
        self.tables.append((title, result))
        return result

    def results(self, verdicts: list[Verdict]) -> dict:
        return {
            "model_bytes": self.weights.stat().st_size,
            "rounds": self.rounds,
            "lines": [dataclasses.asdict(v) for v in verdicts],
            "samples": {
                title: {name: [dataclasses.asdict(s) for s in series.samples] for name, series in table.series.items()}
                for title, table in self.tables
            },
            "missing": {title: table.missing for title, table in self.tables if table.missing},
        }

    def write_results(self, verdicts: list[Verdict], name: str = "results.json") -> pathlib.Path:
        path = self.data / name
        path.write_text(json.dumps(self.results(verdicts), indent=1) + "\n")
        return path
