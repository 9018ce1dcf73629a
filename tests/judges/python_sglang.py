"""The real SGLang, on the processor, with a folder that names an artifact: does it say what transformers says of the
model, and take another tag while it runs?

    target/judges/python/sglang-venv/bin/python tests/judges/python_sglang.py

The environment, SGLang beside vLLM's torch, is made by `tests/judges/python.sh`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/judges/python/sglang"
MODEL = ROOT / "fixtures/lm/base"
TENPAK = os.environ["TENPAK_COMMAND"]
PROMPTS = ["The capital of France is", "Once upon a time", "def f(x):"]
TOKENS = 12
START_S = 900
FLAGS = [
    "--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule", "--disable-radix-cache",
    "--dtype", "float32", "--mem-fraction-static", "0.2", "--max-total-tokens", "4096", "--context-length", "256",
    "--skip-server-warmup", "--host", "127.0.0.1",
]  # fmt: skip


def make():
    """The model under two tags, of which one has its layers turned around."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(WORK, ignore_errors=True)
    base, turned = WORK / "base", WORK / "turned"
    for out in (base, turned):
        shutil.copytree(MODEL, out)
        (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    tensors = load_file(MODEL / "model.safetensors")
    last = max(int(name.split(".")[2]) for name in tensors if name.startswith("model.layers."))

    def other(name):
        return re.sub(r"^model\.layers\.(\d+)", lambda found: f"model.layers.{last - int(found[1])}", name)

    moved = {other(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(moved, turned / "model.safetensors", metadata={"format": "pt"})
    for out, name in ((base, "org/base"), (turned, "org/base:turned")):
        subprocess.run([TENPAK, "--store", WORK / "store", "pack", out, "--name", name], check=True, capture_output=True)
    return base, turned


def folder(spec):
    import tenpak

    return tenpak.snapshot_download(spec, store=str(WORK / "store"), weights=False, cache_dir=WORK / "cache")


def expected(path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)
    prompts, found = [], []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            said = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        prompts.append(ids[0].tolist())
        found.append(said[0, ids.shape[1] :].tolist())
    return prompts, found


def main():
    base, turned = make()
    prompts, right = expected(base)
    _, other = expected(turned)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def said():
        options = {"temperature": 0, "max_new_tokens": TOKENS, "ignore_eos": True}
        answers = [json.loads(ask("/generate", {"input_ids": ids, "sampling_params": options})) for ids in prompts]
        return [one["output_ids"] for one in answers]

    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", folder("org/base"), "--port", str(port), *FLAGS]
    own = {**os.environ, "HF_HUB_OFFLINE": "1"}
    failed = 0
    with open(WORK / "server.log", "w") as log:
        server = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError):
                    ask("/health")
                    break
                if server.poll() is not None or time.monotonic() > end:
                    print((WORK / "server.log").read_text()[-3000:])
                    return 1
                time.sleep(1)
            found = said()
            print(f"{'ok' if found == right else 'FAILED'}: it says what transformers says: {found} {right}", flush=True)
            failed += found != right
            answer = json.loads(ask("/update_weights_from_disk", {"model_path": folder("org/base:turned")}))
            found = said()
            good = answer.get("success") and found == other != right
            print(f"{'ok' if good else 'FAILED'}: another tag: {answer} {found} {other}", flush=True)
            failed += not good
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    print("sglang: all right" if not failed else f"sglang: {failed} wrong")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
