//! `tenpak delta`, on the fixture's language model and its fine-tune, and on made ones.

use std::path::{Path, PathBuf};

use super::run::{Run, fresh_folder, objects, pack, tenpak, text};
use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(name)
}

fn delta(store: &Path, tuned: &str, base: &str, name: &str, more: &[&str]) -> Run {
    let all = ["delta", tuned, "--store", text(store), "--base", base, "--name", name];
    tenpak(&[&all[..], more].concat())
}

/// A run must have gone well.
#[track_caller]
fn went_well(run: &Run) {
    assert_eq!(run.status, Some(0), "{}", run.error);
}

/// A store with the fixture's model as `base`.
fn with_base(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    store
}

fn same_files(a: &Path, b: &Path) {
    let files = |dir: &Path| {
        let mut files: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        files
    };
    assert_eq!(files(a), files(b));
    for file in files(a) {
        let read = |dir: &Path| std::fs::read(dir.join(&file)).unwrap();
        assert!(read(a) == read(b), "{file:?} differs");
    }
}

fn unpacked(store: &Path, name: &str, out: &Path) {
    went_well(&tenpak(&["unpack", name, "--store", text(store), "--out", text(out)]));
}

fn perplexity(store: &Path, name: &str) -> f64 {
    let file = fixture("tuned-test.txt");
    let all =
        ["eval", "ppl", name, "--store", text(store), "--text", text(&file), "--context", "256"];
    let run = tenpak(&all);
    went_well(&run);
    run.json["perplexity"].as_f64().unwrap()
}

fn smaller(run: &Run) -> f64 {
    went_well(run);
    run.json["smaller"].as_f64().unwrap()
}

#[test]
fn a_lossless_delta_is_exact_and_says_what_it_is() {
    let folder = fresh_folder("lossless");
    let store = with_base(&folder);
    let tuned = fixture("tuned");
    let run = delta(&store, text(&tuned), "base", "tuned", &[]);
    assert!(smaller(&run) > 0.45, "{}", run.json);
    let lineage = &run.json["delta"];
    assert_eq!(lineage["delta_method"], "lossless");
    assert_eq!(lineage["base_model_id"], "base:latest");
    let layers: Vec<_> = lineage["changed_layers"].as_array().unwrap().iter().collect();
    assert!(layers.iter().any(|layer| *layer == "model.layers.1"), "{lineage}");
    let inspected = tenpak(&["inspect", "tuned", "--store", text(&store)]);
    assert_eq!(&inspected.json["delta"], lineage);
    for tensor in run.json["tensors"].as_array().unwrap() {
        assert_eq!((&tensor["max_error"], &tensor["relative_error"]), (&0.0.into(), &0.0.into()));
        assert!(tensor["changed"].as_f64().unwrap() > 0.0, "{tensor}");
    }
    let out = folder.join("out");
    unpacked(&store, "tuned", &out);
    same_files(&out, &tuned);

    // From an artifact the same files come, with a source.
    pack(&store, &tuned, "whole", &[]);
    let run = delta(&store, "whole", "base", "again", &[]);
    went_well(&run);
    let out = folder.join("again");
    unpacked(&store, "again", &out);
    same_files(&out, &tuned);
    let inspected = tenpak(&["inspect", "again", "--store", text(&store)]);
    assert!(inspected.json["source"]["manifest"].is_string(), "{}", inspected.json);
}

#[test]
fn lossy_deltas_are_small_and_near() {
    let folder = fresh_folder("lossy");
    let store = with_base(&folder);
    let tuned = fixture("tuned");
    pack(&store, &tuned, "tuned", &[]);
    let exact = perplexity(&store, "tuned");
    let mut sizes = Vec::new();
    for method in ["sparse_int8", "uniform"] {
        let run = delta(&store, text(&tuned), "base", method, &["--method", method]);
        let smaller = smaller(&run);
        assert!((0.6..0.9).contains(&smaller), "{method}: {smaller}");
        let cost = perplexity(&store, method) / exact - 1.0;
        assert!(cost < 0.005, "{method}: {:+.3}%", cost * 100.0);
        let tensors = run.json["tensors"].as_array().unwrap();
        let errors: Vec<f64> =
            tensors.iter().map(|of| of["relative_error"].as_f64().unwrap()).collect();
        assert!(errors.iter().all(|error| *error < 0.5), "{errors:?}");
        assert!(errors.iter().any(|error| *error > 0.05), "{errors:?}");
        // Where everything is looked at, nothing is left to guess.
        let estimated = tenpak(&[
            "delta",
            "estimate",
            text(&tuned),
            "--store",
            text(&store),
            "--base",
            "base",
            "--method",
            method,
        ]);
        went_well(&estimated);
        near(&estimated, &run, "new_bytes");
        near(&estimated, &run, "relative_error");
        let known = tenpak(&["verify", method, "--store", text(&store)]);
        went_well(&known);
        sizes.push(run.number("new_bytes"));
    }
    assert!(sizes[1] <= sizes[0], "the stronger method is no larger: {sizes:?}");
}

/// A number of an estimate that is not 0, within a tenth of the truth.
#[track_caller]
fn near(estimated: &Run, truth: &Run, field: &str) {
    let number = |run: &Run| run.json[field].as_f64().unwrap();
    let (estimated, truth) = (number(estimated), number(truth));
    assert!((estimated / truth - 1.0).abs() < 0.1, "{field}: {estimated} for {truth}");
}

