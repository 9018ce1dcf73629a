//! How each engine is started, and that it gets every file of the model from the edge.

use std::path::Path;

use serde_json::{Value, json};

use super::run::{done, text};
use super::world::{World, digests, is_empty};

/// The arguments that a stand-in was given, in a line; the port and the commit by their names.
fn line(noted: &Value, commit: &str) -> String {
    let words = noted["arguments"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let words: Vec<&str> = words.collect();
    let at = words.iter().position(|word| *word == "--port").unwrap();
    let mut words: Vec<String> =
        words.into_iter().map(|word| word.replace(commit, "COMMIT")).collect();
    words[at + 1] = "PORT".to_owned();
    words.join(" ")
}

/// Starts an engine, and ends it by SIGTERM; gives what it has noted.
fn started(world: &World, told: Value, arguments: &[&str]) -> (Value, Value) {
    let served = world.serve(told, arguments);
    let ready = served.ready.clone();
    assert_eq!(served.ask("/health"), "HTTP/1.0 200 OK");
    served.signal("TERM");
    let (status, said) = served.end();
    assert_eq!(status, Some(0), "{said}");
    let noted = world.noted();
    assert_eq!(noted["signal"], 15, "it got the signal");
    assert!(is_empty(&world.temporary()), "its folder went with it");
    let prefix = format!("{}: ", ready["engine"].as_str().unwrap());
    assert!(said.lines().any(|own| own == format!("{prefix}loading")), "{said}");
    assert!(said.lines().any(|own| own == format!("{prefix}stopping")), "{said}");
    assert!(said.lines().all(|own| own.len() < 20_000), "lines are bounded");
    (ready, noted)
}

/// What reaches every engine that asks the Hub.
fn hub_environment(world: &World, noted: &Value) {
    let environment = noted["environment"].as_object().unwrap();
    let value = |name: &str| environment.get(name).and_then(Value::as_str);
    assert!(value("HF_ENDPOINT").unwrap().starts_with("http://127.0.0.1:"));
    assert!(Path::new(value("HF_HOME").unwrap()).starts_with(world.temporary()));
    assert_ne!(value("HF_TOKEN"), Some("the user's own"));
    assert_eq!((value("HF_HUB_CACHE"), value("HF_HUB_OFFLINE")), (None, None));
    assert_eq!(noted["files"], world.files());
}

#[test]
fn vllm_is_fed_from_the_edge() {
    let world = World::new("vllm");
    let commit = world.commit("org/m");
    let (ready, noted) = started(&world, json!({}), &["org/m", "--engine", "vllm"]);
    assert_eq!(
        line(&noted, &commit),
        "serve org/m --revision COMMIT --tokenizer-revision COMMIT --host 127.0.0.1 --port PORT \
         --served-model-name org/m"
    );
    hub_environment(&world, &noted);
    for (field, is) in [
        ("engine", json!("vllm")),
        ("version", json!("0.32.0+cpu")),
        ("model", json!("org/m")),
        ("quantization", json!("none")),
    ] {
        assert_eq!(ready[field], is, "{ready}");
    }
    assert!(ready["ready_seconds"].as_f64().unwrap() > 0.0);
    // All flags, another tag, by the Hub's own client.
    done(&["tag", "org/m", "org/m:v1", "--store", text(&world.store)]);
    let flags = [
        "org/m:v1",
        "--engine",
        "vllm",
        "--tensor-parallel",
        "2",
        "--max-context",
        "256",
        "--max-concurrent",
        "4",
        "--dtype",
        "bf16",
        "--api-key",
        "s3cret",
        "--served-name",
        "a",
        "--served-name",
        "b",
        "--keep-cache",
        "kept",
        "--",
        "--enforce-eager",
    ];
    let served = world.serve(json!({"hub": true}), &flags);
    served.signal("INT");
    assert_eq!(served.end().0, Some(0));
    let noted = world.noted();
    assert_eq!(noted["signal"], 2);
    assert_eq!(
        line(&noted, &commit),
        "serve org/m --revision COMMIT --tokenizer-revision COMMIT --host 127.0.0.1 --port PORT --served-model-name a b \
         --tensor-parallel-size 2 --max-model-len 256 --max-num-seqs 4 --dtype bfloat16 --enforce-eager"
    );
    assert_eq!(noted["environment"]["VLLM_API_KEY"], "s3cret");
    assert_eq!(noted["files"], world.files());
    let kept = world.folder.join("kept");
    let names: Vec<_> =
        std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["chunks"], "verified chunks stay, and what the engine kept goes");
}

#[test]
fn sglang_is_fed_from_the_edge() {
    let world = World::new("sglang");
    let commit = world.commit("org/m");
    let arguments = ["org/m", "--engine", "sglang", "--max-context", "256", "--api-key", "s3cret"];
    let (ready, noted) = started(&world, json!({"hub": true}), &arguments);
    assert_eq!(
        line(&noted, &commit),
        "serve --model-path org/m --revision COMMIT --host 127.0.0.1 --port PORT --served-model-name org/m \
         --context-length 256 --api-key s3cret"
    );
    assert_eq!(ready["version"], "sglang version: 0.5.23");
    hub_environment(&world, &noted);
}

/// TGI is archived and cannot be installed: that its command is right is all that is checked.
#[test]
fn the_contract_of_tgi_is_kept() {
    let world = World::new("tgi");
    let commit = world.commit("org/m");
    let arguments = [
        "org/m",
        "--engine",
        "tgi",
        "--max-context",
        "256",
        "--api-key",
        "s3cret",
        "--dtype",
        "f16",
    ];
    let (_, noted) = started(&world, json!({"hub": true}), &arguments);
    assert_eq!(
        line(&noted, &commit),
        "--model-id org/m --revision COMMIT --hostname 127.0.0.1 --port PORT --max-total-tokens 256 --max-input-tokens \
         255 --dtype float16 --usage-stats off"
    );
    assert_eq!(noted["environment"]["API_KEY"], "s3cret");
    hub_environment(&world, &noted);
}

