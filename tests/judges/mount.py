"""transformers' from_pretrained over a mount, and other threads that map the same files: no run hangs, and the weights
are the folder's.

    .venv-judges/bin/python tests/judges/mount.py [RUNS]

Each run mounts anew, so that every page is a fault that waits for chunks; memory is now less than what is asked for at
a time, now enough. transformers loads in threads of its own; two of its loads at a time in one process give wrong
weights from a plain folder, too, so that the threads beside it are safetensors'.
"""

import contextlib
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/judges/mount"
MODEL = ROOT / "fixtures/lm/base"
TENPAK = os.environ.get("TENPAK", "target/release/tenpak")
THREADS = 4
LONGEST_S = 120


def make():
    """The model in many files, in a store."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    model.save_pretrained(WORK / "model", max_shard_size="500KB")
    assert len(list((WORK / "model").glob("*.safetensors"))) >= 4
    command = [TENPAK, "--store", WORK / "store", "pack", WORK / "model", "--name", "org/model"]
    subprocess.run(command, check=True, capture_output=True)
    return model.state_dict()


@contextlib.contextmanager
def mounted(memory):
    folder = WORK / "mnt"
    folder.mkdir(exist_ok=True)
    command = [TENPAK, "--json", "--store", WORK / "store", "mount", "--memory", memory, "org/model", folder]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert "mounted" in json.loads(child.stdout.readline())
        yield folder
    finally:
        child.terminate()
        assert child.wait(20) == 0
        child.stdout.close()


def load(folder, number):
    if number == 0:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    found = {}
    # Each begins elsewhere.
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths[number:] + paths[:number]:
        found |= load_file(path)
    return found


def main(runs):
    right = make()
    began = time.monotonic()
    for run in range(runs):
        # Whoever hangs is shown, thread by thread.
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        with mounted(["1M", "64M"][run % 2]) as folder, ThreadPoolExecutor(THREADS) as pool:
            for number, found in enumerate(pool.map(load, [folder] * THREADS, range(THREADS))):
                # A tied head is in no file.
                assert right.keys() - found.keys() <= ({"lm_head.weight"} if number else set())
                for name, tensor in found.items():
                    assert torch.equal(tensor.view(torch.uint8), right[name].view(torch.uint8)), (run, name)
                del found, tensor
    faulthandler.cancel_dump_traceback_later()
    taken = time.monotonic() - began
    print(f"mount: transformers {transformers.__version__}, {THREADS} threads, {runs} runs: none hung, in {taken:.0f} s")


main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
