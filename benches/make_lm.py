"""A Llama of about a billion parameters in bf16, with random weights, that engines take: `make_lm.py FOLDER`."""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY = 2048, 5632, 20, 32, 8, 64, 32000
TOKENIZER = pathlib.Path(__file__).resolve().parent.parent / "fixtures/lm/base/tokenizer.json"

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
    "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "hidden_act": "silu", "rope_theta": 10000.0, "torch_dtype": "bfloat16", "bos_token_id": None, "eos_token_id": None,
}))
shutil.copy(TOKENIZER, folder)
shapes = {"model.embed_tokens": (VOCABULARY, HIDDEN)}
for layer in range(LAYERS):
    own = {
        "input_layernorm": (HIDDEN,), "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "post_attention_layernorm": (HIDDEN,), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
shapes |= {"model.norm": (HIDDEN,), "lm_head": (VOCABULARY, HIDDEN)}
header, end = {}, 0
for name, shape in shapes.items():
    size = 2 * int(np.prod(shape))
    header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
    end += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
random = np.random.default_rng(1)
with open(folder / "model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for shape in shapes.values():
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
        else:
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
