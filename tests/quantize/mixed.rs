//! A budget of bits on average: every layer has as many as it needs, by statistics that are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::run::{Run, done, fresh_folder, objects, pack, text};
use super::{quantize, quantized};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(name)
}

/// Little text: enough to tell layers apart.
const LITTLE: [&str; 4] = ["--samples", "8", "--sample-length", "128"];

fn mixed(store: &Path, name: &str, average: &str, more: &[&str]) -> Run {
    let all = ["--method", "rtn", "--group-size", "64", "--average-bits", average];
    quantized(store, "base", name, &[&LITTLE[..], &all, more].concat())
}

fn perplexity(store: &Path, name: &str) -> f64 {
    let file = fixture("test.txt");
    let all =
        ["eval", "ppl", name, "--store", text(store), "--text", text(&file), "--context", "256"];
    done(&all).json["perplexity"].as_f64().expect("a number")
}

fn bits(run: &Run) -> BTreeMap<String, u64> {
    let bits = run.json["bits"].as_object().expect("bits by layer").iter();
    bits.map(|(layer, bits)| (layer.clone(), bits.as_u64().expect("bits"))).collect()
}

fn config(store: &Path, name: &str, out: &Path) -> Value {
    done(&["unpack", name, "--store", text(store), "--out", text(out)]);
    let config = std::fs::read(out.join("config.json")).unwrap();
    serde_json::from_slice::<Value>(&config).unwrap()["quantization_config"].clone()
}

#[test]
fn bits_go_where_they_help_and_the_budget_is_kept() {
    let folder = fresh_folder("mixed");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let run = mixed(&store, "mixed", "4", &["--statistics", "base-statistics"]);
    let average = run.json["average_bits"].as_f64().unwrap();
    assert!(average <= 4.0 && average > 3.9, "{average}");
    assert_eq!(run.json["quantization"]["average_bits"], "4.00");
    let own = bits(&run);
    assert_eq!(own.len(), 21);
    for block in 0..3 {
        let of = |name: &str| own[&format!("model.layers.{block}.{name}")];
        assert_eq!(of("self_attn.q_proj"), of("self_attn.k_proj"), "fused");
        assert_eq!(of("self_attn.q_proj"), of("self_attn.v_proj"), "fused");
        assert_eq!(of("mlp.gate_proj"), of("mlp.up_proj"), "fused");
    }
    let numbers: std::collections::BTreeSet<u64> = own.values().copied().collect();
    assert!(numbers.len() > 1, "{numbers:?}");
    // Every layer is in the group of its bits.
    let said = config(&store, "mixed", &folder.join("out"));
    for group in said["config_groups"].as_object().unwrap().values() {
        for target in group["targets"].as_array().unwrap() {
            let layer = target.as_str().unwrap();
            assert_eq!(group["weights"]["num_bits"], own[layer], "{layer}");
        }
    }
    let uniform = ["--method", "rtn", "--group-size", "64", "--bits", "4"];
    quantized(&store, "base", "uniform", &uniform);
    let (mixed_at, uniform_at) = (perplexity(&store, "mixed"), perplexity(&store, "uniform"));
    assert!(mixed_at < uniform_at, "{mixed_at} at {average} bits, {uniform_at} at 4");
}

#[test]
fn statistics_are_kept_and_found_again() {
    let folder = fresh_folder("statistics");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let kept = ["--statistics", "base-statistics"];
    let first = mixed(&store, "q", "4.5", &kept);
    assert_eq!(first.json["statistics"]["reused"], false);
    let id = first.json["statistics"]["manifest"].clone();
    let shown = done(&["inspect", "base-statistics", "--store", text(&store)]);
    assert!(shown.json["source"]["manifest"].is_string(), "{}", shown.json);
    let loaded = done(&["load", "base-statistics", "--store", text(&store)]);
    assert_eq!(loaded.number("tensors"), 63);
    let before = objects(&store);
    // Another budget, and the same statistics; also from the folder that the model was packed from.
    let again = mixed(&store, "q", "4.5", &kept);
    assert_eq!(
        (&again.json["statistics"]["reused"], &again.json["statistics"]["manifest"]),
        (&true.into(), &id)
    );
    assert_eq!(again.json["manifest"], first.json["manifest"]);
    // Each publish leaves the nodes of the index that it replaced.
    let count =
        |all: BTreeMap<String, _>| all.keys().filter(|path| !path.starts_with("names/")).count();
    assert_eq!(count(objects(&store)), count(before));
    let folder_of = fixture("base");
    let all = ["--method", "rtn", "--group-size", "64", "--average-bits", "3.25"];
    let all = [&LITTLE[..], &all, &kept].concat();
    let other = quantized(&store, text(&folder_of), "other", &all);
    assert_eq!(other.json["statistics"]["reused"], true);
    assert!(other.json["average_bits"].as_f64().unwrap() <= 3.25);
    // Other tokens are other statistics.
    let other = mixed(&store, "q:other", "4.5", &[&kept[..], &["--seed", "7"]].concat());
    assert_eq!(other.json["statistics"]["reused"], false);
    assert_ne!(other.json["statistics"]["manifest"], id);
}

/// Engines read GPTQ's exceptions from `dynamic`; the bits decide what a later layer is fed.
#[test]
fn gptq_has_layers_of_other_bits() {
    let folder = fresh_folder("mixed_gptq");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let all = ["--method", "gptq", "--group-size", "64", "--average-bits"];
    let run = |average: &str| {
        let all = [&LITTLE[..], &all, &[average]].concat();
        quantized(&store, "base", "q", &all)
    };
    let first = run("3.5");
    let own = bits(&first);
    let said = config(&store, "q", &folder.join("out"));
    assert_eq!(said["bits"], 3);
    for (layer, bits) in &own {
        let rule = format!("+:^{}$", layer.replace('.', "\\."));
        let expected = (*bits != 3).then(|| (*bits).into());
        assert_eq!(said["dynamic"].get(&rule).map(|own| own["bits"].clone()), expected, "{layer}");
    }
    assert!(perplexity(&store, "q").is_finite());
    let other = run("3");
    assert_ne!(bits(&other), own);
    assert_eq!(other.number("tensors_linked"), 0, "other bits are another recipe");
    assert_eq!(run("3.5").number("tensors_computed"), 0);
}

#[test]
fn budgets_that_cannot_be_kept_are_wrong_use() {
    let folder = fresh_folder("mixed_wrong");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let before = objects(&store);
    for (more, says) in [
        (&["--preset", "bnb_nf4", "--average-bits", "4"][..], "all the same bits"),
        (&["--method", "rtn", "--average-bits", "1.5"], "give 2 to 8"),
        (&["--method", "rtn", "--average-bits", "9"], "give 2 to 8"),
        (&["--method", "rtn", "--average-bits", "nan"], "give 2 to 8"),
        (&["--method", "rtn", "--average-bits", "4", "--bits", "4"], "--bits"),
        (
            &["--method", "rtn", "--average-bits", "4", "--statistics", "@123456"],
            "a name, not an id",
        ),
    ] {
        let run = quantize(&store, "base", "q", more);
        assert_eq!(run.status, Some(2), "{more:?}: {}", run.error);
        assert!(run.error.contains(says), "{:?} does not say {says:?}", run.error);
        assert_eq!(objects(&store), before, "{more:?}");
    }
}
