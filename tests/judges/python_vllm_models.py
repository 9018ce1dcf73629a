"""The models of python_vllm.py, in a store: all are made of the suite's own."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/judges/python/vllm"
MODEL = ROOT / "fixtures/lm/base"
TENPAK = os.environ["TENPAK_COMMAND"]


def run(*command):
    subprocess.run([TENPAK, "--store", WORK / "store", *map(str, command)], check=True)


def make_models():
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    run("pack", MODEL, "--name", "org/base")
    run("quantize", "org/base", "--name", "org/int4", "--method", "rtn", "--bits", 4, "--group-size", 64)
    run("unpack", "org/int4", "--out", WORK / "int4")
    # Another tag: the same model with its layers' order turned around.
    turned = WORK / "turned"
    shutil.copytree(MODEL, turned)
    from safetensors.torch import load_file, save_file

    tensors = load_file(turned / "model.safetensors")
    layers = sorted({int(name.split(".")[2]) for name in tensors if name.startswith("model.layers.")})
    other = {
        re.sub(r"^model\.layers\.(\d+)", lambda m: f"model.layers.{layers[-1] - int(m[1])}", name): tensor.contiguous()
        for name, tensor in tensors.items()
    }
    other["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].roll(1, 0).contiguous()
    save_file(other, turned / "model.safetensors", metadata={"format": "pt"})
    run("pack", turned, "--name", "org/base:turned")


def make_wide():
    """A model whose matrices are large enough to be cut as ranks divide them; its weights say nothing."""
    import torch
    from safetensors.torch import save_file

    out = WORK / "wide"
    if out.exists():
        return
    wide, kv, inner, layers = 2048, 1024, 6144, 2
    config = json.loads((MODEL / "config.json").read_text())
    config |= {
        "hidden_size": wide, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": kv // 128, "head_dim": 128, "tie_word_embeddings": True,
    }  # fmt: skip
    seed = torch.Generator().manual_seed(3)

    def random(*shape):
        return (torch.randn(shape, generator=seed) / wide**0.5).bfloat16()

    tensors = {"model.embed_tokens.weight": random(config["vocab_size"], wide), "model.norm.weight": torch.ones(wide).bfloat16()}
    for layer in range(layers):
        shapes = {
            "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (kv, wide), "self_attn.v_proj": (kv, wide),
            "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide),
            "mlp.down_proj": (wide, inner),
        }  # fmt: skip
        tensors |= {f"model.layers.{layer}.{name}.weight": random(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(wide).bfloat16()
    shutil.copytree(MODEL, out)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    run("pack", out, "--name", "org/wide")


def make_patched(source, changed, spec):
    """The model with some tensors changed."""
    from safetensors.torch import load_file, save_file

    out = WORK / spec.replace("/", "-").replace(":", "-")
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    for name in changed:
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    run("pack", out, "--name", spec)


def make_experts():
    """A small mixture of experts; its weights say nothing."""
    import torch
    from safetensors.torch import load_file, save_file

    out, experts, inner = WORK / "experts", 4, 512
    if out.exists():
        return
    shutil.copytree(MODEL, out)
    config = json.loads((MODEL / "config.json").read_text())
    config |= {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": experts,
        "num_experts_per_tok": 2, "intermediate_size": inner, "sliding_window": None, "tie_word_embeddings": False,
    }  # fmt: skip
    wide, seed = config["hidden_size"], torch.Generator().manual_seed(4)
    tensors = {name: tensor.clone() for name, tensor in load_file(MODEL / "model.safetensors").items() if ".mlp." not in name}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()

    def random(*shape):
        return (torch.randn(shape, generator=seed) / wide**0.5).bfloat16()

    for layer in range(config["num_hidden_layers"]):
        own = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{own}.gate.weight"] = random(experts, wide)
        for expert in range(experts):
            tensors[f"{own}.experts.{expert}.w1.weight"] = random(inner, wide)
            tensors[f"{own}.experts.{expert}.w2.weight"] = random(wide, inner)
            tensors[f"{own}.experts.{expert}.w3.weight"] = random(inner, wide)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    run("pack", out, "--name", "org/experts")


def make_adapter(base):
    """An adapter that changes what is said, and the model that it makes of the base."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors, seed, rank, alpha = load_file(MODEL / "model.safetensors"), torch.Generator().manual_seed(6), 8, 16
    adapter, merged = {}, dict(tensors)
    for name, weight in tensors.items():
        if not name.endswith((".q_proj.weight", ".v_proj.weight", ".down_proj.weight")):
            continue
        own = "base_model.model." + name.removesuffix(".weight")
        a = torch.randn(rank, weight.shape[1], generator=seed) / weight.shape[1] ** 0.5
        b = torch.randn(weight.shape[0], rank, generator=seed) / 20
        adapter |= {f"{own}.lora_A.weight": a, f"{own}.lora_B.weight": b}
        merged[name] = weight.float() + b @ a * (alpha / rank)
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha, "bias": "none",
        "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    out = WORK / "adapter-served"
    out.mkdir()
    save_file(adapter, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps(config))
    run("pack", out, "--name", "adapters/served", "--allow-incomplete")
    whole = WORK / "merged"
    shutil.copytree(MODEL, whole)
    save_file({name: tensor.float() for name, tensor in merged.items()}, whole / "model.safetensors", metadata={"format": "pt"})
    return whole
