"""Every described family beside transformers: five random tiny models each, odd sizes, biases on and off, tied and
untied, rope variants, made by the transformers that is installed.

    cargo build --release --example token_logprobs
    .venv-judges/bin/python tests/judges/families.py [FAMILY]... [--keep FOLDER]

Causal models are compared by their perplexity on random tokens, at most 1e-4 apart relatively; encoders by their last
hidden states, at most 1e-4 of the largest apart. Prints a table, and exits with 1 if one is further apart.
"""
import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / os.environ.get("TOKEN_LOGPROBS", "target/release/examples/token_logprobs")
TOKENS, RUNS, APART = 48, 2, 1e-4

LINEAR = dict(rope_type="linear", rope_theta=700.0, factor=3.0)
DYNAMIC = dict(rope_type="dynamic", rope_theta=1000.0, factor=2.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=16)
YARN_MORE = dict(YARN, beta_fast=8.0, beta_slow=2.0, attention_factor=0.9)
ROPES = [None, LINEAR, LLAMA3, YARN, YARN_MORE]

SIZES = dict(vocab_size=83, hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
MORE = [
    {}, dict(num_key_value_heads=1, tie_word_embeddings=True, vocab_size=97), dict(num_key_value_heads=4, head_dim=20),
    dict(num_attention_heads=6, num_key_value_heads=6, intermediate_size=33, tie_word_embeddings=False),
    dict(num_hidden_layers=5, num_attention_heads=8, head_dim=16, num_key_value_heads=2, tie_word_embeddings=True),
]


def longrope(half):
    return dict(rope_type="longrope", rope_theta=900.0, original_max_position_embeddings=16,
                long_factor=[1.0 + 0.7 * i for i in range(half)], short_factor=[1.0 + 0.1 * i for i in range(half)])


def dense(*own, ropes=ROPES, without=(), aligned=False, alike=False, **always):
    """Five of the Llama kind; `own` is put over each in turn. Of experts, transformers multiplies only `aligned`
    widths; `alike` are heads of keys and of queries."""
    made = []
    for at, (more, rope) in enumerate(zip(MORE, ropes)):
        rope = {} if rope is None else dict(rope_parameters=rope)
        sizes = SIZES | more | rope | always | (own[at % len(own)] if own else {})
        if aligned:
            sizes["intermediate_size"] = sizes["intermediate_size"] // 4 * 4
        if alike:
            sizes["num_key_value_heads"] = sizes["num_attention_heads"]
        made.append({key: value for key, value in sizes.items() if key not in without})
    return made


def plain(*own, **always):
    """Five of a family with names of its own."""
    return [always | (own[at % len(own)] if own else {}) for at in range(5)]


TYPES = ["sliding_attention", "full_attention"]
GEMMA = dict(head_dim=12)
GEMMA3_ROPES = [None] + [
    dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=5e3),
         sliding_attention=dict(rope_type="default", rope_theta=300.0)),
    dict(full_attention=dict(rope_type="default", rope_theta=2e3),
         sliding_attention=dict(rope_type="default", rope_theta=100.0))] * 2
HALF = [dict(rope_theta=1e4, partial_rotary_factor=0.5, rope_type="default")] + [
    dict(rope, partial_rotary_factor=part) for rope, part in ((LINEAR, 0.4), (LLAMA3, 0.5), (YARN, 0.5), (DYNAMIC, 0.75))]
GPT2 = dict(vocab_size=83, n_embd=40, n_layer=3, n_head=4, n_positions=64)
BERT = dict(vocab_size=83, hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=80)
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=24)
MLA = dict(qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, kv_lora_rank=16, q_lora_rank=24,
           moe_intermediate_size=24, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2,
           num_experts_per_tok=3, first_k_dense_replace=1)

