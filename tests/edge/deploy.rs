//! What `deploy/` holds is accepted by the command that it starts.

use std::path::Path;

use super::run::{command, fresh_folder, python_command, text};
use serde_json::Value;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs `tenpak` with these arguments and `--check`; gives its error.
fn check(arguments: &[&str], variables: &[(String, String)]) -> Result<(), String> {
    let all = [arguments, &["--check"]].concat();
    let output = command(&all).envs(variables.iter().cloned()).output().expect("a process");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn the_settings_and_the_unit_are_right() {
    let folder = fresh_folder("deploy");
    let config = folder.join("edge.toml");
    let settings = read("edge.toml").replace("/var/cache/tenpak", text(&folder));
    std::fs::write(&config, &settings).expect("a file");
    check(&["edge", "--config", text(&config)], &[]).expect("right settings");
    // Those that are commented out are settings, too; only the files that they name are missing.
    let all: String = settings
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line.contains(" = ").then(|| format!("{line}\n"))
        })
        .collect();
    std::fs::write(&config, all).expect("a file");
    let error = check(&["edge", "--config", text(&config)], &[]).expect_err("missing files");
    assert!(error.contains("/etc/tenpak/") && !error.contains("unknown"), "{error}");

    let unit = read("tenpak-edge.service");
    let starts: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart").and_then(|line| line.split_once('=')))
        .map(|(_, line)| line)
        .collect();
    assert_eq!(starts.len(), 2);
    std::fs::write(&config, &settings).expect("a file");
    for start in starts {
        let line = start.replace("/etc/tenpak/edge.toml", text(&config));
        let words: Vec<&str> = line.split(' ').skip(1).filter(|word| *word != "--check").collect();
        check(&words, &[]).unwrap_or_else(|error| panic!("{start}: {error}"));
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = fresh_folder("unit");
    let unit = folder.join("tenpak-edge.service");
    let lines = read("tenpak-edge.service");
    let with = |lines: &str| {
        std::fs::write(&unit, lines).expect("a file");
        let output = std::process::Command::new("systemd-analyze")
            .args(["verify", text(&unit)])
            .output()
            .expect("systemd-analyze, which tests/setup.sh installs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let right = lines.replace("/usr/local/bin/tenpak", env!("CARGO_BIN_EXE_tenpak"));
    assert_eq!(with(&right), (true, String::new()));
    assert!(!with(&right.replace("Restart=on-failure", "Restart=sometimes")).1.is_empty());
}

#[test]
fn every_edge_of_the_compose_file_starts_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose.yaml");
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = python_command().args(["-c", script, text(&path)]).output().expect("python");
    let file: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let services = file["services"].as_object().expect("services");
    let folder = fresh_folder("compose");
    let mut origins = Vec::new();
    for (name, service) in services.iter().filter(|(name, _)| *name != "s3") {
        assert_eq!(service["image"], "tenpak", "{name}");
        let words: Vec<String> = service["command"]
            .as_array()
            .expect("a command")
            .iter()
            .map(|word| word.as_str().expect("a word").replace("/var/cache/tenpak", text(&folder)))
            .collect();
        let variables: Vec<(String, String)> = service["environment"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        check(&words, &variables).unwrap_or_else(|error| panic!("{name}: {error}"));
        let origin = words.iter().find_map(|word| word.strip_prefix("--origin="));
        origins.push(origin.expect("an origin").to_owned());
    }
    origins.sort_unstable();
    assert_eq!(origins, ["http://inner:8080", "http://inner:8080", "s3://models/store"]);
}
