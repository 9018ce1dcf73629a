"""Asks engines for what `quantize` writes: do they load it from an edge, and does it say what the weights say?

    .venv-judges/bin/python tests/judges/engines.py [ENGINE]...

Every preset and every format of the fixture model is served by `tenpak edge`, and each engine fetches it by
HF_ENDPOINT. What the weights say is TenPak's own `eval ppl`, in f32: an engine's log-probabilities of the same
tokens may be off by 0.02 nats on the mean. The first 32 greedy tokens are compared with the likeliest ones after the
same tokens; where an engine takes another, it is one that is about as likely.

Writes engines.json beside this file, from which all that TenPak says of engines comes; tests/docs.rs holds the
documents to it. What an engine that is not asked this time said before stays in it.
"""
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from ours import FIXTURE, ROOT, TENPAK, Verdicts, tenpak

TABLE = pathlib.Path(__file__).with_name("engines.json")
PROGRAM = TENPAK.parent / "examples/token_logprobs"
MODEL = FIXTURE / "base"
FEW = ["--samples", "8", "--sample-length", "128"]
# What is asked about; those of one layout are the same to an engine.
PRESETS = [
    "gptq_quality", "gptq_fast", "gptq_aggressive", "awq_balanced", "awq_fast", "bnb_nf4", "nf4_double", "bnb_int8",
]
RECIPES = [f"--preset {name}" for name in PRESETS] + [
    "--method gptq --act-order group",
    "--method gptq --group-size 32",
    "--method gptq --group-size -1",
    "--method gptq --bits 8",
    "--method gptq --asymmetric",
    "--method gptq --format gptq_v2",
    "--method gptq --group-size 64 --average-bits 5",
    "--method gptq --format compressed-tensors",
    "--method rtn --group-size 64",
    "--method rtn --group-size -1",
    "--method rtn --bits 3",
    "--method rtn --bits 8",
    "--method rtn --bits 8 --group-size -1",
    "--method awq --format compressed-tensors",
    "--method rtn --group-size 64 --average-bits 4",
    "--method fp8",
    "--method q4_0", "--method q8_0", "--method q4_k",
]
# Where each engine is, and what it may need by format; the newest of each first.
ENVIRONMENTS = {
    "vllm": ("vllm", ".venv-tools/vllm"),
    "transformers": ("transformers", ".venv-tools/gptqmodel"),
    "transformers4": ("transformers", ".venv-tools/transformers4"),
    "llama.cpp": ("llama.cpp", ".venv-tools/llama.cpp"),
}
GPTQ = ["gptqmodel", "optimum", "autoawq"]
MAY_NEED = {
    "vllm": {"bitsandbytes": ["vllm-bnb-plugin"], "gguf": ["vllm-gguf-plugin"]},
    "transformers": {
        "gptq": GPTQ, "gptq_v2": GPTQ, "awq": GPTQ, "bitsandbytes": ["bitsandbytes"],
        "compressed-tensors": ["compressed-tensors"], "gguf": ["gguf"],
    },
    "llama.cpp": {},
}
LIMIT = 0.02
# Two tokens of which one is not worse than the other by more than this, in nats, are about as likely: int8 and fp8
# round activations, too.
ALIKE = 0.3
# What is said where the layout is taken, and only a kernel for it is missing on the device at hand.
NO_KERNEL = re.compile(r"kernel|device_capability|_mm_cpu", re.IGNORECASE)


def short(said):
    """What an engine said, on one line, without what surrounds it."""
    said = re.sub(r"\s+", " ", said).strip()
    said = re.sub(r"^\w+: \d+ validation errors? for \w+ (\w+ )?(Value|Assertion) error, ", "", said)
    said = re.sub(r"^(\w+\.)*\w+(Error|Exception): ", "", said)
    said = re.sub(r" (\[type=|Available Files:).*$| \(/[^)]*\)", "", said)
    said = said.replace(str(pathlib.Path.home()), "~")
    return said if len(said) <= 200 else said[:197] + "..."


