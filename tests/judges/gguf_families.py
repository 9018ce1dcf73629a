"""Is a GGUF file that `tenpak quantize` writes, in llama.cpp, the model that it is here? For each family of models that is
written, and each type of blocks: the perplexity of a text in llama.cpp beside that of `tenpak eval ppl`. llama.cpp
rounds activations to 8 bits where weights are blocks, so that the file's own weights in f32 are compared too, where it does not:
that is what must agree for random models, whose experts go elsewhere for the least difference, and both for trained ones.
The file alone, without its configuration beside it, must be the same model here, or be refused.

    .venv-judges/bin/python tests/judges/gguf_families.py [FAMILY]...

Models are made at random by transformers with the fixture's tokenizer, of weights large enough that a wrong
permutation or constant changes the result at once; `llama` and `mixtral` are the trained fixtures too.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures/lm"
TENPAK = os.environ.get("TENPAK", str(ROOT / "target/release/tenpak"))
LLAMA = ROOT / ".venv-tools/llama.cpp/bin/python"
TYPES = ["q8_0", "q4_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
# Every type is tried of these, q8_0 and q4_k of the others.
ALL_TYPES = ["trained llama", "llama rows", "qwen3", "gemma2", "phi3", "gpt2"]
# The experts of the fixture have 128 inputs, which are no blocks of 256.
SMALL_TYPES = ["q8_0", "q4_0", "iq4_nl"]
CONTEXT, BYTES = 128, 6000
BOUND = 5e-4

SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=2048, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None, head_dim=64,
             initializer_range=0.08)
# Routers of large weights send a token elsewhere for the least difference.
CALM = dict(initializer_range=0.04)
EXPERTS = dict(CALM, num_experts=6, num_local_experts=6, num_experts_per_tok=2, moe_intermediate_size=256)
GPT2 = dict(n_embd=256, n_layer=2, n_head=4, n_positions=512, vocab_size=2048, initializer_range=0.08)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=128, beta_fast=32.0, beta_slow=1.0)
ROUTED = dict(CALM, num_hidden_layers=3, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=256, n_shared_experts=2,
              first_k_dense_replace=1, routed_scaling_factor=1.5)
LATENT = dict(ROUTED, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=48, kv_lora_rank=128, q_lora_rank=None, head_dim=32,
              num_key_value_heads=4)
FAMILIES = {
    "llama": dict(rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 128}),
    # Rows of no whole blocks of 256.
    "llama rows": dict(hidden_size=320, intermediate_size=480),
    "mistral": dict(sliding_window=None),
    "mixtral": dict(CALM, num_local_experts=5, num_experts_per_tok=2, sliding_window=None),
    "qwen2": {},
    "qwen3": {},
    "qwen2_moe": dict(EXPERTS, shared_expert_intermediate_size=512),
    "qwen3_moe": dict(EXPERTS, norm_topk_prob=True),
    "olmoe": dict(CALM, num_experts=6, num_experts_per_tok=2, num_key_value_heads=4),
    "gemma": dict(num_key_value_heads=1),
    "gemma2": dict(query_pre_attn_scalar=64, sliding_window=64),
    "gemma3_text": dict(query_pre_attn_scalar=64, sliding_window=64),
    "phi": dict(partial_rotary_factor=0.5, num_key_value_heads=4),
    "phi3": dict(sliding_window=None),
    "olmo2": {},
    "granite": dict(embedding_multiplier=6.0, residual_multiplier=0.5, logits_scaling=4.0, attention_multiplier=0.1),
    "smollm3": {},
    "glm4": dict(partial_rotary_factor=0.5),
    "starcoder2": dict(sliding_window=None),
    "arcee": {},
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neox": dict(rotary_pct=0.5, num_key_value_heads=..., head_dim=...),
    "bloom": dict(n_layer=2, n_head=4, seq_length=512),
    "falcon": dict(multi_query=True, head_dim=..., num_key_value_heads=..., intermediate_size=...),
    "falcon 40b": dict(new_decoder_architecture=True, num_kv_heads=2, head_dim=..., num_key_value_heads=..., intermediate_size=...),
    "olmo": dict(clip_qkv=2.0),
    "stablelm": dict(use_qkv_bias=True),
    "stablelm 12b": dict(use_parallel_residual=True, qk_layernorm=True),
    "cohere": dict(logit_scale=0.25),
    "cohere2": dict(logit_scale=0.25, num_hidden_layers=4, sliding_window=64),
    "nemotron": dict(partial_rotary_factor=0.5),
    "jais2": dict(attention_bias=True, mlp_bias=True),
    "seed_oss": dict(attention_bias=True),
    "exaone": {},
    "exaone4": dict(sliding_window=None, layer_types=["full_attention"] * 2),
    "ernie4_5": {},
    "hunyuan_v1_dense": {},
    "ministral3": dict(sliding_window=None, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)),
    "granitemoe": dict(CALM, num_local_experts=6, num_experts_per_tok=2, embedding_multiplier=6.0, residual_multiplier=0.5,
                       logits_scaling=4.0, attention_multiplier=0.1),
    "glm4_moe": dict(ROUTED, use_qk_norm=True),
    "dots1": dict(ROUTED, num_key_value_heads=4, norm_topk_prob=True, n_group=1, topk_group=1),
    "deepseek_v2": dict(LATENT, topk_method="greedy", n_group=1, topk_group=1),
    "deepseek_v3": dict(LATENT, n_group=1, topk_group=1, q_lora_rank=128),
    "deepseek_v3 groups": dict(LATENT, n_group=2, topk_group=1, n_routed_experts=8),
    "deepseek_v3 yarn": dict(LATENT, n_group=1, topk_group=1, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "glm4_moe_lite": dict(LATENT, n_group=1, topk_group=1, mlp_layer_types=["dense", "sparse", "sparse"]),
    "ernie4_5_moe": dict(CALM, num_hidden_layers=3, moe_num_experts=6, moe_k=2, moe_intermediate_size=256, moe_num_shared_experts=2,
                         moe_layer_start_index=1, moe_layer_end_index=-1),
    "hunyuan_v1_moe": dict(CALM, num_experts=6, moe_topk=2),
    # Sigmoids of small logits are all alike, so that a rounding would choose: every expert is one of the chosen.
    "minimax_m2": dict(CALM, num_local_experts=4, num_experts_per_tok=4, rotary_dim=32, rope_parameters=dict(
        rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)),
    "mellum": dict(EXPERTS, num_hidden_layers=4, sliding_window=64, norm_topk_prob=True),
    "exaone_moe": dict(ROUTED, num_hidden_layers=4, num_experts=6, num_shared_experts=1, sliding_window=64, n_group=1, topk_group=1,
                       layer_types=["sliding_attention"] * 3 + ["full_attention"],
                       mlp_layer_types=["dense"] + ["sparse"] * 3),
    "gpt_oss": dict(CALM, num_local_experts=6, num_experts_per_tok=2, sliding_window=64, rope_parameters=dict(
        rope_type="default", rope_theta=1e4)),
    "gpt_oss yarn": dict(CALM, num_local_experts=6, num_experts_per_tok=2, sliding_window=64, rope_parameters=dict(YARN, truncate=True)),
    "llama4_text": dict(CALM, num_hidden_layers=4, num_local_experts=6, num_experts_per_tok=1, interleave_moe_layer_step=2,
                        intermediate_size_mlp=512, intermediate_size=256, attention_chunk_size=8192),
}


def make(family: str, folder: pathlib.Path) -> None:
    """A random model with the fixture's tokenizer."""
    own, kind = FAMILIES[family], family.split()[0]
    sizes = own if own is GPT2 else {key: value for key, value in {**SIZES, **own}.items() if value is not ...}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(len(family) * 7 + 1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # What corrects scores chooses experts at random if it is large.
            if parameter.dim() == 1 and "correction" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    shutil.copy(FIXTURES / "base/tokenizer.json", folder)


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout


def alone(store: pathlib.Path, file: pathlib.Path, text: pathlib.Path, perplexity: float) -> bool:
    """Whether the file says the same without its configuration beside it; one that asks for it does not say another."""
    run(TENPAK, "--store", store, "pack", file, "--name", "judge/alone", "--json")
    try:
        told = run(TENPAK, "--store", store, "eval", "ppl", "judge/alone", "--text", text, "--context", CONTEXT, "--json")
    except RuntimeError as error:
        return "config.json beside" in str(error)
    return abs(json.loads(told.splitlines()[-1])["perplexity"] / perplexity - 1) < 1e-4


def main() -> int:
    wanted = sys.argv[1:] or ["trained llama", "trained mixtral", *FAMILIES]
    here = pathlib.Path(tempfile.mkdtemp(prefix="gguf-families-"))
    store, text = here / "store", here / "text.txt"
    failed = 0
    for family in wanted:
        model = here / "model"
        shutil.rmtree(model, ignore_errors=True)
        trained = {"trained llama": "base", "trained mixtral": "moe"}.get(family)
        if trained:
            shutil.copytree(FIXTURES / trained, model)
        else:
            make(family, model)
        methods = SMALL_TYPES if trained == "moe" else TYPES if family in ALL_TYPES else ["q8_0", "q4_k"]
        # Of a trained model the roundings cancel each other over a long text.
        words = (FIXTURES / "test.txt").read_bytes()
        text.write_bytes(words if trained else words[:BYTES])
        files, own = [], []
        for method in methods:
            name = f"judge/{family.replace(' ', '-')}-{method}"
            try:
                run(TENPAK, "--store", store, "quantize", model, "--name", name, "--method", method, "--json")
                out = here / name.replace("/", "-")
                run(TENPAK, "--store", store, "unpack", name, "--out", out, "--json")
                told = run(TENPAK, "--store", store, "eval", "ppl", name, "--text", text, "--context", CONTEXT, "--json")
                file, flat = next(out.glob("*.gguf")), out / "flat"
                run(sys.executable, ROOT / "tests/judges/gguf_kl.py", "flat", file, flat)
                perplexity = json.loads(told.splitlines()[-1])["perplexity"]
                if method == methods[0] and not alone(store, file, text, perplexity):
                    failed += 1
                    print(f"{family:16} {method:7} FAILED: read without config.json, it is another model", flush=True)
                own.append((method, perplexity))
                files += [file, flat]
            except RuntimeError as error:
                failed += 1
                print(f"{family:16} {method:7} FAILED: {error}", flush=True)
        try:
            told = run(LLAMA, ROOT / "tests/judges/gguf_ppl.py", text, CONTEXT, *files) if files else ""
        except RuntimeError as error:
            failed += len(own)
            print(f"{family:16} FAILED in llama.cpp: {error}", flush=True)
            continue
        theirs = [float(line.split("\t")[1]) for line in told.splitlines()]
        for at, (method, ours) in enumerate(own):
            off, flat = (abs(value / ours - 1) for value in theirs[2 * at : 2 * at + 2])
            wrong = flat > BOUND or bool(trained and off > BOUND)
            failed += wrong
            print(f"{family:16} {method:7} ours {ours:10.4f}  llama.cpp off by {off:.3%}, in f32 by {flat:.4%}{'  FAILED' if wrong else ''}", flush=True)
    shutil.rmtree(here)
    print(f"{failed} failed" if failed else "every file is in llama.cpp what it is here")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
