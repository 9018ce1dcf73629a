//! `tenpak load --dtype` from outside: on the host and on a device, the same weights, and those of the
//! reference.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::json;
use tenpak::dequant::{Float, Layout, Nested, Weight, convert, dequantize, sample};

use super::model::{Fill, Model, Tensor};
use super::run::{Run, done, fresh_folder, pack, tenpak, text};

fn tensor(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: data.to_vec() }
}

/// A name and the digest of the bytes that it should have.
type Expected = Vec<(String, String)>;

fn expect(name: &str, bytes: &[u8]) -> (String, String) {
    (name.to_owned(), blake3::hash(bytes).to_hex().to_string())
}

/// Plain tensors of every type that is converted and of some that are not.
fn plain(out: Float) -> (Vec<Tensor>, Expected) {
    let (mut tensors, mut expected) = (Vec::new(), Vec::new());
    for (name, dtype, float) in [
        ("norm.bf16", Dtype::BF16, Some(Float::BF16)),
        ("norm.f16", Dtype::F16, Some(Float::F16)),
        ("norm.f32", Dtype::F32, Some(Float::F32)),
        ("norm.f64", Dtype::F64, None),
        ("positions", Dtype::I64, None),
    ] {
        let one = Tensor::new(name, dtype, &[301, 17], 5, Fill::Random);
        let bytes = float.map_or(one.data.clone(), |from| convert(&one.data, from, out));
        expected.push(expect(name, &bytes));
        tensors.push(one);
    }
    (tensors, expected)
}

/// GPTQ, one module with an index.
fn gptq(out: Float) -> (Model, Expected) {
    let layout = Layout::Gptq { bits: 4, group: 64, less_one: true };
    let weight = Weight::new(layout, 544, 512, Float::F16).unwrap().indexed().unwrap();
    let parts = sample::parts(&weight, 3);
    let [codes, scales, zeros, index, _] = &parts.0;
    let (mut tensors, mut expected) = plain(out);
    tensors.extend([
        tensor("layers.0.q_proj.g_idx", Dtype::I32, &[512], index),
        tensor("layers.0.q_proj.qweight", Dtype::I32, &[64, 544], codes),
        tensor("layers.0.q_proj.qzeros", Dtype::I32, &[8, 68], zeros),
        tensor("layers.0.q_proj.scales", Dtype::F16, &[8, 544], scales),
    ]);
    let value = dequantize(&weight, &parts.borrow(), out).unwrap();
    expected.push(expect("layers.0.q_proj.weight", &value));
    let config =
        json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}});
    (Model::of(tensors).with("config.json", config.to_string().as_bytes()), expected)
}

/// bitsandbytes NF4 with nested absmax.
fn nf4(out: Float) -> (Model, Expected) {
    let nested = Some(Nested { block: 256, offset: 0.25 });
    let weight = Weight::new(Layout::Bnb4 { block: 64, nested }, 384, 514, Float::F32).unwrap();
    let parts = sample::parts(&weight, 4);
    let [codes, scales, zeros, _, table] = &parts.0;
    let state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16",
        "shape": [384, 514], "nested_blocksize": 256, "nested_dtype": "float32",
        "nested_offset": 0.25})
    .to_string();
    let of = |end: &str| format!("up_proj.weight{end}");
    let (mut tensors, mut expected) = plain(out);
    tensors.extend([
        tensor(&of(""), Dtype::U8, &[codes.len(), 1], codes),
        tensor(&of(".absmax"), Dtype::U8, &[scales.len()], scales),
        tensor(&of(".nested_absmax"), Dtype::F32, &[zeros.len() / 4], zeros),
        tensor(&of(".nested_quant_map"), Dtype::F32, &[256], &table[64..]),
        tensor(&of(".quant_map"), Dtype::F32, &[16], &table[..64]),
        tensor(&of(".quant_state.bitsandbytes__nf4"), Dtype::U8, &[state.len()], state.as_bytes()),
    ]);
    let value = dequantize(&weight, &parts.borrow(), out).unwrap();
    expected.push(expect("up_proj.weight", &value));
    let config = json!({"quantization_config":
        {"quant_method": "bitsandbytes", "load_in_4bit": true}});
    (Model::of(tensors).with("config.json", config.to_string().as_bytes()), expected)
}

fn stored(name: &str, model: &Model) -> (PathBuf, PathBuf) {
    let folder = fresh_folder(name);
    let (input, store) = (folder.join("model"), folder.join("store"));
    model.write(&input);
    // What is wrong with a model's configuration is what some of these are about.
    pack(&store, &input, "org/model", &["--allow-incomplete"]);
    (folder, store)
}

fn load(store: &Path, more: &[&str]) -> Run {
    tenpak(&[&["load", "org/model", "--store", text(store), "--digest"], more].concat())
}

