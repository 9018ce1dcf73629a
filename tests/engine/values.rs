//! What the engine says of texts is what the weights say.

use tenpak::engine::{Embedder, Engine, EngineOptions, ModelOptions};
use tenpak::quantize::source::ModelSource;

use super::library::runtime;
use super::run::{done, fresh_folder, text};
use super::world::*;

/// The largest difference of two lists.
fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn probabilities_are_those_of_the_reference_in_every_family() {
    let prompts = |vocabulary: u32| -> Vec<u32> {
        (0..60_u32).map(|at| (at * at * 31 + at * 7 + 3) % vocabulary).collect()
    };
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        let store = packed(&format!("engine-{family}"), &fixture(&format!("tiny/{family}")));
        let engine = engine(&store, "m");
        let info = engine.info();
        let mut prompt = prompts(info.vocabulary as u32);
        prompt.truncate(info.max_context.min(60));
        let (ours, theirs) = (scored(&*engine, &prompt), expected(&store, "m", &prompt));
        let off = off(&ours, &theirs);
        assert!(off < 1e-4, "{family}: off by {off}");
    }
}

#[test]
fn every_quantization_is_run_as_it_is_stored() {
    let store = fresh_folder("engine-quantized");
    let base = fixture("base");
    done(&["--store", text(&store), "pack", text(&base), "--name", "m", "--json"]);
    let prompt = test_tokens("base", 20);
    let recipes: [&[&str]; 14] = [
        &["--method", "nf4"],
        &["--preset", "nf4_double"],
        &["--method", "int8", "--format", "bitsandbytes"],
        &["--method", "rtn", "--bits", "4", "--group-size", "128", "--format", "gptq"],
        &["--method", "rtn", "--bits", "2", "--group-size", "32", "--format", "gptq"],
        &["--method", "rtn", "--bits", "3", "--group-size", "64", "--format", "gptq"],
        &["--method", "rtn", "--bits", "8", "--group-size", "-1", "--format", "gptq"],
        &["--method", "gptq", "--act-order", "group"],
        &["--method", "rtn", "--bits", "4", "--group-size", "64", "--format", "awq"],
        &[
            "--method",
            "rtn",
            "--bits",
            "4",
            "--group-size",
            "128",
            "--format",
            "compressed-tensors",
        ],
        &["--method", "fp8"],
        &["--method", "q4_0"],
        &["--method", "q8_0"],
        &["--method", "q4_k"],
    ];
    let plain = expected(&store, "m", &prompt);
    for (at, recipe) in recipes.iter().enumerate() {
        let name = format!("q{at}");
        let arguments =
            [&["--store", text(&store), "quantize", "m", "--name", &name, "--json"], *recipe];
        done(&arguments.concat());
        let model = model(&store, &name, &ModelOptions::default()).unwrap();
        let engine = engine_of(model, EngineOptions::default());
        let (ours, theirs) = (scored(&*engine, &prompt), expected(&store, &name, &prompt));
        let far = off(&ours, &theirs);
        assert!(far < 1e-3, "{recipe:?}: off by {far}");
        assert!(off(&theirs, &plain) > far, "{recipe:?}: nothing was quantized");
    }
}

#[test]
fn layers_that_do_not_fit_into_memory_pass_through() {
    let store = packed("engine-memory", &fixture("base"));
    let prompt = test_tokens("base", 9);
    let whole = engine(&store, "m");
    // The embedding takes 1 MiB, a layer 1.1 MiB.
    assert!(model(&store, "m", &within(1 << 20)).is_err());
    let options = within(4 << 20);
    let small = model(&store, "m", &options).unwrap();
    assert!(small.is_streamed());
    let small = engine_of(small, EngineOptions::default());
    let of = |engine: &dyn Engine| tokens(engine.submit(request(prompt.clone(), 4)).unwrap());
    assert_eq!(of(&*whole), of(&*small));
}

#[test]
fn embeddings_are_the_normalized_mean() {
    let store = packed("engine-bert", &fixture("tiny/bert"));
    let source = ModelSource::artifact(artifact(text(&store), "m"), runtime().handle()).unwrap();
    let engine = Embedder::open(source, String::new()).unwrap();
    let found = engine.embed(&[vec![1, 2, 3, 4], vec![5]]).unwrap();
    for own in &found {
        let length: f32 = own.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert_ne!(found[0], found[1]);
    assert_eq!(found[0], engine.embed(&[vec![1, 2, 3, 4]]).unwrap()[0]);
    assert!(engine.embed(&[Vec::new()]).is_err());
    assert!(engine.embed(&[vec![1; 100_000]]).is_err());
}