/// A model of matrices, each with noise of its own strength over those of `seed` 0.
fn made(dir: &Path, matrices: usize, shape: [usize; 2], noise: f32) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let data: Vec<_> = (0..matrices)
        .map(|number| {
            let mut random = StdRng::seed_from_u64(number as u64);
            let mut other = StdRng::seed_from_u64(1000 + number as u64);
            let value = |_| {
                let weight = random.gen_range(-0.05_f32..0.05) + random.gen_range(-0.05_f32..0.05);
                let own = noise * (1.0 + number as f32 / 2.0);
                let drift = if noise > 0.0 { other.gen_range(-own..own) } else { 0.0 };
                bf16::from_f32(weight + drift).to_le_bytes()
            };
            (0..shape[0] * shape[1]).flat_map(value).collect::<Vec<u8>>()
        })
        .collect();
    let views = data.iter().enumerate().map(|(number, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.to_vec(), bytes).unwrap();
        (format!("layers.{number}.up_proj.weight"), view)
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    dir.to_owned()
}

#[test]
fn an_estimate_reads_little_and_is_near() {
    let folder = fresh_folder("estimate");
    let base = made(&folder.join("base"), 3, [2048, 1024], 0.0);
    let tuned = made(&folder.join("tuned"), 3, [2048, 1024], 0.003);
    let store = folder.join("store");
    pack(&store, &base, "base", &[]);
    for method in ["lossless", "sparse_int8", "uniform"] {
        let all = ["--store", text(&store), "--base", "base", "--method", method];
        let estimated = tenpak(&[&["delta", "estimate", text(&tuned)][..], &all].concat());
        went_well(&estimated);
        assert_eq!(estimated.number("sampled_bytes"), 3 << 19, "one piece of eight");
        let run = delta(&store, text(&tuned), "base", method, &["--method", method]);
        went_well(&run);
        near(&estimated, &run, "new_bytes");
        near(&estimated, &run, "changed");
        if method == "lossless" {
            let error = |run: &Run| run.json["relative_error"].clone();
            assert_eq!((error(&estimated), error(&run)), (0.0.into(), 0.0.into()));
        } else {
            near(&estimated, &run, "relative_error");
        }
    }
}

/// A delta must fail, say all of this, and leave the store as it was.
#[track_caller]
fn refused(store: &Path, tuned: &str, base: &str, more: &[&str], status: i32, says: &[&str]) {
    let before = objects(store);
    let run = delta(store, tuned, base, "refused", more);
    assert_eq!(run.status, Some(status), "{}", run.error);
    for text in says {
        assert!(run.error.contains(text), "{:?} does not say {text:?}", run.error);
    }
    assert_eq!(objects(store), before);
}

#[test]
fn what_cannot_be_a_delta_is_refused_by_name() {
    let folder = fresh_folder("refused");
    let store = folder.join("store");
    let base = made(&folder.join("base"), 2, [64, 32], 0.0);
    pack(&store, &base, "base", &[]);
    let wide = made(&folder.join("wide"), 2, [64, 33], 0.1);
    let name = "tensor layers.0.up_proj.weight";
    refused(&store, text(&wide), "base", &[], 1, &[name, "[64, 33]", "[64, 32]", "name the base"]);

    let bad = made(&folder.join("bad"), 2, [64, 32], 0.1);
    let file = bad.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&bf16::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    for method in ["sparse_int8", "uniform"] {
        let says = ["tensor layers.1.up_proj.weight: element 2047 is not finite", "lossless"];
        refused(&store, text(&bad), "base", &["--method", method], 1, &says);
    }
    // Of an artifact it is found while the result is packed.
    pack(&store, &bad, "bad", &[]);
    for method in ["sparse_int8", "uniform"] {
        let says = ["tensor layers.1.up_proj.weight: element 2047 is not finite", "lossless"];
        refused(&store, "bad", "base", &["--method", method], 1, &says);
    }
    // Without loss, it is none of the method's business.
    went_well(&delta(&store, text(&bad), "base", "nan", &[]));

    let foreign = folder.join("foreign");
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("readme"), "no tensors").unwrap();
    refused(&store, text(&foreign), "base", &[], 1, &["base:latest has no tensor of this model's"]);
    refused(&store, text(&bad), "nothing", &[], 3, &["nothing"]);
    refused(&store, text(&folder.join("nowhere")), "base", &[], 2, &["no folder"]);
    refused(&store, text(&bad), "base", &["--method", "magic"], 2, &["no method magic"]);
    for number in ["0", "-1", "nan", "1e9"] {
        let number = format!("--step={number}");
        refused(&store, text(&bad), "base", &["--method", "uniform", &number], 2, &["--step"]);
    }
    refused(&store, text(&bad), "base", &["--step", "1"], 2, &["--step with --method uniform"]);
}

#[test]
fn what_is_the_bases_costs_nothing_and_what_it_lacks_is_kept() {
    let folder = fresh_folder("shared");
    let store = folder.join("store");
    let base = made(&folder.join("base"), 3, [512, 512], 0.0);
    pack(&store, &base, "base", &[]);
    let same = delta(&store, text(&base), "base", "same", &["--method", "uniform"]);
    went_well(&same);
    assert_eq!((same.number("unchanged"), same.number("not_in_base")), (3, 0));
    assert!(same.number("new_bytes") < 20_000, "{}", same.json);
    let larger = made(&folder.join("larger"), 4, [512, 512], 0.0);
    let run = delta(&store, text(&larger), "base", "larger", &["--method", "uniform"]);
    went_well(&run);
    assert_eq!((run.number("unchanged"), run.number("not_in_base")), (3, 1));
    let out = folder.join("out");
    unpacked(&store, "larger", &out);
    same_files(&out, &larger);
}