/// The load gave these and nothing else.
#[track_caller]
fn assert_digests(run: &Run, expected: &[(String, String)]) {
    assert_eq!(run.status, Some(0), "{}", run.error);
    let digests = run.json["digests"].as_object().unwrap();
    assert_eq!(digests.len(), expected.len(), "{digests:?}");
    for (name, digest) in expected {
        assert_eq!(digests[name], digest.as_str(), "{name}");
    }
}

#[test]
fn quantized_checkpoints_are_delivered_in_the_type_asked_wherever_they_go() {
    type Make = fn(Float) -> (Model, Expected);
    for (kind, make) in [("gptq", gptq as Make), ("nf4", nf4)] {
        let (_, store) = stored(&format!("dtype_{kind}"), &make(Float::BF16).0);
        for (name, out) in [("bf16", Float::BF16), ("f16", Float::F16), ("f32", Float::F32)] {
            let (_, expected) = make(out);
            for device in ["host", "wgpu"] {
                let run = load(&store, &["--device", device, "--dtype", name]);
                assert_digests(&run, &expected);
                let count = |field: &str| run.number(field);
                assert_eq!(run.text("dtype"), out.dtype().name());
                let made = (count("dequantized"), count("converted"), count("as_stored"));
                assert_eq!((made, count("tensors")), ((1, 2, 3), 6), "{kind} {device}");
                assert_eq!(run.json["device"].is_null(), device == "host");
            }
        }
    }
}

#[test]
fn what_is_not_quantized_is_converted_and_parts_of_it_too() {
    let (tensors, expected) = plain(Float::F32);
    let (_, store) = stored("dtype_plain", &Model::of(tensors.clone()));
    for device in ["host", "wgpu"] {
        let run = load(&store, &["--device", device, "--dtype", "f32", "--keep"]);
        assert_digests(&run, &expected);
        assert_eq!((run.number("dequantized"), run.number("converted")), (0, 2));
        // A rank's part: rows 0 to 150 of 301.
        let more = ["--device", device, "--dtype", "f32", "--shard", "0/2", "--tensor", "norm.f16"];
        let run = load(&store, &more);
        assert_eq!(run.status, Some(0), "{}", run.error);
        let rows = convert(&tensors[1].data[..150 * 17 * 2], Float::F16, Float::F32);
        assert_eq!(run.json["digests"]["norm.f16"], expect("", &rows).1.as_str());
    }
    // Nothing is made of what is asked for as stored, and nothing said of it.
    let run = load(&store, &["--dtype", "stored"]);
    assert_eq!(run.json["digests"]["norm.f16"], expect("", &tensors[1].data).1.as_str());
    assert!(run.json["dtype"].is_null() && run.json["dequantized"].is_null());
}

#[test]
fn a_weight_is_asked_for_by_its_own_name_and_comes_with_all_that_it_is_made_of() {
    let (model, expected) = gptq(Float::F16);
    let (_, store) = stored("dtype_names", &model);
    for pattern in ["layers.0.q_proj.weight", "layers.*", "*.qzeros"] {
        let run = load(&store, &["--dtype", "f16", "--tensor", pattern]);
        assert_digests(&run, &expected[5..]);
    }
    let order = ["--dtype", "f16", "--tensor", "norm.f32", "--tensor", "*q_proj.weight"];
    assert_eq!(load(&store, &order).number("tensors"), 2);
    let run = load(&store, &["--dtype", "f16", "--tensor", "layers.1.q_proj.weight"]);
    assert_eq!(run.status, Some(3), "{}", run.error);
    assert!(run.error.contains("layers.1.q_proj.weight"), "{}", run.error);
}

#[test]
fn what_cannot_be_dequantized_is_refused_with_what_to_do() {
    let (model, _) = gptq(Float::BF16);
    let (_, store) = stored("dtype_refused", &model);
    for device in ["host", "wgpu"] {
        let run = load(&store, &["--device", device, "--dtype", "bf16", "--shard", "1/2"]);
        assert_eq!(run.status, Some(2), "{}", run.error);
        for what in ["layers.0.q_proj.weight", "--shard", "--dtype stored"] {
            assert!(run.error.contains(what), "{}", run.error);
        }
    }
    let run = load(&store, &["--shard", "1/2"]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    // A method that is not known.
    let other = json!({"quantization_config": {"quant_method": "exl2", "bits": 4}}).to_string();
    for config in [other.as_bytes(), b"{no json"] {
        let (_, store) = stored("dtype_unknown", &model.clone().with("config.json", config));
        let run = load(&store, &["--dtype", "bf16"]);
        assert_eq!(run.status, Some(1), "{}", run.error);
        assert!(run.error.contains("config.json") && run.error.contains("--dtype stored"));
    }
    // An old checkpoint says it in a file of its own.
    let own = json!({"bits": 4, "group_size": 64, "desc_act": true}).to_string();
    let model = model.with("config.json", b"{}").with("quantize_config.json", own.as_bytes());
    let (_, store) = stored("dtype_own_file", &model);
    let run = done(&["load", "org/model", "--store", text(&store), "--dtype", "bf16"]);
    assert_eq!(run.number("dequantized"), 1);
}
