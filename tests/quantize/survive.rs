//! What cannot be quantized is refused by name, and the store stays as it was.

use std::path::Path;

use super::model::{CONFIG, Tensor, llama, write, write_shards};
use super::run::{command, done, fresh_folder, limited, objects, pack, tenpak, text};
use super::{quantize, quantized};

/// A store that holds something already.
fn store(folder: &Path) -> std::path::PathBuf {
    let store = folder.join("store");
    let model = write(&folder.join("first"), &llama(1, 32));
    pack(&store, &model, "first", &[]);
    store
}

/// Quantizing must fail with status 1 and say all of this, from the folder and from an artifact of it; the
/// store is the same afterwards.
#[track_caller]
fn refused(store: &Path, model: &Path, arguments: &[&str], says: &[&str]) {
    pack(store, model, "source", &["--allow-incomplete"]);
    for source in [text(model), "source"] {
        let before = objects(store);
        let run = quantize(store, source, "q", arguments);
        assert_eq!(run.status, Some(1), "{source}: {}", run.error);
        for text in says {
            assert!(run.error.contains(text), "{source}: {:?} does not say {text:?}", run.error);
        }
        assert_eq!(objects(store), before, "{source}");
    }
}

fn tensor<'t>(tensors: &'t mut [Tensor], end: &str) -> &'t mut Tensor {
    tensors.iter_mut().find(|(name, _, _)| name.ends_with(end)).expect("a tensor")
}

const METHODS: [&[&str]; 6] = [
    &["--preset", "bnb_nf4"],
    &["--preset", "nf4_double"],
    &["--preset", "bnb_int8"],
    &["--method", "fp8"],
    &["--method", "rtn", "--group-size", "32"],
    &["--method", "rtn", "--format", "gptq", "--group-size", "32"],
];

#[test]
fn weights_that_are_no_numbers_are_named() {
    let folder = fresh_folder("no_numbers");
    let store = store(&folder);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut tensors = llama(2, 64);
        tensor(&mut tensors, "1.mlp.down_proj.weight").2[128 * 5 + 9] = bad;
        let model = write(&folder.join("model"), &tensors);
        for method in METHODS {
            let name = "tensor model.layers.1.mlp.down_proj.weight: row 5, column 9";
            refused(&store, &model, method, &[name, "leave this layer out"]);
        }
    }
}

#[test]
fn zeros_and_tied_weights_are_quantized() {
    let folder = fresh_folder("zeros");
    let store = store(&folder);
    let mut tensors = llama(1, 64);
    for row in tensor(&mut tensors, "mlp.down_proj.weight").2.chunks_mut(128) {
        row[3] = 0.0;
    }
    tensor(&mut tensors, "v_proj.weight").2.fill(0.0);
    // A head that is the embedding, and is stored all the same.
    let (_, shape, values) = tensors[0].clone();
    tensors.push(("lm_head.weight".to_owned(), shape, values));
    let model = write(&folder.join("model"), &tensors);
    for method in METHODS {
        let run = quantized(&store, text(&model), "q", method);
        assert_eq!(run.json["kept"], serde_json::json!(["lm_head"]));
        let all = ["load", "q", "--store", text(&store), "--dtype", "f32", "--digest"];
        let digests = &done(&all).json["digests"];
        let zeros = blake3::hash(&[0; 64 * 64 * 4]).to_hex().to_string();
        assert_eq!(digests["model.layers.0.self_attn.v_proj.weight"], zeros, "{method:?}");
    }
}

#[test]
fn shapes_that_a_format_cannot_hold_are_named() {
    let folder = fresh_folder("shapes");
    let store = store(&folder);
    let mut tensors = llama(1, 64);
    let odd = tensor(&mut tensors, "mlp.down_proj.weight");
    *odd = (odd.0.clone(), vec![64, 72], super::model::values(1, 64 * 72));
    let model = write(&folder.join("model"), &tensors);
    let name = "tensor model.layers.0.mlp.down_proj.weight: ";
    for (method, why) in [
        (&["--method", "rtn", "--group-size", "32"][..], "72 inputs in groups of 32"),
        (
            &["--method", "rtn", "--format", "gptq", "--group-size", "32"],
            "multiples of 32, not 64 x 72",
        ),
        (&["--method", "rtn", "--format", "awq", "--group-size", "32"], "whole groups of inputs"),
    ] {
        refused(&store, &model, method, &[name, why, "--skip"]);
        let more = [&["--skip", "*down_proj"][..], method].concat();
        let run = quantized(&store, text(&model), "q", &more);
        assert_eq!(run.number("tensors_computed"), 5);
    }
    // bitsandbytes takes any shape.
    quantized(&store, text(&model), "q", &["--preset", "bnb_nf4"]);
}

