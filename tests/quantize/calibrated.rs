//! Methods that look at what the layers are fed, on the fixture's language model.

use std::path::{Path, PathBuf};

use super::run::{Run, done, fresh_folder, objects, pack, text};
use super::{quantize, quantized};

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(name)
}

/// Little text: enough to tell a solver from rounding.
const LITTLE: [&str; 4] = ["--samples", "16", "--sample-length", "128"];

fn from_little(store: &Path, source: &str, name: &str, more: &[&str]) -> Run {
    quantized(store, source, name, &[&LITTLE, more].concat())
}

pub(super) fn perplexity(store: &Path, name: &str) -> f64 {
    let file = fixture("test.txt");
    let all =
        ["eval", "ppl", name, "--store", text(store), "--text", text(&file), "--context", "256"];
    done(&all).json["perplexity"].as_f64().expect("a number")
}

#[test]
fn calibrated_methods_lose_less_than_rounding_and_are_found_again() {
    let folder = fresh_folder("calibrated");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let exact = perplexity(&store, "base");
    let group = ["--group-size", "64"];
    let three = |method, format| {
        [&["--method", method, "--format", format, "--bits", "3"][..], &group].concat()
    };
    let rounded = from_little(&store, "base", "rtn", &three("rtn", "gptq"));
    assert_eq!(rounded.json["calibrated"], serde_json::json!([]));
    let rounding = perplexity(&store, "rtn") / exact;
    for (name, arguments) in [
        ("gptq", three("gptq", "gptq")),
        ("hqq", three("hqq", "compressed-tensors")),
        ("awq", [&["--method", "awq"][..], &group].concat()),
    ] {
        let first = from_little(&store, "base", name, &arguments);
        let layers = first.number("tensors_computed");
        assert_eq!((layers, first.number("tensors_linked")), (21, 0), "{name}");
        let cost = perplexity(&store, name) / exact;
        assert!(cost < rounding, "{name}: {cost} against {rounding}");
        let calibrated = first.json["calibrated"].as_array().expect("a list");
        let told = if name == "hqq" { 0 } else { 21 };
        assert_eq!(calibrated.len(), told, "{name}");
        assert!(calibrated.iter().all(|own| own["error"].as_f64().is_some_and(|e| e < 0.5)));
        let again = from_little(&store, "base", &format!("{name}:again"), &arguments);
        assert_eq!((again.number("tensors_computed"), again.number("tensors_linked")), (0, 21));
        assert_eq!(again.json["calibrated"], serde_json::json!([]), "{name}: the model is not run");
        assert_eq!(again.number("new_bytes"), 0, "{name}");
        assert_eq!(again.json["manifest"], first.json["manifest"]);
    }
    // Other tokens are other statistics.
    let other = [&three("gptq", "gptq")[..], &["--seed", "5"]].concat();
    assert_eq!(from_little(&store, "base", "gptq:seed", &other).number("tensors_linked"), 0);
    // From a folder, the same weights come.
    let here =
        from_little(&folder.join("other"), text(&fixture("base")), "gptq", &three("gptq", "gptq"));
    let digests = |store: &Path| {
        let run = done(&["load", "gptq", "--store", text(store), "--digest"]);
        run.json["digests"].clone()
    };
    assert_eq!(here.number("tensors_computed"), 21);
    assert_eq!(digests(&folder.join("other")), digests(&store));
}

#[test]
fn what_cannot_be_calibrated_is_refused_and_the_store_untouched() {
    let folder = fresh_folder("uncalibrated");
    let store = folder.join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let before = objects(&store);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("a file");
        folder.join(name)
    };
    let bert = folder.join("other-kind");
    std::fs::create_dir_all(&bert).expect("a folder");
    for file in std::fs::read_dir(fixture("base")).expect("a folder") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, bert.join(file.file_name().expect("a name"))).expect("a copy");
    }
    let config = std::fs::read_to_string(bert.join("config.json")).expect("a file");
    let config =
        config.replace("LlamaForCausalLM", "MambaForCausalLM").replace("\"llama\"", "\"mamba\"");
    std::fs::write(bert.join("config.json"), config).expect("a file");
    let base = "base".to_owned();
    for (source, calibration, says) in [
        (&base, write("empty", b" \n"), "it is empty"),
        (&base, write("binary", &[0xff, 0xfe, 0x80, 0x41]), "UTF-8"),
        (&base, write("short", b"Three words only."), "64 at least are needed"),
        (&base, folder.join("missing"), "missing"),
        (&text(&bert).to_owned(), fixture("calibration.txt"), "amba"),
    ] {
        let more = ["--preset", "gptq_quality", "--calibration", text(&calibration)];
        let run = quantize(&store, source, "q", &more);
        assert_eq!(run.status, Some(1), "{}", run.error);
        assert!(run.error.contains(says), "{:?} does not say {says:?}", run.error);
        assert_eq!(objects(&store), before);
    }
}
