//! The order of GPTQ's columns, and what is said of the engines that load a result: what the table of the judge
//! `engines` says, in every place.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use tenpak::quantize::produce::engines::{Engine, Trial, trials};
use tenpak::quantize::produce::{ActOrder, Method, PRESETS, Recipe};

use super::calibrated::fixture;
use super::run::{command, done, fresh_folder, text};
use super::{quantize, quantized};

const FEW: [&str; 4] = ["--samples", "4", "--sample-length", "64"];

/// `g_idx` of a layer, and the configuration.
fn unpacked(store: &Path, name: &str, out: &Path) -> (Vec<i32>, Value) {
    done(&["unpack", name, "--store", text(store), "--out", text(out)]);
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let index = file.tensor("model.layers.0.mlp.down_proj.g_idx").unwrap();
    let index = index.data().as_chunks::<4>().0.iter().map(|own| i32::from_le_bytes(*own));
    let config = std::fs::read(out.join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    (index.collect(), config["quantization_config"].clone())
}

#[test]
fn orders_of_columns_differ_in_what_is_stored_and_said() {
    let folder = fresh_folder("orders");
    let store = folder.join("store");
    let base = fixture("base");
    let neighbours: Vec<i32> = (0..512).map(|column| column / 128).collect();
    let mut recipes = BTreeSet::new();
    for (name, more, desc_act, order) in [
        ("default", &["--preset", "gptq_quality"][..], false, json!("static")),
        ("group", &["--method", "gptq", "--act-order", "group"], true, json!(null)),
        ("none", &["--method", "gptq", "--act-order", "none"], false, json!("stored")),
    ] {
        let run = quantized(&store, text(&base), name, &[&FEW, more].concat());
        // Nothing of another order is taken over.
        assert_eq!(run.number("tensors_computed"), 21, "{name}");
        let said = &run.json["quantization"];
        assert_eq!(
            (&said["act_order"], &said["column_order"]),
            (&json!(desc_act), &order),
            "{name}"
        );
        recipes.insert(said["recipe"].as_str().unwrap().to_owned());
        let (index, config) = unpacked(&store, name, &folder.join(name));
        assert_eq!(config["desc_act"], json!(desc_act), "{name}");
        assert_eq!(index == neighbours, !desc_act, "{name}");
    }
    assert_eq!(recipes.len(), 3);
    let named = ["--method", "gptq", "--act-order", "static"];
    let run = quantized(&store, text(&base), "named", &[&FEW[..], &named].concat());
    assert_eq!(run.number("tensors_linked"), 21, "static is the default");
}

#[test]
fn orders_that_cannot_be_stored_are_refused() {
    let folder = fresh_folder("no_order");
    let store = folder.join("store");
    let base = fixture("base");
    for (more, says) in [
        (&["--method", "rtn", "--act-order", "static"][..], "only gptq orders columns"),
        (
            &["--method", "gptq", "--format", "compressed-tensors", "--act-order", "group"],
            "take --act-order static",
        ),
        (&["--method", "gptq", "--act-order", "weight"], "static, group, none"),
    ] {
        let run = quantize(&store, text(&base), "q", more);
        assert_eq!(run.status, Some(2), "{}", run.error);
        assert!(run.error.contains(says), "{:?} does not say {says:?}", run.error);
        assert!(!store.exists(), "nothing was begun");
    }
}

/// What is tried of an engine, by what made it.
fn by_recipe(engine: Engine) -> Vec<(&'static str, Vec<&'static Trial>)> {
    let own: Vec<&Trial> = trials().iter().filter(|trial| trial.engine == engine).collect();
    let made: BTreeSet<&str> = own.iter().map(|trial| trial.made_by.as_str()).collect();
    let of = |made: &str| own.iter().copied().filter(|trial| trial.made_by == made).collect();
    made.into_iter().map(|made| (made, of(made))).collect()
}

/// The model is not there: whatever is refused is refused before it is looked for.
#[test]
fn an_engine_that_does_not_load_a_result_is_refused_before_any_work() {
    let folder = fresh_folder("refused_engine");
    let store = folder.join("store");
    let mut refused = 0;
    for engine in Engine::ALL {
        for (made, trials) in by_recipe(*engine) {
            let arguments: Vec<&str> = made.split(' ').collect();
            let more = [&arguments[..], &["--for", engine.name()]].concat();
            let run = quantize(&store, "org/none", "q", &more);
            let no_kernel = trials.iter().any(|trial| trial.no_kernel);
            if no_kernel || trials.iter().any(|trial| trial.loads) {
                assert_ne!(run.status, Some(2), "{engine:?} {made}: {}", run.error);
                assert!(run.error.contains("org/none"), "{}", run.error);
                continue;
            }
            refused += 1;
            let said = trials[0].said.as_deref().unwrap();
            assert_eq!(run.status, Some(2), "{engine:?} {made}: {}", run.error);
            assert!(
                run.error.contains(said) && run.error.contains(engine.title()),
                "{}",
                run.error
            );
            assert!(
                run.error.contains("; it loads ") || run.error.contains("; take "),
                "{}",
                run.error
            );
        }
    }
    assert!(refused > 0 && !store.exists());
    let group = ["--method", "gptq", "--act-order", "group", "--for", "vllm"];
    let run = quantize(&store, "org/none", "q", &group);
    assert!(
        run.status == Some(2) && run.error.contains("take --act-order static"),
        "{}",
        run.error
    );
    // Neither tried nor of a format that the engine refuses: it is told, and goes on.
    let odd = ["--method", "gptq", "--group-size", "96", "--for", "vllm"];
    let run = quantize(&store, "org/none", "q", &odd);
    assert!(run.status != Some(2) && run.error.contains("nobody tried"), "{}", run.error);
    let run = quantize(&store, "org/none", "q", &["--method", "nf4", "--for", "tgi"]);
    assert!(run.status == Some(2) && run.error.contains("vllm, sglang"), "{}", run.error);
}

#[test]
fn a_result_names_the_engines_that_load_it_and_what_they_need() {
    let folder = fresh_folder("engines_named");
    let store = folder.join("store");
    let base = fixture("base");
    let run = quantized(&store, text(&base), "nf4", &["--preset", "bnb_nf4"]);
    let recipe = PRESETS.iter().find(|preset| preset.name == "bnb_nf4").unwrap().recipe();
    assert_eq!(run.json["engines"], serde_json::to_value(recipe.trials()).unwrap());
    assert_eq!(run.json["layout"], "bitsandbytes nf4");
    let all =
        ["quantize", text(&base), "--store", text(&store), "--name", "nf4", "--preset", "bnb_nf4"];
    let run = command(&all).output().unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(
        said.contains("\nloads in vLLM ") && said.contains("(needs vllm-bnb-plugin "),
        "{said}"
    );
    let run = quantized(&store, text(&base), "odd", &["--method", "rtn", "--bits", "5"]);
    assert_eq!(run.json["engines"], json!([]));
}

#[test]
fn presets_are_listed_with_the_engines_of_the_table() {
    let run = done(&["quantize", "--list-presets"]);
    let listed = run.json["presets"].as_array().unwrap();
    assert_eq!(listed.len(), PRESETS.len());
    for (listed, preset) in listed.iter().zip(PRESETS) {
        let trials = serde_json::to_value(preset.recipe().trials()).unwrap();
        assert_eq!(listed["engines"], trials, "{}", preset.name);
        // All GPTQ and AWQ presets that vLLM has bits for load there.
        let vllm = preset.recipe().check_engine(Engine::Vllm);
        assert_eq!(vllm.is_err(), preset.name == "gptq_aggressive", "{}: {vllm:?}", preset.name);
    }
    let recipe: Recipe = Method::Gptq.recipe();
    assert_eq!(recipe.act_order, Some(ActOrder::Static));
}
