"""TenPak, as the judges run it; and what they say of a check."""

import contextlib
import json
import os
import pathlib
import subprocess

import torch
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENPAK = ROOT / os.environ.get("TENPAK", "target/release/tenpak")
FIXTURE = ROOT / "fixtures/lm"


def tenpak(*args) -> dict:
    """Runs it; gives its result."""
    done = subprocess.run([str(TENPAK), *map(str, args), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tenpak {' '.join(map(str, args))}: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tensors(folder) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint stores."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """By what share of their norm values differ from those expected."""
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


class Verdicts:
    """Prints a line for each check, and counts."""

    def __init__(self):
        self.good = self.all = 0

    def __call__(self, good: bool, line: str) -> None:
        self.good += bool(good)
        self.all += 1
        print(f"{line}: {'good' if good else 'BAD'}", flush=True)

    @contextlib.contextmanager
    def about(self, what: str):
        """Whatever goes wrong within is a check that failed; the others go on."""
        try:
            yield
        except Exception as error:
            self(False, f"{what}: {type(error).__name__}: {str(error)[-1500:]}")

    def end(self) -> int:
        """The last line, and the exit status: no check at all is none that passed."""
        print(f"{self.good} of {self.all} good")
        return 0 if self.good == self.all > 0 else 1
