//! GGUF files and quantized checkpoints that others made, as sources.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::calibrated::fixture;
use super::run::{Run, done, fresh_folder, pack, python_command, tenpak, text};
use super::{quantize, quantized};

/// Writes the fixture as llama.cpp's converter would: `write.py MODEL OUT KIND SPLIT` gives `OUT/model.gguf`, or two
/// files, without any JSON beside, and `OUT/plain`, the same weights as safetensors.
const WRITE: &str = r#"
import json, os, struct, sys
import gguf, numpy as np
from gguf.quants import quantize, dequantize
source, out, kind, split = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "split"
config = json.load(open(f"{source}/config.json"))
tokenizer = json.load(open(f"{source}/tokenizer.json"))
raw = open(f"{source}/model.safetensors", "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
header = json.loads(raw[8:8 + size])
def values(name):
    start, end = header[name]["data_offsets"]
    half = np.frombuffer(raw[8 + size + start:8 + size + end], np.uint16).astype(np.uint32) << 16
    return half.view(np.float32).reshape(header[name]["shape"]).copy()
names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.o_proj": "attn_output"}
parts |= {f"self_attn.{p}_proj": f"attn_{p}" for p in "qkv"}
def renamed(name):
    layer, end = name.rsplit(".", 1)
    if layer in names: return f"{names[layer]}.{end}"
    block, part = layer.removeprefix("model.layers.").split(".", 1)
    return f"blk.{block}.{parts[part]}.{end}"
def permuted(name, w):
    heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
def back(name, w):
    heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
os.makedirs(f"{out}/plain", exist_ok=True)
writer = gguf.GGUFWriter(f"{out}/model.gguf", "llama", **({"split_max_tensors": 15} if split else {}))
writer.add_block_count(config["num_hidden_layers"]); writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"]); writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"]); writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"]); writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
writer.add_rope_dimension_count(config["head_dim"]); writer.add_key_length(config["head_dim"])
vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
special = {token["id"] for token in tokenizer["added_tokens"]}
writer.add_tokenizer_model("gpt2"); writer.add_tokenizer_pre("gpt-2")
writer.add_token_list([token for token, _ in vocab])
writer.add_token_types([3 if id in special else 1 for _, id in vocab])
writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
writer.add_bos_token_id(0); writer.add_eos_token_id(1); writer.add_add_bos_token(False)
writer.add_chat_template("{{ messages }}")
# So that the header is stored in several chunks, as with a large vocabulary.
writer.add_description(np.random.default_rng(1).bytes(1 << 20).hex())
plain, data, at = {}, b"", 0
kinds = gguf.GGMLQuantizationType
mixed = ["Q4_0", "Q5_1", "TQ2_0", "MXFP4", "Q8_0", "F16", "BF16"] if kind == "mixed" else [kind]
for number, name in enumerate(sorted(k for k in header if k != "__metadata__")):
    w = values(name)
    rotated = "q_proj" in name or "k_proj" in name
    own = permuted(name, w) if rotated else w
    one = mixed[number % len(mixed)] if w.ndim > 1 else "F32"
    if one in ("TQ2_0", "MXFP4") and "down_proj" not in name: one = "Q5_0"
    if one == "F32": writer.add_tensor(renamed(name), own); read = own
    elif one == "F16": own = own.astype(np.float16); writer.add_tensor(renamed(name), own); read = own.astype(np.float32)
    else:
        blocks = quantize(own, kinds[one])
        writer.add_tensor(renamed(name), blocks, raw_dtype=kinds[one]); read = dequantize(blocks, kinds[one]).reshape(own.shape)
    read = back(name, read) if rotated else read
    bytes = np.ascontiguousarray(read, dtype=np.float32).tobytes()
    plain[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": [at, at + len(bytes)]}
    data, at = data + bytes, at + len(bytes)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
text = json.dumps(plain).encode()
open(f"{out}/plain/model.safetensors", "wb").write(len(text).to_bytes(8, "little") + text + data)
"#;

/// The fixture written so.
fn written(folder: &Path, kind: &str, split: &str) {
    let base = fixture("base");
    let arguments = ["-c", WRITE, text(&base), text(folder), kind, split];
    let output = python_command().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(base.join(file), folder.join("plain").join(file)).unwrap();
    }
}