def logprobs(folder, runs, work):
    path = work / "runs.json"
    path.write_text(json.dumps(runs))
    done = subprocess.run([PROGRAM, folder, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["runs"]


def make(recipe, name, store, work, text):
    """Makes what is asked about: what of it is needed, and what its weights say."""
    made = tenpak(*store, "quantize", MODEL, "--name", name, *recipe.split(), *FEW)
    folder = work / name.replace("/", "-")
    tenpak(*store, "unpack", name, "--out", folder)
    loss = tenpak(*store, "eval", "ppl", name, "--text", text, "--context", "256")["loss"]
    return {"recipe": recipe, "repo": name, "layout": made["layout"], "folder": folder, "loss": loss,
            "format": made["quantization"]["format"]}


def ask(which, jobs, environ, work, log):
    """The answers of an engine, by the jobs' names."""
    engine, place = ENVIRONMENTS[which]
    path = work / "jobs.json"
    path.write_text(json.dumps(jobs))
    driver = pathlib.Path(__file__).with_name("engine.py")
    command = [ROOT / place / "bin/python", driver, engine, path]
    found = {}
    with open(log, "a") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ)
        for line in child.stdout:
            try:
                answer = json.loads(line)
                found[answer["name"]] = answer
            except (ValueError, TypeError, KeyError):
                errors.write(line)
                continue
            told = answer["said"][:150] if "said" in answer else "it loads"
            print(f"   {which}: {answer['name']}: {' '.join(told.split())}", flush=True)
        child.wait()
    return found


def needed(which, mades, answers, jobs, environ, work, log):
    """By format, the packages without which one that loads no longer does."""
    engine, _ = ENVIRONMENTS[which]
    loaded = [made for made in mades if "logprobs" in answers.get(made["recipe"], {})]
    trials = []
    for format, packages in MAY_NEED[engine].items():
        one = next((made for made in loaded if made["format"] == format), None)
        if one is not None:
            there = answers[one["recipe"]]["packages"]
            trials += [(format, package, one["recipe"]) for package in packages if package in there]
    asked = [jobs[recipe] | {"name": f"{format} without {package}", "without": [package]}
             for format, package, recipe in trials]
    found = ask(which, asked, environ, work, log) if asked else {}
    needs = {}
    for format, package, _ in trials:
        if "said" in found.get(f"{format} without {package}", {}):
            needs.setdefault(format, []).append(package)
    return needs


def differed(row):
    """Whether the table says of the same version that what it loads of this recipe differs."""
    of = ("engine", "version", "made_by")
    before = (one for one in json.loads(TABLE.read_text())["trials"] if all(one[key] == row[key] for key in of))
    return any((one["said"] or "").startswith("loads, and differs") for one in before)


def judge(which, mades, job, environ, work, verdict):
    """The rows of an engine."""
    engine, _ = ENVIRONMENTS[which]
    log = ROOT / f"target/judges/engines-{which}.log"
    log.unlink(missing_ok=True)
    jobs = {made["recipe"]: job | {"name": made["recipe"], "repo": made["repo"], "format": made["format"]} for made in mades}
    answers = ask(which, list(jobs.values()), environ, work, log)
    needs = needed(which, mades, answers, jobs, environ, work, log)
    rows = []
    for made in mades:
        answer = answers.get(made["recipe"])
        if answer is None:
            verdict(False, f"{which}: {made['recipe']}: no answer; see {log}")
            continue
        row = {"engine": engine, "version": answer["version"], "layout": made["layout"], "made_by": made["recipe"]}
        if "said" in answer:
            said = short(answer["said"].replace(made["repo"], "MODEL"))
            no_kernel = "ValidationError" not in answer["said"] and bool(NO_KERNEL.search(answer["said"]))
            rows.append(row | {"loads": False, "needs": {}, "greedy": None, "off": None, "said": said, "no_kernel": no_kernel})
            print(f"{which} {answer['version']}: {made['recipe']} ({made['layout']}): it says: {said}", flush=True)
            continue
        said = [one for run in answer["logprobs"] for one in run]
        off = abs(-sum(said) / len(said) - made["loss"])
        after = logprobs(made["folder"], [job["prompt"] + answer["tokens"]], work)[0][len(job["prompt"]) - 1:]
        greedy = sum(best == token for (_, best, _), token in zip(after, answer["tokens"], strict=True))
        apart = max(most - own for own, _, most in after)
        good = off <= LIMIT and apart <= ALIKE and math.isfinite(off)
        line = (f"{which} {answer['version']}: {made['recipe']} ({made['layout']}): {greedy} of "
                f"{len(after)} tokens, none worse than {apart:.3f} nats (at most {ALIKE}); log-probabilities off by {off:.4f} (at most {LIMIT})")
        if not good and differed(row):
            # A fault of that version, which the table tells.
            print(f"{line}: it differs, as before", flush=True)
        else:
            verdict(good, line)
        own = {name: answer["packages"][name] for name in needs.get(made["format"], [])}
        differs = None if good else f"loads, and differs: {off:.3f} nats on the mean, a greedy token by {apart:.3f}"
        rows.append(row | {"loads": good, "needs": own if good else {}, "greedy": greedy if good else None,
                           "off": round(off, 4) if good else None, "said": differs, "no_kernel": False})
    return rows


def write(rows):
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    TABLE.write_text(f'{{\n "trials": [\n{lines}\n ]\n}}\n')


def main():
    wanted = sys.argv[1:] or list(ENVIRONMENTS)
    unknown = [name for name in wanted if name not in ENVIRONMENTS]
    if unknown:
        sys.exit(f"no engine {unknown[0]}; there are {', '.join(ENVIRONMENTS)}")
    verdict = Verdicts()
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        os.environ["XDG_STATE_HOME"] = str(work / "state")
        store = ["--store", work / "store"]
        text = work / "text.txt"
        text.write_text((FIXTURE / "test.txt").read_text()[:8000])
        ids = tokenizer.encode(text.read_text()).ids
        runs = [run for at in range(0, len(ids), 256) if len(run := ids[at:at + 256]) > 1]
        prompt = tokenizer.encode((FIXTURE / "test.txt").read_text()[20_000:20_100]).ids[:16]
        job = {"text": runs, "prompt": prompt, "without": []}
        mades = []
        for number, recipe in enumerate(RECIPES):
            mades.append(make(recipe, f"org/r{number}", store, work, text))
            print(f"   {recipe}: {mades[-1]['layout']}, {mades[-1]['loss']:.4f} nats", flush=True)
        own = [at[0] for run in logprobs(mades[0]["folder"], runs, work) for at in run]
        differ = abs(-sum(own) / len(own) - mades[0]["loss"])
        verdict(differ < 1e-4, f"`eval ppl` and the tokens that engines are given: {differ:.1e} nats apart")
        edge = subprocess.Popen([TENPAK, "edge", "--origin", work / "store", "--listen", "127.0.0.1:0"],
                                stdout=subprocess.PIPE, text=True)
        try:
            address = re.search(r"http://[0-9.:]+", edge.stdout.readline())[0]
            environ = os.environ | {
                "HF_ENDPOINT": address, "HF_HOME": str(work / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
                "HF_HUB_DISABLE_XET": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "DISABLE_SAFETENSORS_CONVERSION": "1",
                # Two threads that wait for each other in small products take ten times as long as one.
                "OMP_NUM_THREADS": "1",
            }
            rows = []
            for which in ENVIRONMENTS:
                if which in wanted:
                    rows += judge(which, mades, job, environ, work, verdict)
        finally:
            edge.kill()
    before = json.loads(TABLE.read_text())
    asked = {(row["engine"], row["version"].split(".")[0]) for row in rows}
    kept = [row for row in before["trials"] if (row["engine"], row["version"].split(".")[0]) not in asked]
    order = {name: at for at, (name, _) in enumerate(ENVIRONMENTS.values())}
    rows = sorted(kept + rows, key=lambda row: (order.get(row["engine"], 9), [-int(n) for n in row["version"].split(".")[:2]]))
    write(rows)
    for name in PRESETS:
        own = next(made["layout"] for made in mades if made["recipe"] == f"--preset {name}")
        loads = [row for row in rows if row["layout"] == own and row["loads"]]
        verdict(loads, f"{name} loads in {', '.join(row['engine'] + ' ' + row['version'] for row in loads) or 'no engine'}")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