FAMILIES = {
    "llama": dense({}, dict(attention_bias=True), dict(mlp_bias=True), {}, {}),
    "mistral": dense(dict(sliding_window=7), dict(sliding_window=None)),
    "ministral": dense(dict(head_dim=12, sliding_window=9, layer_types=None), dict(
        sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"], head_dim=16), {}, dict(head_dim=8), dict(
        sliding_window=7, layer_types=(TYPES * 3)[:5])),
    "qwen2": dense({}, dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": dense({}, dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, attention_bias=True)),
    "gemma": dense(GEMMA, GEMMA | dict(attention_bias=True)),
    "gemma2": dense(GEMMA | dict(sliding_window=7, query_pre_attn_scalar=20),
                    GEMMA | dict(attn_logit_softcapping=3.0, final_logit_softcapping=None)),
    "gemma3_text": dense(GEMMA | dict(sliding_window=7, num_hidden_layers=7), GEMMA | dict(
        sliding_window=5, final_logit_softcapping=5.0, attn_logit_softcapping=4.0, layer_types=(TYPES * 2)[:3]),
        GEMMA | dict(layer_types=(TYPES * 2)[:3]), GEMMA | dict(layer_types=(TYPES * 2)[:3], sliding_window=3),
        GEMMA | dict(layer_types=(TYPES * 3)[:5], sliding_window=4, query_pre_attn_scalar=10), ropes=GEMMA3_ROPES),
    "phi": dense({}, dict(qk_layernorm=True), ropes=HALF, without=["head_dim"]),
    "phi3": dense({}, dict(sliding_window=7), {}, {}, dict(original_max_position_embeddings=16),
        without=["head_dim"], ropes=[None, None, HALF[0], HALF[0], longrope(3)], pad_token_id=0),
    "olmo2": dense({}, dict(attention_bias=True)),
    "olmo3": dense(dict(sliding_window=7), dict(sliding_window=5, layer_types=(TYPES * 2)[:3]), ropes=[None] * 5),
    "olmo": dense({}, dict(clip_qkv=0.7)),
    "granite": dense(dict(embedding_multiplier=3.0, residual_multiplier=0.3, attention_multiplier=0.2, logits_scaling=4.0),
                     dict(attention_bias=True, mlp_bias=True)),
    "smollm3": dense({}, dict(no_rope_layers=[1, 0, 1, 1, 0]), dict(no_rope_layer_interval=2), pad_token_id=0),
    "glm": dense(dict(attention_bias=True), {}, dict(head_dim=10), ropes=HALF, pad_token_id=0, head_dim=12),
    "glm4": dense(dict(attention_bias=True), {}, dict(head_dim=10), ropes=HALF, pad_token_id=0, head_dim=12),
    "starcoder2": dense(dict(sliding_window=None), dict(use_bias=False), dict(sliding_window=7)),
    "cohere": dense(dict(logit_scale=0.3), dict(use_qk_norm=True), dict(attention_bias=True)),
    "cohere2": dense(dict(logit_scale=0.3, sliding_window=7), dict(attention_bias=True), pad_token_id=0),
    "stablelm": dense(dict(use_qkv_bias=True), dict(use_parallel_residual=True), {}, dict(qk_layernorm=True), {},
                      without=["head_dim"], ropes=HALF),
    "arcee": dense({}, dict(mlp_bias=True)),
    "seed_oss": dense({}, dict(attention_bias=False, attention_out_bias=True), head_dim=12),
    "nemotron": dense({}, dict(attention_bias=True, mlp_bias=True), dict(head_dim=12), ropes=HALF),
    "helium": dense(dict(num_attention_heads=4, head_dim=12), dict(
        attention_bias=True, num_attention_heads=6, num_key_value_heads=3, head_dim=8)),
    "exaone4": dense(dict(sliding_window=None, num_hidden_layers=3, layer_types=TYPES[1:] * 3), dict(
        sliding_window=7, layer_types=(TYPES * 2)[:3]), ropes=[None] * 5),
    "ernie4_5": dense({}, dict(use_bias=True), head_dim=12),
    "hunyuan_v1_dense": dense({}, dict(attention_bias=True), head_dim=12, pad_token_id=0, ropes=[None] * 5),
    "gpt2": plain({}, dict(activation_function="gelu", tie_word_embeddings=False), dict(n_inner=50, vocab_size=61),
                  dict(scale_attn_by_inverse_layer_idx=True), dict(scale_attn_weights=False, activation_function="relu"),
                  **GPT2),
    "gpt_neox": [SIZES | more | dict(rotary_pct=part) for more, part in zip([
        {}, dict(use_parallel_residual=False), dict(attention_bias=False, tie_word_embeddings=True),
        dict(hidden_act="gelu_new", num_attention_heads=6), dict(rope_parameters=dict(YARN, partial_rotary_factor=0.5))],
        (0.25, 1.0, 0.5, 0.5, 0.5))],
    "gptj": plain({}, dict(rotary_dim=4), dict(tie_word_embeddings=False, n_inner=50), **GPT2 | dict(rotary_dim=8)),
    "gpt_bigcode": plain({}, dict(multi_query=False), dict(activation_function="gelu"), **GPT2),
    "opt": plain({}, dict(word_embed_proj_dim=40, activation_function="gelu"), dict(tie_word_embeddings=False),
                 vocab_size=83, hidden_size=40, ffn_dim=56, num_hidden_layers=3, num_attention_heads=4,
                 max_position_embeddings=64, word_embed_proj_dim=40, pad_token_id=1),
    "bloom": plain({}, dict(n_head=5), dict(n_head=4, hidden_size=32, tie_word_embeddings=False),
                   vocab_size=83, hidden_size=40, n_layer=3, n_head=4),
    "falcon": plain(
        dict(multi_query=True, parallel_attn=True), dict(multi_query=False, alibi=True, parallel_attn=False, bias=True),
        dict(new_decoder_architecture=True, num_kv_heads=2), dict(new_decoder_architecture=True, num_ln_in_parallel_attn=1, num_kv_heads=1),
        dict(multi_query=False, bias=True, parallel_attn=True, tie_word_embeddings=False),
        vocab_size=83, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64),
    "exaone": dense({}, dict(attention_bias=True), head_dim=12),
    "gpt_neo": plain({}, dict(intermediate_size=50), dict(tie_word_embeddings=False), vocab_size=83, hidden_size=40, num_layers=4,
                     num_heads=4, attention_types=[[["global", "local"], 2]], window_size=7, max_position_embeddings=64),
    "persimmon": dense({}, dict(qk_layernorm=False), without=["head_dim", "num_key_value_heads"], ropes=HALF),
    "bert": plain({}, dict(hidden_act="gelu_new"), dict(type_vocab_size=4), dict(intermediate_size=33), dict(num_attention_heads=5), **BERT),
    "roberta": plain({}, dict(hidden_act="relu"), dict(type_vocab_size=1), dict(pad_token_id=3), dict(num_attention_heads=5), **BERT | dict(pad_token_id=1)),
    "xlm-roberta": plain({}, dict(hidden_act="gelu_new"), dict(type_vocab_size=1), **BERT | dict(pad_token_id=1)),
    "distilbert": plain({}, dict(activation="relu"), dict(sinusoidal_pos_embds=True), dict(n_heads=5), dict(hidden_dim=33),
                        vocab_size=83, dim=40, hidden_dim=56, n_layers=3, n_heads=4, max_position_embeddings=80),
    "mpnet": plain({}, dict(hidden_act="relu"), **BERT | dict(pad_token_id=1)),
    "nomic_bert": plain({}, dict(rope_parameters=LINEAR), dict(hidden_act="gelu"), **BERT | dict(num_attention_heads=4)),
    "mixtral": dense(dict(num_local_experts=5), dict(num_local_experts=4, num_experts_per_tok=3, sliding_window=7),
                     aligned=True, head_dim=12),
    "qwen2_moe": dense(dict(num_experts=6, decoder_sparse_step=2), dict(num_experts=5, norm_topk_prob=True, mlp_only_layers=[1]),
                       **MOE, shared_expert_intermediate_size=40),
    "qwen3_moe": dense(dict(num_experts=6, norm_topk_prob=True), dict(num_experts=5, mlp_only_layers=[1]), **MOE),
    "olmoe": dense(dict(num_experts=6), dict(num_experts=5, norm_topk_prob=True, clip_qkv=0.8), num_experts_per_tok=2,
                   aligned=True, without=["head_dim"]),
    "gpt_oss": dense(dict(num_local_experts=6, sliding_window=7), dict(num_local_experts=4, num_experts_per_tok=3),
                     head_dim=12, aligned=True, num_experts_per_tok=2, ropes=[None, YARN, None, dict(YARN, truncate=False), YARN]),
    "glm4_moe": dense(dict(n_routed_experts=8, use_qk_norm=True), dict(n_routed_experts=8, n_group=4, topk_group=2, attention_bias=True),
                      **MOE, n_shared_experts=1, first_k_dense_replace=1, head_dim=12, ropes=HALF, pad_token_id=0),
    "deepseek_v2": dense(dict(topk_method="greedy"), dict(topk_method="group_limited_greedy", q_lora_rank=None),
                         dict(topk_method="greedy", routed_scaling_factor=2.0, n_shared_experts=2),
                         **MLA, ropes=[None, LINEAR, None, YARN, None], head_dim=8, alike=True),
    "deepseek_v3": dense({}, dict(q_lora_rank=None, attention_bias=True), dict(norm_topk_prob=False, rope_interleave=False),
                         dict(n_shared_experts=2), **MLA, head_dim=8, alike=True,
                         ropes=[None, LINEAR, None, dict(YARN, mscale=1.0, mscale_all_dim=0.8), YARN]),
    "llama4_text": dense(dict(num_local_experts=4, interleave_moe_layer_step=2), dict(
        num_local_experts=3, attention_chunk_size=16, use_qk_norm=False), dict(num_local_experts=4, num_experts_per_tok=2),
        intermediate_size=24, intermediate_size_mlp=56, head_dim=12, attention_chunk_size=20, attn_scale=0.3,
        floor_scale=8, num_hidden_layers=4, no_rope_layer_interval=3, num_experts_per_tok=1, pad_token_id=0,
        ropes=[None, LLAMA3, None, LLAMA3, None]),
    "ernie4_5_moe": dense({}, dict(use_bias=True, moe_num_shared_experts=0), moe_num_experts=6, moe_k=2, moe_intermediate_size=24,
                          moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1, moe_num_shared_experts=1, head_dim=12),
    "granitemoe": dense(dict(embedding_multiplier=3.0, residual_multiplier=0.3, attention_multiplier=0.2, logits_scaling=4.0), {},
                        num_local_experts=5, num_experts_per_tok=2, aligned=True),
    "phimoe": dense({}, dict(attention_bias=True, lm_head_bias=True), num_local_experts=5, num_experts_per_tok=2,
                    sliding_window=9, aligned=True, without=["head_dim"], ropes=[None] * 5),
    "ministral3": dense(dict(sliding_window=None), dict(sliding_window=7), head_dim=12, ropes=[
        dict(YARN, llama_4_scaling_beta=0.2), dict(YARN, llama_4_scaling_beta=1.0), dict(YARN, llama_4_scaling_beta=0.3), dict(YARN, llama_4_scaling_beta=0.1, mscale=1.0, mscale_all_dim=1.0),
        dict(YARN, llama_4_scaling_beta=0.0)]),
    "exaone_moe": dense(dict(num_hidden_layers=3, layer_types=(TYPES * 2)[:3], sliding_window=7), MOE | dict(
        num_hidden_layers=3, layer_types=(TYPES * 2)[:3], sliding_window=5, n_group=2, topk_group=1), num_experts=6,
        num_shared_experts=1, first_k_dense_replace=1, num_experts_per_tok=2, moe_intermediate_size=24, ropes=[None] * 5),
    "flex_olmo": dense(dict(num_experts=6), dict(num_experts=5, norm_topk_prob=True), num_experts_per_tok=2, aligned=True, pad_token_id=0),
    "hunyuan_v1_moe": dense({}, dict(attention_bias=True), num_experts=5, moe_topk=2, head_dim=12, aligned=True,
                            pad_token_id=0, ropes=[None] * 5),
    "minimax_m2": dense({}, dict(num_experts_per_tok=3), num_local_experts=6, num_experts_per_tok=2, head_dim=12,
                        rotary_dim=6, aligned=True, ropes=[None] * 5),
    "granitemoeshared": dense(dict(shared_intermediate_size=20, logits_scaling=3.0), dict(shared_intermediate_size=0),
                              num_local_experts=5, num_experts_per_tok=2, aligned=True),
    "camembert": plain({}, dict(hidden_act="relu"), **BERT | dict(pad_token_id=1)),
    "cwm": dense(dict(sliding_window=7, layer_types=(TYPES * 3)[:3]), dict(sliding_window=5, layer_types=(TYPES * 3)[:3]),
                 num_hidden_layers=3, head_dim=12, ropes=[None, LLAMA3, LLAMA3, LINEAR, YARN]),
    "internlm3": dense({}, dict(attention_bias=True, mlp_bias=True), head_dim=12),
    "iquestcoder": dense({}, dict(attention_bias=True), head_dim=12),
    "jais2": dense({}, dict(attention_bias=False, mlp_bias=False)),
    "vaultgemma": dense(GEMMA | dict(sliding_window=7, query_pre_attn_scalar=20), GEMMA | dict(attn_logit_softcapping=3.0)),
    "hyperclovax": dense(dict(embedding_multiplier=3.0, residual_multiplier=0.3, logits_scaling=0.25), dict(
        attention_multiplier=0.2, use_post_norm=False)),
    "granite_swa": dense(dict(layer_rope_theta=[100.0, 0, 1000.0], num_hidden_layers=3, sliding_window=7), dict(
        sliding_window=5, residual_multiplier=0.4, layer_types=(TYPES * 3)[:3], num_hidden_layers=3)),
    "granitemoe_swa": dense(dict(layer_rope_theta=[100.0, 0, 1000.0], num_hidden_layers=3, sliding_window=7), dict(
        sliding_window=5, shared_intermediate_size=20, layer_types=(TYPES * 3)[:3], num_hidden_layers=3),
        num_local_experts=5, num_experts_per_tok=2, aligned=True),
    "youtu": dense({}, dict(q_lora_rank=None), qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, kv_lora_rank=16,
                   q_lora_rank=24, head_dim=8, alike=True, ropes=[None, LINEAR, None, YARN, None]),
    "sarvam_mla": dense({}, dict(norm_topk_prob=False), **MLA | dict(n_group=1, topk_group=1, q_lora_rank=None), head_dim=8,
                        alike=True, ropes=[None, LINEAR, None, YARN, None]),
    "sarvam_moe": dense({}, dict(use_qk_norm=False), **MOE, n_routed_experts=6, num_experts=6, n_shared_experts=1,
                        num_shared_experts=1, first_k_dense_replace=1, head_dim=12, pad_token_id=0, ropes=[None] * 5),
    "solar_open": dense({}, dict(n_group=2, topk_group=1), **MOE, n_routed_experts=6, n_shared_experts=1, head_dim=12,
                        pad_token_id=0, ropes=[None, LINEAR, None, YARN, None]),
    "glm4_moe_lite": dense({}, dict(q_lora_rank=None), **MLA | dict(n_group=2, topk_group=1), head_dim=8, alike=True,
                           ropes=[None, LINEAR, None, None, None]),
    "mellum": dense(dict(num_experts=6, layer_types=(TYPES * 2)[:3]), dict(num_experts=5, layer_types=TYPES[1:] * 3,
                    mlp_layer_types=["dense", "sparse", "sparse"]), **MOE, head_dim=12, num_hidden_layers=3, sliding_window=7,
                    ropes=[None] * 5),
    "hy_v3": dense({}, dict(attention_bias=True, num_shared_experts=2), **MOE, num_experts=6, head_dim=12, ropes=[None, LINEAR, None, YARN, None]),
    "flint": dense(dict(layer_types=(TYPES * 2)[:3]), dict(layer_types=TYPES[1:] + TYPES, norm_topk_prob=False, mlp_only_layers=[]),
                   **MOE, num_experts=6, head_dim=12, num_hidden_layers=3, sliding_window=7, mlp_only_layers=[1],
                   shared_expert_intermediate_size=20, ropes=[None] * 5),
    "dots1": dense({}, dict(attention_bias=True), n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2,
                   moe_intermediate_size=24, first_k_dense_replace=1, head_dim=12),
}
# Which of the five is recorded; the second of the others.
RECORDED = {"gpt_neox": 4, "gptj": 1, "phi3": 4, "cohere": 1, "falcon": 2, "deepseek_v3": 3, "bert": 0, "roberta": 0,
            "gpt2": 3, "stablelm": 3, "gemma3_text": 1, "granite": 0, "llama": 2, "distilbert": 0, "mpnet": 0}
ENCODERS = {"bert", "roberta", "camembert", "xlm-roberta", "distilbert", "mpnet", "nomic_bert"}


def drawn(name, shape):
    """Numbers that follow from a tensor's name, between -0.4 and 0.4: SplitMix64 from the name's FNV-1a hash on. The
    same are made by tests/lm/families.rs."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, math.prod(shape) + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    unit = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 24)
    return torch.from_numpy((unit - numpy.float32(0.5)) * numpy.float32(0.8)).reshape(shape)


def make(family, at, sizes, folder):
    """Saves the model and what it says of random tokens."""
    torch.manual_seed(1000 + at)
    config = AutoConfig.for_model(family, **sizes)
    auto = AutoModel if family in ENCODERS else AutoModelForCausalLM
    auto.from_config(config, dtype=torch.float32).save_pretrained(folder)
    # Far from initial values: norms, biases and attention then all matter.
    weights = {name: drawn(name, value.shape) + (1.0 if value.float().mean() > 0.9 else 0.0)
               for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    first = 5 if family in ENCODERS else 0
    tokens = torch.randint(first, config.get_text_config().vocab_size, (RUNS, TOKENS))
    with torch.no_grad():
        if family in ENCODERS:
            said = dict(states=model(tokens).last_hidden_state.tolist())
        else:
            logits = model(tokens, use_cache=False).logits[:, :-1].double()
            logs = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None])[..., 0]
            said = dict(logs=logs.tolist())
    (folder / "tokens.json").write_text(json.dumps(tokens.tolist()))
    (folder / "expected.json").write_text(json.dumps(said))


def record(folder):
    """The model without its weights, which follow from the names: what tests/lm/families.rs makes again."""
    weights = load_file(folder / "model.safetensors")
    alike = {}
    for name, value in weights.items():
        one = (value - drawn(name, value.shape)).mean() > 0.5
        key = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name), tuple(value.shape), bool(one)
        alike.setdefault(key, []).append([int(part) for part in name.split(".") if part.isdigit()])
    tensors = [[name, list(shape), int(one), numbers if numbers[0] else []]
               for (name, shape, one), numbers in sorted(alike.items())]
    expected = json.loads((folder / "expected.json").read_text())
    said = {key: [round(x, 5) for x in (value[0] if key == "logs" else value[0][7])] for key, value in expected.items()}
    config = json.loads((folder / "config.json").read_text())
    config.pop("architectures", None)
    return dict(config=config, tensors=tensors, tokens=json.loads((folder / "tokens.json").read_text())[0], **said)


def compare(folder):
    """How far ours is apart, and why it is not run if it is not."""
    done = subprocess.run([PROGRAM, folder, folder / "tokens.json"], capture_output=True, text=True)
    if done.returncode:
        return math.inf, done.stderr.strip()[-300:]
    got, expected = json.loads(done.stdout), json.loads((folder / "expected.json").read_text())
    if "states" in expected:
        ours, theirs = torch.tensor(got["states"]), torch.tensor(expected["states"])
        return ((ours - theirs).abs().max() / theirs.abs().max()).item(), ""
    ours = torch.tensor([[token[0] for token in run] for run in got["runs"]], dtype=torch.float64)
    theirs = torch.tensor(expected["logs"], dtype=torch.float64)
    ppl = [(-logs.mean()).exp().item() for logs in (ours, theirs)]
    worst = (ours - theirs).abs().max().item()
    return abs(ppl[0] / ppl[1] - 1), f"perplexity {ppl[1]:.4f}, log-probabilities at most {worst:.1e} apart"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--keep", type=pathlib.Path, help="make the models here, and take those that are there")
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="only make them, and record one of each")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    good, made, recorded = 0, 0, {}
    with tempfile.TemporaryDirectory() as scratch:
        place = args.keep or pathlib.Path(scratch)
        for family in args.families or FAMILIES:
            for at, sizes in enumerate(FAMILIES[family]):
                made += 1
                folder = place / f"{family}-{at}"
                try:
                    if not (folder / "expected.json").exists():
                        make(family, at, sizes, folder)
                except Exception as error:
                    print(f"{family:18} {at}  not made: {type(error).__name__}: {str(error)[:300]}", flush=True)
                    continue
                if args.record:
                    recorded.setdefault(family, folder)
                    if at == RECORDED.get(family, 1):
                        recorded[family] = folder
                    continue
                apart, said = compare(folder)
                fits = apart <= APART
                good += fits
                print(f"{family:18} {at}  {apart:8.1e}  {'good' if fits else 'BAD'}  {said}", flush=True)
        if args.record:
            lines = [f"{json.dumps(name)}: {json.dumps(record(folder))}" for name, folder in recorded.items()]
            args.record.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            return
    print(f"{good} of {made} good, of {len(args.families or FAMILIES)} families; transformers {transformers.__version__}")
    sys.exit(0 if good == made > 0 else 1)


if __name__ == "__main__":
    main()