#[test]
fn llama_cpp_gets_a_file() {
    let world = World::new("llama");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    let store = ["--store", text(&world.store)];
    done(&[&store[..], &["quantize", text(&base), "--name", "org/g", "--method", "q8_0"]].concat());
    let out = world.folder.join("out");
    done(&[&store[..], &["unpack", "org/g", "--out", text(&out)]].concat());
    let all = digests(&out);
    for round in 0..2 {
        let arguments =
            ["org/g", "--engine", "llama.cpp", "--max-context", "64", "--max-concurrent", "2"];
        let (ready, noted) = started(&world, json!({}), &arguments);
        assert_eq!(ready["quantization"], "gguf q8_0");
        let words = line(&noted, "COMMIT");
        let file = noted["arguments"][1].as_str().unwrap().to_owned();
        let id = ready["manifest"].as_str().unwrap();
        assert!(
            file.starts_with(text(&world.folder.join("cache/tenpak/files"))) && file.contains(id),
            "{file}"
        );
        assert_eq!(
            words.replace(&file, "FILE"),
            "--model FILE --host 127.0.0.1 --port PORT --alias org/g --ctx-size 128 --parallel 2"
        );
        let (name, digest) = noted["files"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(&all[name], digest);
        assert!(noted["environment"].get("HF_ENDPOINT").is_none());
        if round == 0 {
            // What is damaged in the cache is written again.
            let mut bytes = std::fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
    }
}

#[test]
fn a_python_runs_the_engines_module() {
    let world = World::new("python");
    let stand_in = world.bin.join("vllm");
    let python = |versions: &str| {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{versions}'; exit; fi\necho \"$1 $2\" >{}\nshift 2\nexec {} \"$@\"\n",
            text(&world.folder.join("module")),
            text(&stand_in)
        );
        world.script("own-python", &script)
    };
    let path = python(r#"{"vllm": "0.33.0"}"#);
    let (ready, _) =
        started(&world, json!({}), &["org/m", "--engine", "vllm", "--python", text(&path)]);
    assert_eq!(ready["version"], "0.33.0");
    let module = std::fs::read_to_string(world.folder.join("module")).unwrap();
    assert_eq!(module, "-m vllm.entrypoints.cli.main\n");
    for (versions, says) in [
        (r#"{"vllm": null}"#, "vLLM is not installed"),
        (r#"{"vllm": "0.4.1"}"#, "too old"),
        ("nonsense", "no Python"),
    ] {
        let path = python(versions);
        let run = world.run(json!({}), &["org/m", "--engine", "vllm", "--python", text(&path)]);
        assert_eq!(run.status, Some(1), "{}", run.error);
        assert!(run.error.contains(says), "{}", run.error);
    }
    // What the checkpoint needs beside the engine is asked for too.
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    done(&[
        "--store",
        text(&world.store),
        "quantize",
        text(&base),
        "--name",
        "org/nf4",
        "--method",
        "nf4",
    ]);
    let path = python(r#"{"vllm": "0.33.0", "vllm-bnb-plugin": null}"#);
    let run = world.run(json!({}), &["org/nf4", "--engine", "vllm", "--python", text(&path)]);
    assert_eq!(run.status, Some(1));
    assert!(run.error.contains("pip install vllm-bnb-plugin=="), "{}", run.error);
}

#[test]
fn an_adapter_lies_in_a_folder() {
    let world = World::new("adapter");
    let folder = super::model::write(&world.folder.join("a"), &[("x.lora_A.weight", &[8, 16], 1)]);
    std::fs::remove_file(folder.join("config.json")).unwrap_or_default();
    std::fs::write(folder.join("adapter_config.json"), r#"{"r": 12}"#).unwrap();
    super::run::pack(&world.store, &folder, "org/a", &["--allow-incomplete"]);
    let (_, noted) =
        started(&world, json!({}), &["org/m", "--engine", "vllm", "--adapter", "mine=org/a"]);
    let words = line(&noted, "COMMIT");
    let place = format!(
        "--enable-lora --max-lora-rank 16 --lora-modules mine={}",
        text(&world.temporary())
    );
    assert!(words.contains(&place), "{words}");
    let run = world.run(json!({}), &["org/m", "--engine", "vllm", "--adapter", "mine=org/m"]);
    assert_eq!(run.status, Some(2));
    assert!(run.error.contains("no LoRA adapter"), "{}", run.error);
}

#[test]
fn a_dry_run_shows_the_command_and_no_secret() {
    let world = World::new("dry");
    let arguments =
        ["org/m", "--engine", "vllm", "--dry-run", "--api-key", "s3cret", "--", "--seed", "1"];
    let run = world.run(json!({}), &arguments);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert!(!world.record().exists(), "nothing was started");
    let environment = &run.json["environment"];
    assert_eq!(
        (&environment["VLLM_API_KEY"], &environment["HF_TOKEN"]),
        (&json!("***"), &json!("***"))
    );
    assert_eq!(environment["HF_ENDPOINT"], "http://127.0.0.1:PORT");
    assert_eq!(run.json["command"].as_array().unwrap().last(), Some(&json!("1")));
    let mut shown = world.command(json!({}), &arguments);
    let words: Vec<_> = shown.get_args().skip(1).map(ToOwned::to_owned).collect();
    let path = world.bin.clone();
    shown = super::run::command(&[]);
    let output = shown.args(words).env("PATH", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("env -u ") && text.contains(" vllm serve org/m "), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}
