//! A GGUF file, as GGUF's own library reads it.

use serde_json::Value;

use super::calibrated::fixture;
use super::model::{llama, write};
use super::run::{done, fresh_folder, pack, python_command, reader_agrees, text};
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
    if name == "token_embd": assert tensor.tensor_type.name == ("Q8_0" if kind == "Q8_0" else "Q6_K"), tensor.tensor_type
assert quantized == (7 if kind in ("Q8_0", "Q6_K") else 6), quantized
"#;

#[test]
fn the_file_is_what_the_library_reads() {
    let folder = fresh_folder("gguf");
    let (model, store) = (write(&folder.join("model"), &llama(1, 256)), folder.join("store"));
    std::fs::write(model.join("config.json"), CONFIG).unwrap();
    std::fs::write(model.join("tokenizer.json"), TOKENIZER).unwrap();
    for (method, kind, limit) in [
        ("q4_0", "Q4_0", "0.12"),
        ("q5_0", "Q5_0", "0.06"),
        ("q8_0", "Q8_0", "0.01"),
        ("q4_k", "Q4_K", "0.1"),
        ("q5_k", "Q5_K", "0.05"),
        ("q6_k", "Q6_K", "0.03"),
        ("q3_k", "Q3_K", "0.2"),
        ("q2_k", "Q2_K", "0.4"),
        ("iq4_nl", "IQ4_NL", "0.12"),
        ("iq4_xs", "IQ4_XS", "0.12"),
    ] {
        let again = || quantized(&store, text(&model), method, &["--method", method]);
        assert_eq!(again().number("tensors_computed"), 7);
        assert_eq!(again().number("tensors_linked"), 7);
        let out = folder.join(method);
        reader_agrees(&store, method, &out);
        let (source, path) =
            (model.join("model.safetensors"), out.join(format!("model-{kind}.gguf")));
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
        (CONFIG.replace("\"rms", "\"rope_scaling\":{\"type\":\"odd\"},\"rms"), "odd"),
        (CONFIG.replace("\"vocab_size\":100,", ""), "vocab_size"),
    ] {
        std::fs::write(model.join("config.json"), config).unwrap();
        let run = quantize(&store, text(&model), "x", &["--method", "q8_0"]);
        assert!(run.status == Some(1) && run.error.contains(says), "{}", run.error);
    }
}

/// Prints the type of each tensor of a file, and fails if one is not what the model's is.
const TYPES: &str = r#"
import sys, json, gguf, numpy as np
raw = open(sys.argv[1], "rb").read()
size = int.from_bytes(raw[:8], "little")
header, found = json.loads(raw[8:8 + size]), {}
names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj"}
for tensor in gguf.GGUFReader(sys.argv[2]).tensors:
    name = tensor.name.removesuffix(".weight")
    found[name.removeprefix("blk.0.")] = tensor.tensor_type.name
    part = name.removeprefix("blk.0.")
    if part not in names: continue
    entry = header[f"model.layers.0.{names[part]}.weight"]
    start, end = entry["data_offsets"]
    half = np.frombuffer(raw[8 + size + start:8 + size + end], np.uint16).astype(np.uint32) << 16
    own = half.view(np.float32).reshape(entry["shape"])
    if part in ("attn_q", "attn_k"): own = own.reshape(4, 2, -1, own.shape[1]).swapaxes(1, 2).reshape(own.shape)
    read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(own.shape)
    off = np.linalg.norm(read - own) / np.linalg.norm(own)
    assert off < 0.15, (name, off)
print(json.dumps(found))
"#;