/// A debug build is slow: a few words.
fn few(folder: &Path) -> std::path::PathBuf {
    let words = fs::read_to_string(fixture("test.txt")).unwrap();
    let few = folder.join("few.txt");
    fs::write(&few, words.chars().take(3000).collect::<String>()).unwrap();
    few
}

fn eval(store: &Path, name: &str, few: &Path) -> Run {
    tenpak(&["eval", "ppl", name, "--store", text(store), "--text", text(few)])
}

#[track_caller]
fn perplexity(store: &Path, name: &str, few: &Path) -> f64 {
    let run = eval(store, name, few);
    assert_eq!(run.status, Some(0), "{name}: {}", run.error);
    run.json["perplexity"].as_f64().unwrap()
}

#[test]
fn gguf_from_anywhere_is_a_model() {
    let folder = fresh_folder("foreign_gguf");
    let (store, few) = (folder.join("store"), few(&folder));
    for (kind, split) in [("mixed", "whole"), ("Q8_0", "split")] {
        let own = folder.join(kind);
        written(&own, kind, split);
        pack(&store, &own.join("plain"), "plain", &[]);
        let expected = perplexity(&store, "plain", &few);
        // The first of a split file stands for all.
        let file =
            own.join(if split == "split" { "model-00001-of-00002.gguf" } else { "model.gguf" });
        pack(&store, &file, kind, &[]);
        done(&["load", kind, "--store", text(&store), "--dtype", "f32"]);
        let found = perplexity(&store, kind, &few);
        assert!((found / expected - 1.0).abs() < 1e-6, "{kind}: {found}, as weights {expected}");
        // What is made of it is made of the floats that it stands for, and says so.
        for source in [kind, text(&file)] {
            let run = quantized(&store, source, "again", &["--method", "int8"]);
            assert_eq!(run.number("tensors_computed") + run.number("tensors_linked"), 21);
        }
        let again = perplexity(&store, "again", &few);
        assert!((again / expected - 1.0).abs() < 0.02, "{kind}: {again}, of {expected}");
        let inspected = done(&["inspect", "again", "--store", text(&store)]).json;
        let was = inspected["quantization"]["dequantized_from"].as_str().unwrap().to_owned();
        assert!(was.starts_with("gguf, ") && was.contains("q8_0"), "{was}");
        let out = folder.join(format!("{kind}-again"));
        done(&["unpack", "again", "--store", text(&store), "--out", text(&out)]);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
        };
        let config = read("config.json");
        assert_eq!(config["model_type"], "llama");
        assert_eq!(config["rms_norm_eps"], 1e-5);
        assert_eq!(config["tie_word_embeddings"], true);
        assert_eq!(read("tokenizer_config.json")["chat_template"], "{{ messages }}");
    }
    // A gap in a split file is named.
    fs::remove_file(folder.join("Q8_0/model-00002-of-00002.gguf")).unwrap();
    let run = quantize(
        &store,
        text(&folder.join("Q8_0/model-00001-of-00002.gguf")),
        "x",
        &["--method", "int8"],
    );
    assert!(run.error.contains("model-00002-of-00002.gguf"), "{}", run.error);
}

