//! What `deploy/` says of the studio is accepted by the command that it starts.

use std::path::Path;

use serde_json::Value;

use super::postgres::Postgres;
use super::run::{command, fresh_folder, python_command, text};

/// The documents of a YAML file.
fn documents(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = python_command().args(["-c", script, text(&path)]).output().expect("python");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs a container's command with `--check`, its database and files replaced by such as are here.
fn check(words: &Value, variables: &[(String, String)], database: &str) {
    let folder = fresh_folder("deployed");
    let tokens = folder.join("tokens");
    std::fs::write(&tokens, format!("ops sha256:{} tenant=ops role=operator\n", "0".repeat(64)))
        .expect("a file");
    let words: Vec<String> = words
        .as_array()
        .expect("a command")
        .iter()
        .map(|word| word.as_str().expect("a word"))
        .map(|word| match word.split_once('=') {
            Some(("--tokens", _)) => format!("--tokens={}", text(&tokens)),
            _ => word.to_owned(),
        })
        .chain(["--check".to_owned()])
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut run = command(&words);
    run.envs(variables.iter().cloned()).env("TENPAK_DATABASE", database);
    let output = run.output().expect("a process");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[test]
fn the_compose_file_starts_a_studio_and_two_workers() {
    let server = Postgres::start();
    let file = documents("studio-compose.yaml").remove(0);
    let services = file["services"].as_object().expect("services");
    let ours: Vec<_> =
        services.iter().filter(|(_, service)| service["image"] == "tenpak").collect();
    let names: Vec<&str> = ours.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["studio", "worker-a", "worker-b"]);
    for (name, service) in ours {
        let variables: Vec<_> = service["environment"]
            .as_object()
            .expect("variables")
            .iter()
            .map(|(name, value)| (name.clone(), text_of(value)))
            .collect();
        let database = variables.iter().find(|(name, _)| name == "TENPAK_DATABASE").expect(name);
        assert!(database.1.starts_with("postgres://"), "{name}");
        check(&service["command"], &variables, &server.database());
    }
}

#[test]
fn the_manifest_scales_workers_with_the_queue() {
    let server = Postgres::start();
    let all = documents("studio-kubernetes.yaml");
    let kinds: Vec<&str> = all.iter().map(|one| one["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["Deployment", "Service", "TriggerAuthentication", "ScaledJob"]);
    let find = |kind: &str| all.iter().find(|one| one["kind"] == kind).expect("there");
    let studio = &find("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let scaled = &find("ScaledJob")["spec"];
    let worker = &scaled["jobTargetRef"]["template"]["spec"]["containers"][0];
    let url = server.database();
    for container in [studio, worker] {
        check(&container["args"], &[], &url);
    }
    assert!(worker["args"].as_array().expect("words").contains(&"--once".into()));
    // What is counted is what the database has.
    let trigger = &scaled["triggers"][0];
    assert_eq!(
        (&trigger["type"], &trigger["metadata"]["targetQueryValue"]),
        (&"postgresql".into(), &"1".into())
    );
    let query = text_of(&trigger["metadata"]["query"]);
    let jobs = tenpak::jobs::Jobs::open(
        &url,
        tenpak::jobs::Policy::default(),
        tenpak::jobs::Clock::Database,
    );
    drop(jobs.expect("a database"));
    let counted = std::thread::spawn(move || {
        let mut client = ::postgres::Client::connect(&url, ::postgres::NoTls).expect("a client");
        client.query_one(&query, &[]).expect("a count").get::<_, i64>(0)
    });
    assert_eq!(counted.join().expect("a thread"), 0);
    let name = find("TriggerAuthentication")["metadata"]["name"].clone();
    assert_eq!(trigger["authenticationRef"]["name"], name);
}

/// The unit's lines are this program's, and its settings are accepted.
#[test]
fn the_unit_and_its_settings_are_right() {
    let folder = fresh_folder("unit");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let unit = std::fs::read_to_string(deploy.join("tenpak-studio.service")).expect("the unit");
    assert!(unit.contains("studio --config /etc/tenpak/studio.toml --check\n"), "{unit}");
    let settings = std::fs::read_to_string(deploy.join("studio.toml")).expect("its settings");
    let config = folder.join("studio.toml");
    std::fs::write(&config, settings.replace("/var/lib/tenpak", text(&folder))).expect("a file");
    let all = ["studio", "--config", text(&config), "--check"];
    let output = command(&all).output().expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