#[test]
fn rows_of_no_whole_blocks_get_the_type_that_llama_cpp_gives_them() {
    let folder = fresh_folder("gguf_rows");
    let store = folder.join("store");
    let model = |width: usize| {
        let model = write(&folder.join(format!("model-{width}")), &llama(1, width));
        let config = CONFIG.replace("256", &width.to_string());
        let config = config.replace("512", &(2 * width).to_string());
        std::fs::write(model.join("config.json"), config).unwrap();
        model
    };
    for (width, method, layers, down, told) in [
        (96, "q4_k", "Q5_0", "Q5_0", r#"{"q5_0":6,"q8_0":1}"#),
        (96, "q5_k", "Q5_1", "Q5_1", r#"{"q5_1":6,"q8_0":1}"#),
        (128, "iq4_xs", "IQ4_NL", "IQ4_XS", r#"{"iq4_nl":5,"q8_0":1}"#),
        (48, "q3_k", "F16", "Q4_0", r#"{"f16":6,"q4_0":1}"#),
    ] {
        let (model, name) = (model(width), format!("{method}-{width}"));
        let made = quantized(&store, text(&model), &name, &["--method", method]);
        assert_eq!(made.json["fell_back"].to_string(), told, "{name}");
        let out = folder.join(&name);
        done(&["unpack", &name, "--store", text(&store), "--out", text(&out)]);
        let source = model.join("model.safetensors");
        let file = out.join(format!("model-{}.gguf", method.to_uppercase()));
        let arguments = ["-c", TYPES, text(&source), text(&file)];
        let output = python_command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let types: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&types["attn_q"], &types["ffn_down"]),
            (&layers.into(), &down.into()),
            "{name}"
        );
    }
    let run = quantize(&store, text(&model(40)), "x", &["--method", "q6_k"]);
    assert!(run.status == Some(1) && run.error.contains("in blocks of 256"), "{}", run.error);
}

/// Reads a file with experts: their stacks, and the numbers that say how they are routed.
const EXPERTS: &str = r#"
import sys, gguf
reader = gguf.GGUFReader(sys.argv[1])
value = lambda key: reader.fields[key].contents()
assert value("general.architecture") == "llama"
assert (value("llama.expert_count"), value("llama.expert_used_count")) == (8, 2)
tensors = {t.name: t for t in reader.tensors}
for part, shape in {"gate": [256, 128, 8], "up": [256, 128, 8], "down": [128, 256, 8]}.items():
    for block in range(3):
        tensor = tensors[f"blk.{block}.ffn_{part}_exps.weight"]
        assert (list(tensor.shape), tensor.tensor_type.name) == (shape, "Q8_0"), tensor
router = tensors["blk.0.ffn_gate_inp.weight"]
assert (list(router.shape), router.tensor_type.name) == ([256, 8], "F32"), router
assert not any(".experts." in name for name in tensors), sorted(tensors)
"#;

#[test]
fn experts_are_stacked() {
    let folder = fresh_folder("gguf_experts");
    let store = folder.join("store");
    quantized(&store, text(&fixture("moe")), "q8", &["--method", "q8_0"]);
    let out = folder.join("out");
    reader_agrees(&store, "q8", &out);
    let file = out.join("model-Q8_0.gguf");
    let output = python_command().args(["-c", EXPERTS, text(&file)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Each expert lies where it is read: another order would not be the model.
    pack(&store, &fixture("moe"), "moe", &[]);
    let words = std::fs::read_to_string(fixture("test.txt")).unwrap();
    let few = folder.join("few.txt");
    std::fs::write(&few, words.chars().take(3000).collect::<String>()).unwrap();
    let [own, exact] = ["q8", "moe"].map(|name| {
        let all = ["eval", "ppl", name, "--store", text(&store), "--text", text(&few)];
        done(&all).json["perplexity"].as_f64().unwrap()
    });
    assert!((own / exact - 1.0).abs() < 0.005, "{own}, the model itself {exact}");

    // What llama.cpp would run otherwise is refused.
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    for name in ["tokenizer.json", "model.safetensors"] {
        std::fs::copy(fixture("moe").join(name), model.join(name)).unwrap();
    }
    let config = std::fs::read_to_string(fixture("moe").join("config.json")).unwrap();
    let config = config.replace("\"num_local_experts\": 8", "\"num_local_experts\": 9");
    std::fs::write(model.join("config.json"), config).unwrap();
    let run = quantize(&store, text(&model), "x", &["--method", "q8_0"]);
    assert!(run.status == Some(1) && run.error.contains("blk.0.ffn_down_exps"), "{}", run.error);
}

/// Writes the weights as transformers has them, by GGUF's own library, and prints the digest of each tensor that
/// it dequantizes and of every other as f32.
const DEQUANTIZE: &str = r#"
import sys, json, blake3, gguf, numpy as np
path, out = sys.argv[1:3]
names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
for n in range(3):
    block, there = f"model.layers.{n}", f"blk.{n}"
    names |= {f"{there}.attn_norm": f"{block}.input_layernorm", f"{there}.ffn_norm": f"{block}.post_attention_layernorm"}
    names |= {f"{there}.attn_{a}": f"{block}.self_attn.{b}_proj" for a, b in zip(["q", "k", "v", "output"], "qkvo")}
    names |= {f"{there}.ffn_{p}": f"{block}.mlp.{p}_proj" for p in ["gate", "up", "down"]}
header, data, digests, at = {}, b"", {}, 0
for tensor in gguf.GGUFReader(path).tensors:
    shape = [int(dim) for dim in reversed(tensor.shape)]
    if tensor.tensor_type.name == "BF16":
        values = (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    values = values.reshape(shape)
    digests[tensor.name] = blake3.blake3(values.tobytes()).hexdigest()
    layer = tensor.name.removesuffix(".weight")
    if layer.endswith(("attn_q", "attn_k")):
        values = values.reshape(-1, 16, 2, shape[1]).swapaxes(1, 2).reshape(shape)
    raw = np.ascontiguousarray(values).tobytes()
    header[names[layer] + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(raw)]}
    data, at = data + raw, at + len(raw)
header = json.dumps(header).encode()
open(out, "wb").write(len(header).to_bytes(8, "little") + header + data)
print(json.dumps(digests))
"#;

#[test]
fn what_is_written_is_read_as_weights() {
    let folder = fresh_folder("gguf_read");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    // A debug build is slow.
    let words = std::fs::read_to_string(fixture("test.txt")).unwrap();
    let few = folder.join("few.txt");
    std::fs::write(&few, words.chars().take(6000).collect::<String>()).unwrap();
    let perplexity = |name: &str| {
        let all = ["eval", "ppl", name, "--store", text(&store), "--text", text(&few)];
        done(&all).json["perplexity"].as_f64().unwrap()
    };
    let exact = perplexity("base");
    for (method, most) in [("q4_0", 0.1), ("q8_0", 0.002), ("q4_k", 0.05)] {
        quantized(&store, "base", method, &["--method", method]);
        let out = folder.join(method);
        done(&["unpack", method, "--store", text(&store), "--out", text(&out)]);
        // The same weights, as another reads them.
        let plain = folder.join(format!("{method}-plain"));
        std::fs::create_dir_all(&plain).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(fixture("base").join(file), plain.join(file)).unwrap();
        }
        let file = format!("model-{}.gguf", method.to_uppercase());
        let (from, to) = (out.join(file), plain.join("model.safetensors"));
        let output =
            python_command().args(["-c", DEQUANTIZE, text(&from), text(&to)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let expected: Value = serde_json::from_slice(&output.stdout).unwrap();
        let load = |more: &[&str]| {
            done(&[&["load", method, "--store", text(&store), "--digest"][..], more].concat())
        };
        let loaded = load(&["--dtype", "f32"]);
        assert_eq!(loaded.json["digests"], expected, "{method}");
        assert_eq!(loaded.number("dequantized"), 22);
        let loaded = load(&["--dtype", "bf16", "--tensor", "blk.1.attn_q.weight"]);
        assert_eq!((loaded.number("dequantized"), loaded.number("delivered_bytes")), (1, 2 << 16));
        pack(&store, &plain, "plain", &[]);
        let (own, other) = (perplexity(method), perplexity("plain"));
        assert!((own / other - 1.0).abs() < 1e-5, "{method}: {own}, as weights {other}");
        assert!((own / exact - 1.0).abs() < most, "{method}: {own}, the model itself {exact}");
    }
    // An artifact that another tool's files were packed into says nothing of their blocks; its header does.
    let folder = folder.join("q4_k");
    pack(&store, &folder, "packed", &[]);
    let (own, packed) = (perplexity("q4_k"), perplexity("packed"));
    assert!((own / packed - 1.0).abs() < 1e-5, "{own}, packed again {packed}");
}
