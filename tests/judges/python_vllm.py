"""The real vLLM, on the processor, with `--load-format tenpak`: does it say what it says of the plain folder, and
fetch no more than it needs?

    .venv-tools/vllm/bin/python tests/judges/python_vllm.py [CASE]...

Each case is a process of its own. With lazy tensors and two ranks of a tensor-parallel group the ranks together fetch
at most 1.02 of what the model takes in the store. A running engine takes another tag (`reload_weights`): it then says
what a fresh one says of that tag, and has fetched what differs, counted at the origin.
"""

import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from python_vllm_models import (
    MODEL, WORK, make_adapter, make_experts, make_models, make_patched, make_wide, run,
)  # fmt: skip

PROMPTS = ["The capital of France is", "Once upon a time", "def f(x):"]
FETCHED = re.compile(r"(\d+) tensors of .* verified: (\d+) bytes fetched in (\d+) requests")
EMPTY = hashlib.sha256().hexdigest()
MOST = 1.02


class Counting(http.server.BaseHTTPRequestHandler):
    """The store behind a web server, which notes what it gave."""

    protocol_version = "HTTP/1.1"
    given: list[tuple[float, str, int]]

    def do_GET(self):
        path, asked = WORK / "store" / self.path.lstrip("/"), self.headers.get("Range")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        size = len(content)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start = int(first) if first else max(size - int(last), 0)
            stop = min(int(last) + 1, size) if first and last else size
            content = content[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.given.append((time.time(), self.path, len(content)))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served():
    """The store's address, and what was given."""
    given = []
    handler = type("Own", (Counting,), {"given": given})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", given
        server.shutdown()


def folder(spec, store=None):
    import tenpak

    store = store or str(WORK / "store")
    return tenpak.snapshot_download(spec, store=store, weights=False, cache_dir=WORK / "cache" / store.replace("/", "_"))


def child(case):
    """Generates with a model and prints what it said."""
    from vllm import LLM, SamplingParams

    options = {"max_model_len": 256, "enforce_eager": True, "dtype": "bfloat16", "tensor_parallel_size": case["ranks"]}
    if case["format"] == "tenpak":
        options |= {"load_format": "tenpak", "model_loader_extra_config": case.get("extra", {})}
    model = LLM(case["model"], **options)

    def said():
        found = model.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
        return [one.outputs[0].token_ids for one in found]

    def checksums():
        return {name: digest for one in model.collective_rpc("compute_weight_checksums") for name, digest in one.items()}

    result = {"said": said(), "checksums": checksums(), "after": [], "reloads": []}
    for step in case.get("steps", ()):
        before = time.time()
        if step == "reset":
            # Somebody else changes weights, and says nothing.
            model.collective_rpc("reset_weights")
            continue
        model.collective_rpc("reload_weights", kwargs={"weights_path": step})
        model.reset_prefix_cache()
        result["reloads"].append((before, time.time()))
        result["after"].append({"said": said(), "checksums": checksums()})
    print("RESULT " + json.dumps(result), flush=True)


def generate(model, format="tenpak", ranks=1, **more):
    case = {"model": str(model), "format": format, "ranks": ranks, **more}
    own = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(ranks))),
    }  # fmt: skip
    if ranks == 1:
        # One process that imports vLLM, not three.
        own["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(case)], env=own, capture_output=True, text=True, timeout=900
    )
    told = done.stdout + done.stderr
    (WORK / "last.log").write_text(told)
    found = re.search(r"^RESULT (.*)$", told, re.M)
    if found is None:
        return {"error": told[-3000:]}
    return {**json.loads(found[1]), "fetched": [tuple(map(int, one)) for one in FETCHED.findall(told)]}


def stored(spec):
    import tenpak

    return tenpak.Artifact(spec, store=str(WORK / "store")).manifest["totals"]["stored_bytes"]


def same_text():
    plain = generate(MODEL, "auto")
    ours = generate(folder("org/base"))
    lazy = generate(folder("org/base"), extra={"lazy": True})
    yield ours.get("said") == plain["said"], f"the same tokens as with auto: {ours}"
    yield lazy.get("said") == plain["said"], f"the same with lazy tensors: {lazy}"
    ((_, fetched, _),) = ours["fetched"]
    yield fetched <= MOST * stored("org/base"), f"{fetched} bytes of {stored('org/base')}"


def two_ranks():
    make_wide()
    plain = generate(WORK / "wide", "auto", ranks=2)
    ours = generate(folder("org/wide"), ranks=2)
    yield ours.get("said") == plain["said"], f"two ranks say what they say with auto: {ours}"
    fetched = [bytes for _, bytes, _ in ours["fetched"]]
    yield len(fetched) == 2 and sum(fetched) <= MOST * stored("org/wide"), f"{fetched} of {stored('org/wide')}"


def quantized():
    plain = generate(WORK / "int4", "auto")
    ours = generate(folder("org/int4"), extra={"lazy": True})
    yield ours.get("said") == plain["said"], f"int4 says what it says with auto: {ours}"


