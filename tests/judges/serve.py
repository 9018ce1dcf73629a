"""vLLM, started by `tenpak serve`: does it get the model from us, say what it says without us, agree about its speed, and
end as we do?

    .venv-tools/vllm/bin/python tests/judges/serve.py

The text of the server is compared with that of vLLM's own API on the folder that was packed. `eval speed` is compared with
vLLM's own bench, about a server whose times are known. A server that is killed leaves nothing behind; one that is told to stop ends with status 0.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENPAK = ROOT / os.environ.get("TENPAK", "target/release/tenpak")
MODEL = ROOT / "fixtures/lm/base"
PROMPT = "It was"
TOKENS = 32
# How far `eval speed` and vLLM's bench may be apart about a server whose times are known; of vLLM itself, which shares two
# cores with whoever asks, they are only told.
APART = 0.05
FLAGS = ["--max-context", "256", "--dtype", "f32", "--listen", "127.0.0.1:0", "--api-key", "key", "--served-name", "austen"]
OWN = ["--", "--enforce-eager"]
good = every = 0


def verdict(holds, line):
    global good, every
    good, every = good + bool(holds), every + 1
    print(f"{line}: {'good' if holds else 'BAD'}", flush=True)


def tenpak(*arguments):
    done = subprocess.run([TENPAK, "--json", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def serve(work):
    command = [TENPAK, "--json", "--store", work / "store", "serve", "org/m", "--engine", "vllm", "--python", sys.executable]
    environ = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(ROOT / "target/judges/serve-vllm.log", "a") as log:
        child = subprocess.Popen([*command, *FLAGS, *OWN], stdout=subprocess.PIPE, stderr=log, text=True, env=environ)
    return child, json.loads(child.stdout.readline())


def ask(url, path, body=None):
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as answer:
        return json.loads(answer.read())


def below(pid):
    """Every process that descends from one."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    found = [pid]
    for one in found:
        found += [own for own, parent in parents.items() if parent == one]
    return set(found[1:])


def alive(pids):
    def lives(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in pids if lives(pid)}


def own_text():
    """What vLLM says by itself, in a process of its own."""
    script = (
        "import sys, vllm\n"
        f"llm = vllm.LLM({str(MODEL)!r}, max_model_len=256, enforce_eager=True, dtype='float32')\n"
        f"out = llm.generate({PROMPT!r}, vllm.SamplingParams(temperature=0, max_tokens={TOKENS}))\n"
        "open(sys.argv[1], 'w').write(out[0].outputs[0].text)\n"
    )
    with tempfile.NamedTemporaryFile("r") as file:
        environ = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", script, file.name], check=True, env=environ, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return file.read()


def bench(url, model, work, concurrency, prompts):
    """Medians in ms, and tokens/s, by vLLM's bench."""
    result = work / "bench.json"
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai", "--base-url", url,
        "--endpoint", "/v1/completions", "--model", model, "--tokenizer", MODEL, "--dataset-name", "random",
        "--random-input-len", "64", "--random-output-len", "32", "--ignore-eos", "--max-concurrency", str(concurrency),
        "--num-prompts", str(prompts), "--temperature", "0", "--percentile-metrics", "ttft,tpot", "--save-result",
        "--result-filename", result,
    ]
    environ = os.environ | {"OPENAI_API_KEY": "key", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = json.loads(result.read_text())
    return [found["median_ttft_ms"], found["median_tpot_ms"], found["output_throughput"]]


def speed(url, concurrency, requests):
    """The same by `eval speed`."""
    found = tenpak("eval", "speed", url, "--api-key", "key", "--input-tokens", "64", "--output-tokens", "32", "--repeats", "1",
                   "--requests", str(requests), "--concurrency", str(concurrency))
    return [found["ttft_ms"]["p50"], found["tpot_ms"]["p50"], found["tokens_per_second"]]


NAMES = ["ms to the first token", "ms per token", "tokens/s"]


def known(work):
    """A server whose times are known."""
    environ = os.environ | {"MODE": "known", "FIRST": "0.8", "EACH": "0.03"}
    command = [sys.executable, ROOT / "tests/engines/openai.py"]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for concurrency in (1, 4):
            theirs, ours = bench(url, "org/m", work, concurrency, 8), speed(url, concurrency, 8)
            for name, own, other in zip(NAMES, ours, theirs):
                verdict(abs(own - other) <= APART * other, f"{name}, {concurrency} at a time: {own:.2f}, by vLLM's bench {other:.2f}")
        server.stdin.close()


def main():
    (ROOT / "target/judges").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        # Folders of the model's name would be taken for it.
        os.chdir(work)
        packed = tenpak("--store", work / "store", "pack", MODEL, "--name", "org/m")
        child, ready = serve(work)
        url = ready["url"]
        verdict(ready["engine"] == "vllm" and ready["manifest"] == packed["manifest"], f"ready after {ready['ready_seconds']:.0f} s")
        verdict(ask(url, "/v1/models")["data"][0]["id"] == "austen", "it has the name that was given")
        answer = ask(url, "/v1/completions", {"model": "austen", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0})
        text = answer["choices"][0]["text"]
        expected = own_text()
        verdict(text == expected, f"it says {text!r}, and vLLM by itself {expected!r}")
        theirs, ours = bench(url, "austen", work, 1, 64), speed(url, 1, 64)
        for name, own, other in zip(NAMES, ours, theirs):
            print(f"vLLM itself, {name}: {own:.2f}, by its bench {other:.2f}", flush=True)
        family = below(child.pid)
        child.send_signal(signal.SIGTERM)
        status = child.wait(60)
        verdict(status == 0 and not alive(family), f"told to stop, it ends with status {status} and all {len(family)} processes with it")
        child, ready = serve(work)
        family = below(child.pid)
        child.kill()
        child.wait()
        deadline = time.monotonic() + 10
        while alive(family) and time.monotonic() < deadline:
            time.sleep(0.05)
        verdict(len(family) > 2 and not alive(family), f"killed, it leaves none of its {len(family)} processes behind")
        known(work)
    print(f"{good} of {every} good")
    return 0 if good == every > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
