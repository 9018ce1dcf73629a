//! What is refused, in words, before anything is started.

use std::path::Path;

use serde_json::json;

use super::run::{done, text};
use super::world::World;

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let world = World::new("flags");
    #[rustfmt::skip]
    let cases: [(&[&str], &str); 21] = [
        (&["--engine", "ollama"], "vllm, sglang, tgi, llama.cpp"),
        (&["--tensor-parallel", "2"], "runs on the processor"),
        (&["--python", "x"], "name another --engine"),
        (&["--dry-run"], "--dry-run goes with another --engine"),
        (&["--", "--x"], "takes nothing after --"),
        (&["--dtype", "int4"], "auto, bf16, f16 and f32"),
        (&["--adapter", "a"], "NAME=ARTIFACT"),
        (&["--adapter", "a=org/m", "--served-name", "a"], "two models are called a"),
        (&["--api-key", "a b"], "visible characters"),
        (&["--max-context", "0"], "0 is not in"),
        (&["--tls-cert", "x"], "--tls-key"),
        (&["--print", "nomad"], "systemd, compose, kubernetes"),
        (&["--engine", "vllm", "--memory", "1G"], "--memory is of the embedded engine"),
        (&["--engine", "vllm", "--tls-cert", "a", "--tls-key", "b"], "put a proxy"),
        (&["--engine", "vllm", "--python", "a", "--engine-bin", "b"], "cannot be used with"),
        (&["--engine", "vllm", "--", "--port", "1"], "--port is set from the flags"),
        (&["--engine", "vllm", "--", "--served_model_name=x"], "--served_model_name is set"),
        (&["--engine", "llama.cpp"], "quantize --method q8_0"),
        (&["--engine", "sglang", "--served-name", "a", "--served-name", "b"], "one --served-name"),
        (&["--engine", "tgi", "--dtype", "f32"], "bf16 or f16"),
        (&["--engine", "tgi", "--python", "python3"], "--engine-bin"),
    ];
    for (flags, says) in cases {
        let run = world.run(json!({}), &[&["org/m"], flags].concat());
        assert_eq!(run.status, Some(2), "{flags:?}: {}", run.error);
        assert!(run.error.contains(says), "{flags:?}: {}", run.error);
    }
    let id = format!("@{}", &world.commit("org/m"));
    let run = world.run(json!({}), &[&id, "--engine", "vllm"]);
    assert_eq!(run.status, Some(2), "{}", run.error);
    assert!(run.error.contains("tenpak tag"), "{}", run.error);
    assert_eq!(world.run(json!({}), &["org/none", "--engine", "vllm"]).status, Some(3));
    assert!(!world.record().exists());
}

#[test]
fn layouts_that_an_engine_does_not_load_are_refused_with_the_way_out() {
    let world = World::new("layouts");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    for (name, more, says) in [
        ("org/gguf", &["--method", "q8_0"][..], "--engine llama.cpp"),
        (
            "org/zeros",
            &["--method", "rtn", "--format", "gptq", "--asymmetric"],
            "it loads --preset gptq_quality",
        ),
    ] {
        let store = ["--store", text(&world.store), "quantize", text(&base), "--name", name];
        done(&[&store[..], more].concat());
        let run = world.run(json!({}), &[name, "--engine", "vllm"]);
        assert_eq!(run.status, Some(2), "{}", run.error);
        assert!(run.error.contains(says), "{}", run.error);
    }
    // One of others, by what its own configuration says.
    let config = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}});
    std::fs::write(world.model.join("config.json"), config.to_string()).unwrap();
    super::run::pack(&world.store, &world.model, "org/order", &[]);
    let run = world.run(json!({}), &["org/order", "--engine", "vllm"]);
    assert_eq!(run.status, Some(2), "{}", run.error);
    assert!(run.error.contains("take --act-order static"), "{}", run.error);
    assert!(!world.record().exists());
}

#[test]
fn engines_that_are_not_there_or_too_old_are_refused_with_the_way_to_them() {
    let world = World::new("missing");
    for (engine, program, old, install) in [
        ("vllm", "vllm", "0.6.3", "pip install vllm"),
        ("sglang", "sglang", "sglang version: 0.4.9", "pip install sglang"),
        ("tgi", "text-generation-launcher", "text-generation-launcher 2.0.0", "archived"),
    ] {
        let arguments = ["org/m", "--engine", engine];
        let run = world.run(json!({"version": old}), &arguments);
        assert_eq!(run.status, Some(1), "{}", run.error);
        assert!(run.error.contains("too old") && run.error.contains(install), "{}", run.error);
        std::fs::remove_file(world.bin.join(program)).unwrap();
        let run = world.run(json!({}), &arguments);
        assert_eq!(run.status, Some(1), "{}", run.error);
        let says = format!("no {program} on PATH");
        assert!(run.error.contains(&says) && run.error.contains(install), "{}", run.error);
    }
    let run = world.run(json!({}), &["org/m", "--engine", "vllm", "--engine-bin", "/none/vllm"]);
    assert!(run.error.contains("there is no program /none/vllm"), "{}", run.error);
}

/// Engines take a folder of that name for the model, and would not ask the edge.
#[test]
fn a_folder_with_the_models_name_is_no_model() {
    let world = World::new("shadow");
    std::fs::create_dir_all(world.folder.join("org/m")).unwrap();
    let run = world.run(json!({}), &["org/m", "--engine", "vllm"]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("there is a folder org/m here"), "{}", run.error);
    assert!(!world.record().exists());
}
