//! A GGUF file, as GGUF's own library reads it.

use super::model::{llama, write};
use super::run::{fresh_folder, python_command, reader_agrees, text};
use super::{quantize, quantized};

const CONFIG: &str = r#"{"model_type":"llama","num_attention_heads":4,"num_key_value_heads":4,"hidden_size":256,
"num_hidden_layers":1,"max_position_embeddings":64,"intermediate_size":512,"vocab_size":100,"bos_token_id":1,
"eos_token_id":[2,3],"rms_norm_eps":1e-5,"rope_theta":500000.0}"#;
const TOKENIZER: &str = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},
"pre_tokenizer":{"type":"ByteLevel"},"added_tokens":[{"id":3,"content":"<s>","special":true}]}"#;

/// Reads the file and compares it with the model, in the order of rows that GGUF has.
const READ: &str = r#"
import sys, gguf, numpy as np
from gguf.quants import dequantize
model, path, kind, limit = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
import json, struct
raw = open(model, "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
header = json.loads(raw[8:8 + size])
def original(name):
    entry = header[name]
    start, end = entry["data_offsets"]
    half = np.frombuffer(raw[8 + size + start:8 + size + end], np.uint16).astype(np.uint32) << 16
    return half.view(np.float32).reshape(entry["shape"])
reader = gguf.GGUFReader(path)
value = lambda key: reader.fields[key].contents()
assert value("general.architecture") == "llama" and value("llama.block_count") == 1
assert value("llama.rope.dimension_count") == 64 and value("llama.rope.freq_base") == 500000.0
assert value("tokenizer.ggml.tokens")[:5] == ["a", "b", "ab", "<s>", "[PAD4]"], value("tokenizer.ggml.tokens")[:5]
assert value("tokenizer.ggml.token_type")[:5] == [1, 1, 1, 3, 5] and value("tokenizer.ggml.merges") == ["a b"]
assert value("tokenizer.ggml.eos_token_id") == 2 and len(value("tokenizer.ggml.tokens")) == 100
tensors = {t.name: t for t in reader.tensors}
names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk.0.attn_norm": "model.layers.0.input_layernorm"}
names |= {f"blk.0.attn_{a}": f"model.layers.0.self_attn.{b}_proj" for a, b in zip(["q", "k", "v", "output"], "qkvo")}
names |= {f"blk.0.ffn_{p}": f"model.layers.0.mlp.{p}_proj" for p in ["gate", "down"]}
assert set(tensors) == {f"{name}.weight" for name in names}, set(tensors)
quantized = 0
for name, source in names.items():
    tensor, expected = tensors[f"{name}.weight"], original(f"{source}.weight")
    if name.endswith(("attn_q", "attn_k")):
        expected = expected.reshape(4, 2, 32, -1).swapaxes(1, 2).reshape(expected.shape)
    read = dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
    off = np.linalg.norm(read - expected) / np.linalg.norm(expected)
    assert off <= limit, (name, off)
    quantized += tensor.tensor_type.name == kind
assert quantized == 6, quantized
"#;

#[test]
fn the_file_is_what_the_library_reads() {
    let folder = fresh_folder("gguf");
    let (model, store) = (write(&folder.join("model"), &llama(1, 256)), folder.join("store"));
    std::fs::write(model.join("config.json"), CONFIG).unwrap();
    std::fs::write(model.join("tokenizer.json"), TOKENIZER).unwrap();
    for (method, kind, limit) in
        [("q4_0", "Q4_0", "0.12"), ("q8_0", "Q8_0", "0.01"), ("q4_k", "Q4_K", "0.1")]
    {
        let again = || quantized(&store, text(&model), method, &["--method", method]);
        assert_eq!(again().number("tensors_computed"), 6);
        assert_eq!(again().number("tensors_linked"), 6);
        let out = folder.join(method);
        reader_agrees(&store, method, &out);
        let (source, path) = (model.join("model.safetensors"), out.join("model.gguf"));
        let arguments = ["-c", READ, text(&source), text(&path), kind, limit];
        let output = python_command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!out.join("model.safetensors").exists());
    }
    // Other heads are other bytes.
    std::fs::write(model.join("config.json"), CONFIG.replace("heads\":4", "heads\":2")).unwrap();
    let other = quantized(&store, text(&model), "x", &["--method", "q8_0"]);
    assert_eq!(other.number("tensors_computed"), 2);
    for (config, says) in [
        (CONFIG.replace("llama", "bert"), "bert"),
        (CONFIG.replace("\"rms", "\"rope_scaling\":{\"type\":\"yarn\"},\"rms"), "yarn"),
        (CONFIG.replace("\"vocab_size\":100,", ""), "vocab_size"),
    ] {
        std::fs::write(model.join("config.json"), config).unwrap();
        let run = quantize(&store, text(&model), "x", &["--method", "q8_0"]);
        assert!(run.status == Some(1) && run.error.contains(says), "{}", run.error);
    }
}
