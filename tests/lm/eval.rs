//! `tenpak eval ppl` beside transformers, on the trained model.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use tenpak::dequant::{Float, convert};

use super::run::{Run, fresh_folder, tenpak};
use super::{fixture, json};

/// Packs a folder into a store of its own.
fn packed(name: &str, model: &Path) -> String {
    let store = fresh_folder(name);
    let store = store.to_str().unwrap().to_owned();
    let run =
        tenpak(&["--store", &store, "pack", model.to_str().unwrap(), "--name", "m", "--json"]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    store
}

fn perplexity(store: &str, text: &Path, context: &str) -> Run {
    let text = text.to_str().unwrap();
    let arguments = ["eval", "ppl", "m", "--text", text, "--context", context, "--json"];
    tenpak(&[&["--store", store][..], &arguments].concat())
}

fn number(run: &Run) -> f64 {
    assert_eq!(run.status, Some(0), "{}", run.error);
    run.json["perplexity"].as_f64().unwrap()
}

#[test]
fn perplexity_is_that_of_transformers() {
    let expected = json("perplexity.json");
    let context = expected["context"].to_string();
    let both = &["test", "tuned-test"][..];
    for (model, texts) in [("base", both), ("tuned", both), ("moe", &["test"])] {
        let store = packed(&format!("ppl-{model}"), &fixture(model));
        for text in texts {
            let recorded = &expected[&format!("{model} on {text}")];
            let run = perplexity(&store, &fixture(&format!("{text}.txt")), &context);
            let (got, want) = (number(&run), recorded["perplexity"].as_f64().unwrap());
            assert!((got / want - 1.0).abs() < 1e-3, "{model} on {text}: {got} for {want}");
            assert_eq!(run.json["tokens"], recorded["tokens"]);
        }
    }
    let of = |name: &str| expected[name]["perplexity"].as_f64().unwrap();
    assert!(of("tuned on tuned-test") < of("base on tuned-test"), "the fine-tune taught nothing");
    assert!(of("base on test") < of("tuned on test"));
}

/// The trained model with its linear layers as LLM.int8() has them.
fn int8(folder: &Path) {
    let bytes = std::fs::read(fixture("base/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in file.iter() {
        let shape = view.shape().to_vec();
        if !name.contains("_proj.") {
            tensors.push((name.to_owned(), view.dtype(), shape, view.data().to_vec()));
            continue;
        }
        let values = convert(view.data(), Float::BF16, Float::F32);
        let values: Vec<f32> =
            values.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in values.chunks(shape[1]) {
            let most = row.iter().map(|value| value.abs()).fold(0.0, f32::max);
            codes.extend(row.iter().map(|v| (v * (127.0 / most)).round() as i8 as u8));
            scales.extend(most.to_le_bytes());
        }
        let scb = name.replace(".weight", ".SCB");
        tensors.push((name.to_owned(), Dtype::I8, shape.clone(), codes));
        tensors.push((scb, Dtype::F32, vec![shape[0]], scales));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    let mut config = json("base/config.json");
    config["quantization_config"] =
        serde_json::json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture("base/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
}

#[test]
fn a_quantized_checkpoint_is_dequantized() {
    let folder = fresh_folder("int8");
    int8(&folder);
    let store = packed("ppl-int8", &folder);
    let expected = json("perplexity.json");
    let run = perplexity(&store, &fixture("test.txt"), &expected["context"].to_string());
    let (got, plain) = (number(&run), expected["base on test"]["perplexity"].as_f64().unwrap());
    assert!((got / plain - 1.0).abs() < 5e-3 && got != plain, "{got}, and {plain} unquantized");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let store = packed("ppl-wrong", &fixture("base"));
    let folder = fresh_folder("texts");
    let text = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, context, status, said) in [
        (folder.join("none.txt"), "64", 2, "none.txt: No such file"),
        (text("empty.txt", b" \n"), "64", 2, "empty.txt: it is empty"),
        (text("latin.txt", b"caf\xe9"), "64", 2, "latin.txt: not UTF-8 at byte 3"),
        (text("short.txt", b"a"), "64", 1, "a text of 1 tokens"),
        (text("plain.txt", b"It is a truth"), "513", 1, "the model reads 2 to 512"),
        (text("plain.txt", b"It is a truth"), "1", 1, "sequences of 1 tokens"),
    ] {
        let run = perplexity(&store, &path, context);
        assert!(run.status == Some(status) && run.error.contains(said), "{run:?}");
    }
    let bert = packed("ppl-bert", &fixture("tiny/bert"));
    let run = perplexity(&bert, &folder.join("plain.txt"), "64");
    assert!(run.status == Some(1) && run.error.contains("tokenizer.json is missing"), "{run:?}");
    std::fs::remove_file(folder.join("plain.txt")).unwrap();
}