#[test]
fn gguf_that_no_model_is_read_from_is_refused_in_words() {
    let folder = fresh_folder("foreign_refused");
    let (store, few) = (folder.join("store"), few(&folder));
    let own = folder.join("own");
    written(&own, "Q8_0", "whole");
    let whole = fs::read(own.join("model.gguf")).unwrap();
    let put = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let place = |what: &[u8]| whole.windows(what.len()).position(|own| own == what).unwrap();
    let arch = place(b"general.architecture") + 20 + 4 + 8;
    let heads = place(b"llama.attention.head_count") + 26 + 4;
    let first = place(b"blk.0.attn_q.weight") + 19;
    let version_2 = put(4, &2_u32.to_le_bytes());
    for (name, bytes, says) in [
        ("big", put(4, &3_u32.to_be_bytes()), "big-endian"),
        ("version", put(4, &1_u32.to_le_bytes()), "GGUF version 1"),
        ("arch", put(arch, b"mamba"), "general.architecture is \"mamba\""),
        ("heads", put(heads, &7_u32.to_le_bytes()), "heads"),
        ("type", put(first + 4 + 16, &99_u32.to_le_bytes()), "type 99"),
        ("tensors", put(8, &(1_u64 << 60).to_le_bytes()), "1152921504606846976 tensors"),
        ("values", put(16, &(1_u64 << 60).to_le_bytes()), "1152921504606846976 values"),
        ("text", put(24, &(1_u64 << 60).to_le_bytes()), "header ends at byte"),
    ] {
        let file = folder.join(format!("{name}.gguf"));
        fs::write(&file, bytes).unwrap();
        let run = quantize(&store, text(&file), "x", &["--method", "int8"]);
        assert!(run.status == Some(1) && run.error.contains(says), "{name}: {}", run.error);
    }
    let file = folder.join("two.gguf");
    fs::write(&file, version_2).unwrap();
    pack(&store, &file, "two", &[]);
    assert!(perplexity(&store, "two", &few).is_finite());
}

/// Writes what compressed-tensors, ModelOpt and DeepSeek store of the fixture's linear layers: `write.py MODEL OUT FORM`.
const QUANTIZED: &str = r#"
import json, os, shutil, struct, sys
import numpy as np
source, out, form = sys.argv[1:4]
os.makedirs(f"{out}/plain", exist_ok=True)
raw = open(f"{source}/model.safetensors", "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
header = json.loads(raw[8:8 + size])
config = json.load(open(f"{source}/config.json"))
FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], np.float32)
exponents = np.arange(256) >> 3 & 15
E4M3 = np.where(exponents == 0, (np.arange(256) & 7) / 512, (1 + (np.arange(256) & 7) / 8) * 2.0 ** (exponents - 7)).astype(np.float32)
E4M3[128:] *= -1
E4M3[[127, 255]] = np.inf
def nearest(table, w): return np.abs(w[..., None] - table).argmin(-1).astype(np.uint8)
stored, plain = {}, {}
def put(name, dtype, array): stored[name] = (dtype, array)
for name in sorted(k for k in header if k != "__metadata__"):
    start, end = header[name]["data_offsets"]
    half = np.frombuffer(raw[8 + size + start:8 + size + end], np.uint16)
    w = (half.astype(np.uint32) << 16).view(np.float32).reshape(header[name]["shape"])
    if not name.endswith("_proj.weight"):
        put(name, "BF16", half.reshape(w.shape)); plain[name] = w; continue
    base, (rows, columns) = name.removesuffix("weight"), w.shape
    if form == "fp8":
        scales = np.full((-(-rows // 128), -(-columns // 128)), 0.001, np.float32) * (1 + np.arange(columns // 128))
        spread = scales.repeat(128, 0)[:rows].repeat(128, 1)[:, :columns]
        codes = nearest(E4M3, w / spread)
        put(name, "F8_E4M3", codes); put(name + "_scale_inv", "F32", scales.astype(np.float32))
        read = E4M3[codes] * spread.astype(np.float32)
    else:
        group = 32 if form == "mxfp4" else 16
        blocks = w.reshape(rows, -1, group); top = np.abs(blocks).max(-1)
        if form == "mxfp4":
            bytes = np.clip(np.floor(np.log2(top)) + 125, 0, 254).astype(np.uint8); scale = 2.0 ** (bytes.astype(np.float32) - 127)
        else:
            bytes = nearest(E4M3[:127], top / 6 * 64); scale = E4M3[bytes] / np.float32(64)
        codes = nearest(FP4, blocks / np.maximum(scale, 1e-30)[..., None]).reshape(rows, columns)
        packed = codes[:, ::2] | codes[:, 1::2] << 4
        read = (FP4[codes].reshape(blocks.shape) * scale[..., None].astype(np.float32)).reshape(w.shape)
        if form == "modelopt":
            put(name, "U8", packed); put(base + "weight_scale", "F8_E4M3", bytes)
            put(base + "weight_scale_2", "F32", np.array(1 / 64, np.float32)); put(base + "input_scale", "F32", np.array(1, np.float32))
        else:
            put(base + "weight_packed", "U8", packed); put(base + "weight_scale", "U8" if form == "mxfp4" else "F8_E4M3", bytes)
            if form == "nvfp4": put(base + "weight_global_scale", "F32", np.array([64], np.float32))
    plain[name] = read.astype(np.float32)
def write(path, tensors):
    entries, data = {}, b""
    for name, (dtype, array) in tensors.items():
        bytes = np.ascontiguousarray(array).tobytes()
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(bytes)]}
        data += bytes
    text = json.dumps(entries).encode()
    open(path, "wb").write(len(text).to_bytes(8, "little") + text + data)
write(f"{out}/model.safetensors", stored)
write(f"{out}/plain/model.safetensors", {name: ("F32", array) for name, array in plain.items()})
quantization = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
}.get(form, {"quant_method": "compressed-tensors", "format": f"{form}-pack-quantized", "config_groups": {}})
json.dump(config, open(f"{out}/plain/config.json", "w"))
json.dump(config | {"quantization_config": quantization}, open(f"{out}/config.json", "w"))
for to in [out, f"{out}/plain"]: shutil.copy(f"{source}/tokenizer.json", to)
"#;