/// A zero point of 0 does not fit the format `gptq`, and would wrap into its neighbour.
#[test]
fn zero_points_that_a_format_cannot_hold_are_named() {
    let folder = fresh_folder("zero_points");
    let store = store(&folder);
    let mut tensors = llama(1, 64);
    let positive = tensor(&mut tensors, "q_proj.weight");
    positive.2.iter_mut().for_each(|value| *value = value.abs());
    let model = write(&folder.join("model"), &tensors);
    let method = ["--method", "rtn", "--format", "gptq", "--asymmetric", "--group-size", "32"];
    let name = "tensor model.layers.0.self_attn.q_proj.weight: row 0, group 0";
    let before = objects(&store);
    let run = quantize(&store, text(&model), "q", &method);
    assert_eq!(run.status, Some(1));
    assert!(run.error.contains(name) && run.error.contains("gptq_v2"), "{}", run.error);
    assert_eq!(objects(&store), before);
}

#[test]
fn models_that_are_not_whole_are_refused() {
    let folder = fresh_folder("not_whole");
    let store = store(&folder);
    let tensors = llama(1, 64);
    let (first, second) = tensors.split_at(4);
    let shards =
        [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)];
    let nf4 = ["--preset", "bnb_nf4"];
    let model = write_shards(&folder.join("model"), &shards);
    std::fs::remove_file(model.join(shards[1].0)).unwrap();
    refused(&store, &model, &nf4, &[shards[1].0, "is missing"]);

    let model = write_shards(&folder.join("twice"), &[shards[0], ("again.safetensors", first)]);
    refused(&store, &model, &nf4, &["tensor ", "model.", "again.safetensors"]);

    let model = write(&folder.join("no_config"), &tensors);
    std::fs::remove_file(model.join("config.json")).unwrap();
    refused(&store, &model, &nf4, &["config.json"]);
    std::fs::write(model.join("config.json"), "{").unwrap();
    refused(&store, &model, &nf4, &["config.json"]);
}

#[test]
fn unsupported_models_are_refused() {
    let folder = fresh_folder("unsupported");
    let store = store(&folder);
    let model = write(&folder.join("model"), &llama(1, 64));
    let config = |text: &str| std::fs::write(model.join("config.json"), text).unwrap();
    let nf4 = ["--preset", "bnb_nf4"];
    config(r#"{"model_type":"gpt2"}"#);
    refused(&store, &model, &nf4, &["gpt2", "Conv1D"]);
    config(r#"{"model_type":"llama","quantization_config":{"quant_method":"gptq"}}"#);
    refused(&store, &model, &nf4, &["config.json", "a GPTQ config without bits"]);
    config(CONFIG);
    let none = vec![("vae.encoder.weight".to_owned(), vec![8, 8], vec![0.5; 64])];
    let model = write(&folder.join("none"), &none);
    refused(&store, &model, &nf4, &["no linear layer", "llama"]);
}

#[test]
fn recipes_that_do_not_go_together_are_wrong_use() {
    let folder = fresh_folder("recipes");
    let model = write(&folder.join("model"), &llama(1, 64));
    let store = folder.join("store");
    for arguments in [
        &["--preset", "none"][..],
        &["--method", "nf4", "--bits", "3"],
        &["--method", "nf4", "--format", "gptq"],
        &["--method", "rtn", "--format", "gptq", "--bits", "5"],
        &["--method", "rtn", "--format", "awq", "--bits", "8"],
        &["--method", "rtn", "--group-size", "-2"],
        &["--method", "rtn", "--group-size", "0"],
        &["--method", "rtn", "--double-quant"],
        &["--preset", "bnb_nf4", "--skip", "[", "--quiet"],
        &[],
    ] {
        let run = quantize(&store, text(&model), "q", arguments);
        assert_eq!(run.status, Some(2), "{arguments:?}: {}", run.error);
        assert!(!store.exists(), "{arguments:?}");
    }
}

/// The system refuses to write beyond a size, as a full disk does.
#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let folder = fresh_folder("full_disk");
    let store = store(&folder);
    let model = write(&folder.join("model"), &llama(1, 256));
    pack(&store, &model, "source", &[]);
    let before = objects(&store);
    for (source, kib) in [(text(&model), 0), (text(&model), 100), ("source", 0), ("source", 100)] {
        let all = ["--json", "quantize", source, "--store", text(&store), "--name", "q"];
        let inner = command(&[&all[..], &["--preset", "bnb_int8"]].concat());
        let run = limited(&inner, kib);
        assert_eq!(run.status, Some(1), "{kib} KiB: {}", run.error);
        assert_eq!(objects(&store), before, "{kib} KiB");
        assert!(run.error.contains(text(&store)), "{}", run.error);
        assert_eq!(tenpak(&["load", "q", "--store", text(&store)]).status, Some(3));
        done(&["verify", "--store", text(&store)]);
    }
    quantized(&store, text(&model), "q", METHODS[2]);
}