def experts():
    make_experts()
    plain = generate(WORK / "experts", "auto")
    ours = generate(folder("org/experts"), extra={"lazy": True})
    yield ours.get("said") == plain.get("said", plain), f"a mixture of experts says what it says with auto: {ours}"


def adapter():
    """The resolver by itself, with vLLM's own classes: an adapter of this base, of another, and none."""
    from tenpak._vllm_lora import TenpakLoRAResolver, add_resolver
    from vllm.lora.resolver import LoRAResolverRegistry

    for name, base in {"own": "org/base", "other": "org/else"}.items():
        out = WORK / f"adapter-{name}"
        out.mkdir()
        config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj"]}
        (out / "adapter_config.json").write_text(json.dumps(config))
        run("pack", out, "--name", f"adapters/{name}", "--allow-incomplete")
    os.environ["HF_HUB_CACHE"] = str(WORK / "cache")
    resolver = TenpakLoRAResolver(str(WORK / "store"))
    find = lambda name: asyncio.run(resolver.resolve_lora("org/base", name))  # noqa: E731
    found = find("adapters/own")
    good = found is not None and Path(found.lora_path, "adapter_config.json").is_file() and found.lora_int_id > 0
    yield good, f"an adapter of the base is found: {found}"
    names = ["adapters/other", "adapters/none", "no name at all"]
    yield all(find(name) is None for name in names), "an adapter of another base, or none, is not"
    add_resolver(str(WORK / "store"))
    yield "tenpak" in LoRAResolverRegistry.get_supported_resolvers(), "it is registered"


