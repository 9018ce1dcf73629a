# What every backend's driver has: a specification in, progress and a result out.
#
# Run as `python driver.py SPEC`. SPEC is JSON: source, out, recipe, keep (layers that stay as they are),
# calibration (a file or null), samples, length. Each line on standard output that is a JSON object is an event: {"progress": 0.5} or
# {"tool": NAME, "version": VERSION}, the last one.

import importlib.metadata
import json
import os
import pathlib
import shutil
import sys

SPEC = json.load(open(sys.argv[1]))
if SPEC["calibration"]:
    SPEC["calibration"] = os.path.abspath(SPEC["calibration"])
# Tools leave logs where they run.
os.chdir(os.path.dirname(os.path.abspath(sys.argv[1])))
SOURCE, OUT, RECIPE, KEEP = SPEC["source"], SPEC["out"], SPEC["recipe"], SPEC["keep"]


def tell(**event):
    print(json.dumps(event), flush=True)


def calibration(tokenizer):
    """Token lists of equal length, cut from the text."""
    text = pathlib.Path(SPEC["calibration"]).read_text(encoding="utf-8")
    tokens = tokenizer(text)["input_ids"]
    length = SPEC["length"]
    cut = [tokens[at:at + length] for at in range(0, len(tokens) - length + 1, length)][:SPEC["samples"]]
    if not cut:
        sys.exit(f"the calibration text has {len(tokens)} tokens, and one sample takes {length}")
    return cut


def finish(package):
    """Copies what the tool did not save (tokenizer, templates), and says which tool it was."""
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
    for path in pathlib.Path(SOURCE).iterdir():
        target = pathlib.Path(OUT) / path.name
        if path.is_file() and not target.exists() and not path.name.endswith(weights):
            shutil.copyfile(path, target)
    tell(tool=package, version=importlib.metadata.version(package))
