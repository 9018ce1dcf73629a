//! A LoRA adapter does what adding its product to the weights does, to those who ask for it and to nobody else.

use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use tenpak::engine::{Engine, EngineOptions, Generator, ModelOptions};

use super::library::runtime;
use super::run::{done, fresh_folder, text};
use super::world::*;

const RANK: usize = 3;
const ALPHA: f32 = 5.0;

type Named = (String, Vec<usize>, Vec<f32>);

fn write(tensors: &[Named], path: &Path) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// An adapter of the tiny Llama on two of its layers, and the model with it added.
fn make(adapter: &Path, merged: &Path) {
    let base = fixture("tiny/llama");
    let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut model: Vec<Named> = Vec::new();
    let mut halves: Vec<Named> = Vec::new();
    for (name, view) in file.iter() {
        let values = view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        let (mut values, shape): (Vec<f32>, _) = (values.collect(), view.shape().to_vec());
        if name.ends_with("1.self_attn.q_proj.weight") || name.ends_with("0.mlp.down_proj.weight") {
            let (rows, columns) = (shape[0], shape[1]);
            let own = |len: usize, seed: usize| -> Vec<f32> {
                (0..len).map(|at| ((at * 37 + seed * 11) % 19) as f32 / 40.0 - 0.2).collect()
            };
            let (a, b) = (own(RANK * columns, rows), own(rows * RANK, columns));
            for row in 0..rows {
                for column in 0..columns {
                    let more: f32 =
                        (0..RANK).map(|r| b[row * RANK + r] * a[r * columns + column]).sum();
                    values[row * columns + column] += ALPHA / RANK as f32 * more;
                }
            }
            let layer = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
            halves.push((format!("{layer}.lora_A.weight"), vec![RANK, columns], a));
            halves.push((format!("{layer}.lora_B.weight"), vec![rows, RANK], b));
        }
        model.push((name.to_owned(), shape, values));
    }
    write(&model, &merged.join("model.safetensors"));
    std::fs::copy(base.join("config.json"), merged.join("config.json")).unwrap();
    write(&halves, &adapter.join("adapter_model.safetensors"));
    let config = format!(r#"{{"peft_type": "LORA", "r": {RANK}, "lora_alpha": {ALPHA}}}"#);
    std::fs::write(adapter.join("adapter_config.json"), config).unwrap();
}

#[test]
fn an_adapter_is_applied_to_those_who_ask_for_it() {
    let store = packed("engine-adapters", &fixture("tiny/llama"));
    let (adapter, merged) = (fresh_folder("engine-lora"), fresh_folder("engine-merged"));
    make(&adapter, &merged);
    done(&["--store", text(&store), "pack", text(&adapter), "--name", "lora", "--json"]);
    done(&["--store", text(&store), "pack", text(&merged), "--name", "merged", "--json"]);
    let model = model(&store, "m", &ModelOptions::default()).unwrap();
    let lora = runtime().block_on(model.adapter(&artifact(text(&store), "lora"))).unwrap();
    let adapters = vec![("lora".to_owned(), Arc::new(lora))];
    let engine =
        Generator::start(model, adapters, String::new(), EngineOptions::default()).unwrap();
    let prompt: Vec<u32> = (0..30).map(|at| at * 7 % 48).collect();
    let mut asked = request(prompt.clone(), 6);
    asked.sampling.ignore_eos = true;
    asked.sampling.logprobs = 2;
    let mut with = asked.clone();
    with.adapter = Some("lora".to_owned());
    // Both in one batch, twice: prefixes are not mixed up.
    let events: Vec<_> = [&asked, &with, &asked, &with]
        .into_iter()
        .map(|asked| engine.submit(asked.clone()).unwrap())
        .collect();
    let got: Vec<_> = events.into_iter().map(tokens).collect();
    let alone =
        |name: &str| tokens(super::world::engine(&store, name).submit(asked.clone()).unwrap());
    let (plain, added) = (alone("m"), alone("merged"));
    assert_eq!(got[0], plain);
    assert_eq!(got[2], plain);
    assert_eq!(got[1], got[3]);
    assert_ne!(got[1], plain);
    for (own, other) in got[1].iter().zip(&added) {
        assert_eq!(own.own.token, other.own.token);
        assert!((own.own.logprob - other.own.logprob).abs() < 1e-4, "{own:?}, {other:?}");
    }
}

#[test]
fn what_is_no_adapter_of_the_model_is_refused() {
    let store = packed("engine-odd-adapters", &fixture("tiny/llama"));
    let (adapter, merged) = (fresh_folder("engine-odd-lora"), fresh_folder("engine-odd-merged"));
    make(&adapter, &merged);
    done(&["--store", text(&store), "pack", text(&adapter), "--name", "lora", "--json"]);
    let base = fixture("base");
    done(&["--store", text(&store), "pack", text(&base), "--name", "base", "--json"]);
    let other = model(&store, "base", &ModelOptions::default()).unwrap();
    let error = runtime().block_on(other.adapter(&artifact(text(&store), "lora"))).unwrap_err();
    assert!(error.to_string().contains("does not fit this model"), "{error}");
    let error = runtime().block_on(other.adapter(&artifact(text(&store), "base"))).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json is missing"), "{error}");
}
