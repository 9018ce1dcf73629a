//! Large models, whose weights several workers make: the same artifact as one worker's, whoever is killed meanwhile.

use serde_json::{Value, json};

use super::run::{done, text};
use super::world::{Process, Served, World};

/// Models from this size on are shared; each part has half of that at least.
const SPLIT: [&str; 4] = ["--split", "4M", "--lease", "2"];

fn fixtures() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm")
}

fn with_two_workers(world: &World) -> (Served, [Process; 2]) {
    let fixtures = fixtures();
    let folders = ["--allow-path", text(&world.folder), "--allow-path", text(&fixtures)];
    let allow = [&["--workers", "0"][..], &folders].concat();
    let studio = world.serve(&[&allow[..], &SPLIT].concat());
    let workers = [world.worker(&SPLIT[2..]), world.worker(&SPLIT[2..])];
    let start = std::time::Instant::now();
    while studio.get("/workers").json()["workers"].as_array().unwrap().len() < 2 {
        assert!(start.elapsed() < std::time::Duration::from_secs(60));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    (studio, workers)
}

fn parts(job: &Value) -> &Vec<Value> {
    job["parts"].as_array().unwrap_or_else(|| panic!("it has no parts: {job}"))
}

#[test]
fn two_workers_make_what_one_makes() {
    let world = World::new("parts");
    let model = world.slow_model();
    let (studio, _workers) = with_two_workers(&world);
    let alone = world.folder.join("alone");
    let all = [("nf4", &model), ("int8", &model), ("fp8", &model)];
    for (method, model) in all {
        let name = format!("org/{method}");
        let wanted = json!({"model": text(model), "method": method, "name": name});
        let id = studio.submit("/compress", &wanted);
        let job = studio.end(&id);
        assert_eq!(job["status"], "succeeded", "{job}");
        let states: Vec<_> = parts(&job).iter().map(|part| part["status"].clone()).collect();
        assert_eq!(states, ["succeeded", "succeeded"], "{job}");
        // Whoever joined the parts computed nothing again.
        assert_eq!(job["result"]["tensors_computed"], 0, "{job}");
        assert!(job["result"]["tensors_linked"].as_u64() > Some(10), "{job}");
        let one = done(&[
            "quantize",
            text(model),
            "--method",
            method,
            "--name",
            &name,
            "--store",
            text(&alone),
        ]);
        assert_eq!(one.json["manifest"], job["result"]["manifest"], "{method}");
        done(&["verify", &name, "--store", text(&world.store)]);
        // Parts are listed nowhere, and are no artifacts with names.
        assert!(
            studio.get("/jobs").json()["jobs"]
                .as_array()
                .unwrap()
                .iter()
                .all(|job| { job["request"].get("part").is_none() })
        );
    }
    let names = studio.get("/artifacts").json()["artifacts"].as_array().unwrap().len();
    assert_eq!(names, 3);
    // What needs calibration, and what is small, is one worker's.
    let small = world.folder.join("small");
    super::model::write(&small, &super::model::llama(1, 64));
    let wanted = json!({"model": text(&small), "method": "nf4", "name": "org/small"});
    assert!(studio.end(&studio.submit("/compress", &wanted)).get("parts").is_none());
    let wanted = json!({"model": text(&model), "method": "gptq", "name": "org/alone"});
    let id = studio.submit("/compress", &wanted);
    assert!(studio.job(&id).get("parts").is_none());
    studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel"));
}

/// What a GGUF file needs of a model beside its weights.
const CONFIG: &str = r#"{"model_type":"llama","num_attention_heads":8,"num_key_value_heads":8,"hidden_size":512,
"num_hidden_layers":6,"max_position_embeddings":64,"intermediate_size":1024,"vocab_size":100,"bos_token_id":1,
"eos_token_id":2,"rms_norm_eps":1e-5,"rope_theta":500000.0}"#;
const TOKENIZER: &str = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},
"pre_tokenizer":{"type":"ByteLevel"},"added_tokens":[{"id":3,"content":"<s>","special":true}]}"#;

/// The blocks of a GGUF file are made in parts, too; whoever joins them writes the header, and what is no matrix.
#[test]
fn two_workers_make_the_gguf_file_that_one_makes() {
    let world = World::new("gguf-parts");
    let model = world.slow_model();
    std::fs::write(model.join("config.json"), CONFIG).unwrap();
    std::fs::write(model.join("tokenizer.json"), TOKENIZER).unwrap();
    let (studio, _workers) = with_two_workers(&world);
    let alone = world.folder.join("alone");
    for method in ["q4_0", "q4_k"] {
        let name = format!("org/{method}");
        let wanted = json!({"model": text(&model), "method": method, "name": name});
        let job = studio.end(&studio.submit("/compress", &wanted));
        assert_eq!(job["status"], "succeeded", "{job}");
        let states: Vec<_> = parts(&job).iter().map(|part| part["status"].clone()).collect();
        assert_eq!(states, ["succeeded", "succeeded"], "{job}");
        assert_eq!(job["result"]["tensors_computed"], 0, "{job}");
        // Six matrices a block, and the embedding.
        assert_eq!(job["result"]["tensors_linked"], 37, "{job}");
        let quantize = ["quantize", text(&model), "--method", method, "--name", &name];
        let one = done(&[&quantize[..], &["--store", text(&alone)]].concat());
        assert_eq!(one.json["manifest"], job["result"]["manifest"], "{method}");
        done(&["verify", &name, "--store", text(&world.store)]);
    }
}

#[test]
fn a_part_whose_worker_is_killed_is_made_again() {
    let world = World::new("killed-part");
    let model = world.large_model();
    let (studio, [first, second]) = with_two_workers(&world);
    let wanted = json!({"model": text(&model), "method": "int8", "name": "org/shared"});
    let id = studio.submit("/compress", &wanted);
    studio.until(&id, |job| parts(job).iter().all(|part| part["status"] == "running"));
    first.signal("-KILL");
    let job = studio.end(&id);
    assert_eq!(job["status"], "succeeded", "{job}");
    let attempts = parts(&job).iter().map(|part| part["attempts"].as_i64().unwrap());
    assert_eq!(attempts.sum::<i64>(), 3, "{job}");
    let one = done(&[
        "quantize",
        text(&model),
        "--method",
        "int8",
        "--name",
        "org/shared",
        "--store",
        text(&world.folder.join("alone")),
    ]);
    assert_eq!(one.json["manifest"], job["result"]["manifest"]);
    drop(second);
}

#[test]
fn cancelling_ends_every_part() {
    let world = World::new("cancelled-parts");
    let model = world.large_model();
    let (studio, _workers) = with_two_workers(&world);
    let wanted = json!({"model": text(&model), "method": "nf4", "name": "org/shared"});
    let id = studio.submit("/compress", &wanted);
    studio.until(&id, |job| parts(job).iter().all(|part| part["status"] == "running"));
    let asked = studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel")).json();
    assert_eq!(asked["status"], "cancelled");
    let over =
        studio.until(&id, |job| parts(job).iter().all(|part| part["status"] != "cancelling"));
    assert!(parts(&over).iter().all(|part| part["status"] == "cancelled"), "{over}");
    assert_eq!(studio.get("/artifacts").json()["artifacts"], json!([]));
    // Both workers go on with others.
    let wanted = json!({"model": text(&model), "method": "int8", "name": "org/other"});
    assert_eq!(studio.end(&studio.submit("/compress", &wanted))["status"], "succeeded");
}
