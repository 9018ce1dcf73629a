//! What `--print` writes is what the tools of each form read, and what this command takes.

use std::process::Command;

use serde_json::{Value, json};

use super::run::{command, done, python_command, text};
use super::world::World;

const FLAGS: [&str; 11] = [
    "org/m",
    "--api-key",
    "s3cret",
    "--max-context",
    "4096",
    "--served-name",
    "it's $m",
    "--listen",
    "0.0.0.0:9000",
    "--max-concurrent",
    "8",
];

fn printed(world: &World, form: &str, more: &[&str]) -> String {
    let run = world.run(json!({}), &[&FLAGS, &["--print", form][..], more].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    let text = run.text("text");
    assert!(!text.contains("s3cret"), "{text}");
    text
}

/// Every document of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin.read()))))";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let input = std::fs::File::open(file.path()).unwrap();
    let output = python_command().args(["-c", script]).stdin(input).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}\n{text}", String::from_utf8_lossy(&output.stderr))
    })
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// The command takes these words; nothing is started.
fn accepted(world: &World, words: &[&str], inside: &str) {
    let words: Vec<String> =
        words.iter().map(|word| word.replace(inside, text(&world.store))).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cache = world.folder.join("accepted");
    let words: Vec<String> =
        words.iter().map(|word| word.replace("/var/cache/tenpak", text(&cache))).collect();
    let mut all: Vec<&str> = words.iter().map(String::as_str).collect();
    let more = if all[0] == "edge" { ["--check"] } else { ["--help"] };
    if all[0] != "unpack" {
        all.splice(1..1, more);
    }
    let output = command(&all).output().unwrap();
    assert!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_unit_is_one_that_systemd_takes() {
    let world = World::new("unit");
    for engine in ["embedded", "vllm"] {
        let unit = printed(&world, "systemd", &["--engine", engine]);
        let path = world.folder.join(format!("{engine}.service"));
        let here = unit.replace("/usr/local/bin/tenpak", env!("CARGO_BIN_EXE_tenpak"));
        std::fs::write(&path, here.replace("EnvironmentFile=/", "EnvironmentFile=-/")).unwrap();
        let output = Command::new("systemd-analyze").args(["verify", text(&path)]).output();
        let output = output.expect("systemd-analyze, which tests/setup.sh installs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}\n{unit}");
        let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        for word in [
            "serve org/m:latest ",
            "--listen=0.0.0.0:9000",
            "--keep-cache=/var/cache/tenpak-org-m",
            "\"--served-name=it's $$m\"",
            "--max-context=4096",
            &format!("--store={}", text(&world.store)),
        ] {
            assert!(start.contains(word), "{word}: {start}");
        }
        assert_eq!(start.contains("--engine=vllm"), engine == "vllm", "{start}");
        assert!(unit.contains("KillMode=mixed") && unit.contains("TENPAK_API_KEYS"), "{unit}");
    }
}

#[test]
fn a_compose_file_has_the_edge_beside_the_engine() {
    let world = World::new("compose");
    let file =
        documents(&printed(&world, "compose", &["--engine", "vllm", "--tensor-parallel", "2"]))
            .remove(0);
    let (edge, server) = (&file["services"]["edge"], &file["services"]["server"]);
    accepted(&world, &words(&edge["command"]), "/var/lib/tenpak/store-0");
    let volume = format!("{}:/var/lib/tenpak/store-0:ro", text(&world.store));
    assert!(words(&edge["volumes"]).contains(&volume.as_str()), "{edge}");
    assert_eq!(server["entrypoint"], json!(["vllm"]));
    let own = words(&server["command"]);
    assert_eq!(own[..2], ["serve", "org/m"]);
    for word in [
        "it's $$m",
        "--tensor-parallel-size",
        "2",
        "0.0.0.0",
        "8000",
        "4096",
        &world.commit("org/m"),
    ] {
        assert!(own.contains(&word), "{word}: {own:?}");
    }
    let environment = &server["environment"];
    assert_eq!(environment["HF_ENDPOINT"], "http://edge:8080");
    assert_eq!(environment["VLLM_API_KEY"], "${TENPAK_API_KEYS:?set the key of requests}");
    assert!(environment.get("HF_TOKEN").is_none());
    assert_eq!(server["deploy"]["resources"]["reservations"]["devices"][0]["count"], 2);
    assert_eq!(server["depends_on"]["edge"]["condition"], "service_started");
    assert_eq!(server["healthcheck"]["test"][0], "CMD");
    let file = documents(&printed(&world, "compose", &[])).remove(0);
    let own = words(&file["services"]["server"]["command"]);
    accepted(&world, &own, "/var/lib/tenpak/store-0");
    assert!(file["services"].get("edge").is_none());
}

#[test]
fn objects_of_kubernetes_have_probes_limits_and_keys() {
    let world = World::new("kubernetes");
    let key = world.folder.join("own");
    done(&["keygen", text(&key)]);
    done(&["sign", "org/m", "--key", text(&key), "--store", text(&world.store)]);
    let public = format!("{}.pub", text(&key));
    let trust = ["--trust", public.as_str()];
    for (engine, flag) in [("vllm", "--tensor-parallel-size"), ("sglang", "--tp-size")] {
        let more = [&trust[..], &["--engine", engine, "--tensor-parallel", "4"]].concat();
        let all = documents(&printed(&world, "kubernetes", &more));
        let kinds: Vec<&str> = all.iter().map(|one| one["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ConfigMap", "Deployment", "Service"]);
        let content = std::fs::read_to_string(&public).unwrap();
        assert_eq!(all[0]["data"]["own.pub"], content.as_str());
        let spec = &all[1]["spec"]["template"]["spec"];
        let (edge, server) = (&spec["initContainers"][0], &spec["containers"][0]);
        assert_eq!((&edge["name"], &edge["restartPolicy"]), (&json!("edge"), &json!("Always")));
        assert_eq!(edge["startupProbe"]["httpGet"]["path"], "/healthz");
        assert!(words(&edge["args"]).contains(&"--trust=/etc/tenpak/trust/own.pub"), "{edge}");
        let own = words(&server["command"]);
        let at = own.iter().position(|word| *word == flag).unwrap();
        assert_eq!(own[at + 1], "4");
        assert_eq!(server["resources"]["limits"]["nvidia.com/gpu"], 4);
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(
                server[probe]["httpGet"],
                json!({"path": "/health", "port": "http"}),
                "{probe}"
            );
        }
        let secret = |name: &str| {
            let env = server["env"].as_array().unwrap();
            let found =
                env.iter().find(|own| own["name"] == name).unwrap_or_else(|| panic!("no {name}"));
            found["valueFrom"]["secretKeyRef"].clone()
        };
        let is = json!({"name": "tenpak-org-m", "key": "api-keys"});
        match engine {
            "vllm" => assert_eq!(secret("VLLM_API_KEY"), is),
            _ => {
                assert_eq!(secret("TENPAK_API_KEYS"), is);
                assert!(own.contains(&"$(TENPAK_API_KEYS)"), "{own:?}");
            }
        }
        let labels = &all[1]["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&all[1]["spec"]["selector"]["matchLabels"], labels);
        assert_eq!(&all[2]["spec"]["selector"], labels);
        let mounts = server["volumeMounts"].as_array().unwrap();
        let volumes: Vec<&Value> =
            spec["volumes"].as_array().unwrap().iter().map(|own| &own["name"]).collect();
        let mounted = mounts.iter().chain(edge["volumeMounts"].as_array().unwrap());
        for mount in mounted {
            assert!(volumes.contains(&&mount["name"]), "{mount}");
        }
    }
    let own = documents(&printed(&world, "kubernetes", &[])).remove(0);
    let server = &own["spec"]["template"]["spec"]["containers"][0];
    accepted(&world, &words(&server["args"]), "/var/lib/tenpak/store-0");
    let run = world.run(json!({}), &["org/m", "--print", "compose", "--trust", "hmac:x"]);
    assert_ne!(run.status, Some(0), "{}", run.json);
}

/// What is unpacked lies where llama.cpp looks for it.
#[test]
fn a_gguf_file_is_unpacked_before_llama_cpp_starts() {
    let world = World::new("compose_gguf");
    let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    done(&[
        "--store",
        text(&world.store),
        "quantize",
        text(&base),
        "--name",
        "org/g",
        "--method",
        "q8_0",
    ]);
    let cache = world.folder.join("inside");
    let here = |word: &str| {
        word.replace("/var/lib/tenpak/store-0", text(&world.store))
            .replace("/var/cache/tenpak", text(&cache))
    };
    for form in ["compose", "kubernetes"] {
        let run = world.run(json!({}), &["org/g", "--engine", "llama.cpp", "--print", form]);
        assert_eq!(run.status, Some(0), "{}", run.error);
        let all = documents(&run.text("text"));
        let (unpack, serve) = match form {
            "compose" => {
                let services = &all[0]["services"];
                let before = &services["server"]["depends_on"]["files"]["condition"];
                assert_eq!(before, "service_completed_successfully");
                (services["files"]["command"].clone(), services["server"]["command"].clone())
            }
            _ => {
                let spec = &all[0]["spec"]["template"]["spec"];
                assert_eq!(spec["initContainers"][0].get("restartPolicy"), None);
                (
                    spec["initContainers"][0]["args"].clone(),
                    spec["containers"][0]["command"].clone(),
                )
            }
        };
        let unpack: Vec<String> = words(&unpack).into_iter().map(here).collect();
        done(&unpack.iter().map(String::as_str).collect::<Vec<_>>());
        let serve = words(&serve);
        let at = serve.iter().position(|word| *word == "--model").unwrap();
        let file = here(serve[at + 1]);
        assert!(std::fs::metadata(&file).unwrap().len() > 1_000_000, "{file}");
    }
}
