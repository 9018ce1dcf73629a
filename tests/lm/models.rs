//! One small model per architecture, its output beside that of transformers.

use std::path::Path;

use candle_core::Tensor;
use safetensors::SafeTensors;
use tenpak::quantize::lm::{Context, LmError, Model, NoTap, Tap};
use tenpak::quantize::source::ModelSource;

use super::{fixture, json, run::fresh_folder};

fn open(path: &Path) -> Result<Model, LmError> {
    Model::open(ModelSource::folder(path)?)
}

/// Logits, or the last hidden states of an encoder.
fn output(model: &Model, tokens: &[u32], tap: &mut dyn Tap) -> Result<Tensor, LmError> {
    let context = Context::new(model.config(), tokens.len())?;
    let mut state = model.embed(&[tokens])?.remove(0);
    for index in 0..model.config().layers {
        state = model.block(index)?.forward(&state, &context, tap)?;
    }
    if model.config().is_causal() { model.head()?.logits(&state) } else { Ok(state) }
}

#[test]
fn every_architecture_computes_what_transformers_does() {
    for name in ["llama", "mistral", "qwen2", "qwen3", "bert"] {
        let expected = json(&format!("tiny/{name}/expected.json"));
        let numbers = |key: &str| expected[key].as_array().unwrap().clone();
        let tokens: Vec<u32> =
            numbers("tokens").iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let model = open(&fixture(&format!("tiny/{name}"))).unwrap();
        let got = output(&model, &tokens, &mut NoTap).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(got.len(), tokens.len());
        let (mut worst, mut largest) = (0.0, 0.0);
        for (got, expected) in got.iter().zip(numbers("output")) {
            let expected = expected.as_array().unwrap();
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(expected) {
                let expected = expected.as_f64().unwrap();
                worst = f64::max(worst, (f64::from(*got) - expected).abs());
                largest = f64::max(largest, expected.abs());
            }
        }
        assert!(worst < 5e-4 && largest > 1.0, "{name}: {worst} apart, up to {largest}");
    }
}

/// Counts what each layer read.
#[derive(Default)]
struct Inputs(Vec<(String, usize, usize)>);

impl Tap for Inputs {
    fn input(&mut self, names: &[&str], input: &Tensor) -> Result<(), LmError> {
        let (tokens, columns) = input.dims2()?;
        self.0.extend(names.iter().map(|name| ((*name).to_owned(), tokens, columns)));
        Ok(())
    }
}

#[test]
fn a_tap_sees_the_input_of_every_linear_layer() {
    for (name, layers) in [("llama", 14), ("bert", 12)] {
        let model = open(&fixture(&format!("tiny/{name}"))).unwrap();
        let mut inputs = Inputs::default();
        output(&model, &[1, 2, 3, 4, 5], &mut inputs).unwrap();
        let mut expected = Vec::new();
        for index in 0..2 {
            let mut block = model.block(index).unwrap();
            for linear in block.linears() {
                expected.push((linear.name.clone(), 5, linear.columns()));
            }
            assert_eq!(block.linears().len(), block.linears_mut().len());
        }
        assert_eq!(inputs.0, expected);
        assert_eq!(expected.len(), layers);
    }
}

#[test]
fn a_weight_put_in_is_what_runs() {
    let model = open(&fixture("tiny/llama")).unwrap();
    let context = Context::new(model.config(), 3).unwrap();
    let state = model.embed(&[&[1, 2, 3]]).unwrap().remove(0);
    let mut block = model.block(0).unwrap();
    let run = |block: &tenpak::quantize::lm::Block| {
        block.forward(&state, &context, &mut NoTap).unwrap().to_vec2::<f32>().unwrap()
    };
    let before = run(&block);
    for linear in block.linears_mut() {
        linear.set(vec![0.0; linear.rows() * linear.columns()]).unwrap();
    }
    assert_ne!(run(&block), before);
    assert_eq!(run(&block), state.to_vec2::<f32>().unwrap(), "only the residual is left");
}

/// The small Llama with its configuration or its weights changed.
fn changed(
    name: &str,
    edit: impl Fn(&mut serde_json::Value),
    weights: impl Fn(&mut Vec<u8>),
) -> String {
    let folder = fresh_folder(name);
    let mut config = json("tiny/llama/config.json");
    edit(&mut config);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut bytes = std::fs::read(fixture("tiny/llama/model.safetensors")).unwrap();
    weights(&mut bytes);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let found = open(&folder).and_then(|model| output(&model, &[1, 2, 3], &mut NoTap));
    found.unwrap_err().to_string()
}

#[test]
fn what_cannot_be_run_is_named() {
    let same = |_: &mut Vec<u8>| {};
    let error = changed("kind", |config| config["model_type"] = "mamba".into(), same);
    assert!(error.contains("\"mamba\" is not supported"), "{error}");
    let error = changed("layers", |config| config["num_hidden_layers"] = 3.into(), same);
    assert!(error.contains("model.layers.2.") && error.contains("missing"), "{error}");
    let error = changed("width", |config| config["intermediate_size"] = 64.into(), same);
    assert!(error.contains("gate_proj.weight: its shape is [48, 32]"), "{error}");
    let error = changed("words", |config| config["vocab_size"] = 2.into(), same);
    assert!(error.contains("embed_tokens.weight"), "{error}");
    let error = changed(
        "rows",
        |_| {},
        |bytes| {
            let end = bytes.len();
            // The last tensor of the file: its norm, made NaN.
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        },
    );
    assert!(error.contains("holds NaN or Inf"), "{error}");
    let error = changed(
        "head",
        |_| {},
        |bytes| {
            let head = SafeTensors::deserialize(bytes).unwrap();
            let head = head.tensor("lm_head.weight").unwrap().data().as_ptr_range();
            let end = head.end as usize - bytes.as_ptr() as usize;
            bytes[end - 4..end].copy_from_slice(&f32::INFINITY.to_le_bytes());
        },
    );
    assert!(error.starts_with("tensor lm_head.weight: it holds NaN or Inf"), "{error}");
    let model = open(&fixture("tiny/llama")).unwrap();
    let error = output(&model, &[1, 48], &mut NoTap).unwrap_err().to_string();
    assert!(error.contains("token 48: the vocabulary has 48"), "{error}");
    let error = output(&model, &[1; 65], &mut NoTap).unwrap_err().to_string();
    assert!(error.contains("sequences of 65 tokens"), "{error}");
    let bert = open(&fixture("tiny/bert")).unwrap();
    assert!(bert.head().is_err());
}