#[test]
fn quantized_checkpoints_are_sources() {
    let folder = fresh_folder("foreign_quantized");
    let (store, few) = (folder.join("store"), few(&folder));
    pack(&store, &fixture("base"), "base", &[]);
    for (form, was) in
        [("fp8", "fp8"), ("mxfp4", "mxfp4"), ("nvfp4", "nvfp4"), ("modelopt", "nvfp4")]
    {
        let own = folder.join(form);
        let base = fixture("base");
        let arguments = ["-c", QUANTIZED, text(&base), text(&own), form];
        let output = python_command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plain = own.join("plain");
        pack(&store, &plain, "plain", &[]);
        fs::rename(&plain, folder.join(format!("{form}-plain"))).unwrap();
        pack(&store, &own, form, &[]);
        let (found, expected) = (perplexity(&store, form, &few), perplexity(&store, "plain", &few));
        assert!((found / expected - 1.0).abs() < 1e-6, "{form}: {found}, as weights {expected}");
        quantized(&store, form, "again", &["--method", "q8_0"]);
        let again = perplexity(&store, "again", &few);
        assert!((again / expected - 1.0).abs() < 0.01, "{form}: {again}, of {expected}");
        let inspected = done(&["inspect", "again", "--store", text(&store)]).json;
        assert_eq!(inspected["quantization"]["dequantized_from"], was);
        // A fine-tune that is quantized, beside a base that is not.
        let delta = ["delta", form, "--base", "base", "--name", "tuned", "--store", text(&store)];
        let run = done(&delta).json;
        assert_eq!(run["delta"]["dequantized_from"], was);
        assert_eq!(run["unchanged"], json!(8), "{run}");
        let tuned = perplexity(&store, "tuned", &few);
        assert!((tuned / expected - 1.0).abs() < 1e-3, "{form}: {tuned}, of {expected}");
    }
}

#[test]
fn fp4_is_written() {
    let folder = fresh_folder("fp4");
    let (store, few) = (folder.join("store"), few(&folder));
    pack(&store, &fixture("base"), "base", &[]);
    let exact = perplexity(&store, "base", &few);
    for (method, most) in [("mxfp4", 0.3), ("nvfp4", 0.2)] {
        quantized(&store, "base", method, &["--method", method]);
        let found = perplexity(&store, method, &few);
        assert!((found / exact - 1.0).abs() < most, "{method}: {found}, of {exact}");
        let out = folder.join(method);
        done(&["unpack", method, "--store", text(&store), "--out", text(&out)]);
        let config: Value =
            serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        let own = &config["quantization_config"];
        assert_eq!(own["format"], format!("{method}-pack-quantized"));
        let weights = &own["config_groups"]["group_0"]["weights"];
        assert_eq!((&weights["num_bits"], &weights["type"]), (&json!(4), &json!("float")));
    }
}