def expected(path):
    """What transformers says, in f32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            said = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        found.append(said[0, ids.shape[1] :].tolist())
    return found


def adapter_served():
    """A server without adapters; a request names one of the store, and is answered by it."""
    import socket
    import urllib.request

    base, merged = expected(MODEL), expected(make_adapter("org/base"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "TENPAK_LORA_STORE": str(WORK / "store"), "HF_HUB_CACHE": str(WORK / "cache"),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder("org/base"), "--load-format", "tenpak",
        "--enable-lora", "--max-lora-rank", "8", "--max-model-len", "256", "--enforce-eager", "--dtype", "float32",
        "--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read() or "{}")

    def said(model):
        ask_for = {"model": model, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        return [ask("/v1/completions", {**ask_for, "prompt": prompt})["choices"][0]["token_ids"] for prompt in PROMPTS]

    with open(WORK / "served.log", "w") as log:
        server = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + 900
            while True:
                with contextlib.suppress(OSError):
                    ask("/health")
                    break
                if server.poll() is not None or time.monotonic() > end:
                    return (yield False, (WORK / "served.log").read_text()[-3000:])
                time.sleep(1)
            yield said("base") == base, "the base says what transformers says"
            with served_errors() as errors:
                ask("/v1/completions", {"model": "adapters/none", "prompt": "a", "max_tokens": 1})
            yield errors == [404], f"an adapter that is not there: {errors}"
            found = said("adapters/served")
            yield found == merged != base, f"an adapter says what the merged model says: {found}, {merged}"
            yield said("base") == base, "and the base still what it said"
            listed = [one["id"] for one in ask("/v1/models")["data"]]
            yield listed == ["base", "adapters/served"], f"it is listed: {listed}"
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 9)


@contextlib.contextmanager
def served_errors():
    import urllib.error

    found = []
    try:
        yield found
    except urllib.error.HTTPError as error:
        found.append(error.code)


def reload():
    fresh = generate(folder("org/base:turned"))
    swapped = generate(folder("org/base"), steps=[folder("org/base:turned")])
    if "error" in swapped:
        return (yield False, f"another tag: {swapped}")
    yield swapped["after"][0]["said"] == fresh["said"], f"another tag: {swapped}, fresh: {fresh['said']}"
    yield swapped["said"] != fresh["said"], "the two tags differ"


def stored_of(spec, names):
    """What these tensors take in the store, at most."""
    import tenpak

    artifact = tenpak.Artifact(spec, store=str(WORK / "store"))
    before = artifact.stats.fetched_bytes
    for name in names:
        artifact.get(name)
    return artifact.stats.fetched_bytes - before


def sums_of(spec):
    import tenpak
    from tenpak.vllm import checksums

    return checksums(tenpak.Artifact(spec, store=str(WORK / "store")))


def refit():
    """Another tag in which three tensors differ: what is fetched is those, and those that share a parameter with them."""
    layer = "model.layers.{}.{}.weight".format
    changed = [layer(1, "self_attn.q_proj"), layer(2, "mlp.down_proj"), layer(0, "input_layernorm")]
    needed = [*changed, layer(1, "self_attn.k_proj"), layer(1, "self_attn.v_proj")]
    make_patched(MODEL, changed, "org/base:patched")
    fresh = generate(folder("org/base:patched"))
    for lazy in (False, True):
        with served() as (url, given):
            base, patched = folder("org/base", url), folder("org/base:patched", url)
            own = generate(base, steps=[patched, base, patched, "reset", patched], extra={"lazy": lazy})
        if "error" in own:
            return (yield False, f"refit: {own}")
        first, back, again, restored = own["after"]
        yield first["said"] == fresh["said"] != own["said"], f"it says what a fresh one says: {own}, fresh: {fresh['said']}"
        yield back["said"] == own["said"] and again["said"] == fresh["said"], f"and so it does there and back: {own}"
        most = [stored_of("org/base:patched", needed), stored_of("org/base", needed)]
        taken = [
            sum(size for at, path, size in given if "/packs/" in path and begin <= at <= end)
            for begin, end in own["reloads"]
        ]
        whole = stored("org/base:patched")
        for got, limit in zip(taken, [*most, most[0]]):
            yield 0 < got <= MOST * limit, f"{got} bytes of packs were fetched: {limit} differ, of {whole}"
        yield restored["said"] == fresh["said"], f"what was reset is restored: {restored['said']}, {fresh['said']}"
        yield taken[3] >= 0.9 * whole, f"the same tag again is fetched anew: {taken[3]} of {whole}"
        for spec, told in [("org/base", own), ("org/base:patched", first), ("org/base", back), ("org/base:patched", restored)]:
            right = sums_of(spec)
            found = {name.rpartition(":")[2]: digest for name, digest in told["checksums"].items()}
            # On a processor what is multiplied by is packed, and the parameter itself is empty.
            compared = [name for name in found if name in right and found[name] != EMPTY]
            wrong = [name for name in compared if found[name] != right[name]]
            yield len(compared) > 5 and not wrong, f"vLLM's checksums of {len(compared)} parameters are {spec}'s: {wrong}"


def refit_ranks():
    """The same with two ranks: each fetches of what differs its part."""
    make_wide()
    layer = "model.layers.1.{}.weight".format
    changed = [layer("self_attn.o_proj"), layer("mlp.up_proj")]
    make_patched(WORK / "wide", changed, "org/wide:patched")
    fresh = generate(folder("org/wide:patched"), ranks=2)
    with served() as (url, given):
        own = generate(folder("org/wide", url), ranks=2, steps=[folder("org/wide:patched", url)])
    if "error" in own:
        return (yield False, f"refit: {own}")
    yield own["after"][0]["said"] == fresh["said"] != own["said"], f"it says what a fresh one says: {own}, {fresh['said']}"
    ((begin, end),) = own["reloads"]
    got = sum(size for at, path, size in given if "/packs/" in path and begin <= at <= end)
    limit, whole = stored_of("org/wide:patched", [*changed, layer("mlp.gate_proj")]), stored("org/wide:patched")
    yield 0 < got <= MOST * limit, f"{got} bytes of packs were fetched by both: {limit} differ, of {whole}"


def refit_packed():
    """A quantized model, whose parameters are packed and fused."""
    import tenpak

    tensors = [one.name for one in tenpak.Artifact("org/int4", store=str(WORK / "store")).tensors]
    own_layer = [one for one in tensors if ".layers.1." in one and ".o_proj." in one]
    changed = [one for one in own_layer if one.endswith(".weight_packed")]
    make_patched(WORK / "int4", changed, "org/int4:patched")
    fresh = generate(folder("org/int4:patched"))
    with served() as (url, given):
        own = generate(folder("org/int4", url), steps=[folder("org/int4:patched", url)])
    if "error" in own:
        return (yield False, f"int4: {own}")
    yield own["after"][0]["said"] == fresh["said"] != own["said"], f"int4 says what a fresh one says: {own}, {fresh}"
    ((begin, end),) = own["reloads"]
    got = sum(size for at, path, size in given if "/packs/" in path and begin <= at <= end)
    limit = stored_of("org/int4:patched", own_layer)
    yield 0 < got <= MOST * limit, f"int4: {got} bytes of packs: {limit} differ, of {stored('org/int4:patched')}"


def refit_experts():
    """vLLM's own reload says something else than a fresh engine, from plain folders too: it is refused."""
    make_experts()
    make_patched(WORK / "experts", ["model.layers.2.block_sparse_moe.experts.1.w2.weight"], "org/experts:patched")
    own = generate(folder("org/experts"), steps=[folder("org/experts:patched")])
    yield "mixture of experts" in own.get("error", ""), f"another tag of a mixture is refused: {own}"


CASES = {case.__name__: case for case in (same_text, two_ranks, quantized, experts, adapter, adapter_served, reload, refit, refit_ranks, refit_packed, refit_experts)}


def main(names):
    make_models()
    failed = 0
    for name in names or CASES:
        for good, text in CASES[name]():
            failed += not good
            print(f"{'ok' if good else 'FAILED'}: {name}: {text[:200 if good else 5000]}", flush=True)
    print("python: all right" if not failed else f"python: {failed} wrong")
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
