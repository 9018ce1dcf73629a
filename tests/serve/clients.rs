//! The clients that people have, unchanged.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use crate::support::{Scripted, start, until};

/// A program of the environment that `tests/setup.sh` makes.
fn program(name: &str) -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin").join(name);
    assert!(own.exists(), "{} is not there: run tests/setup.sh", own.display());
    let mut command = Command::new(own);
    command
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("all_proxy")
        .env_remove("ALL_PROXY");
    command
}

#[test]
fn the_openai_client_works_unchanged() {
    let keyed = |server: &mut tenpak::serve::http::Server| server.keys = vec!["sk-own".to_owned()];
    let server = start(Scripted::new(), keyed);
    let mut embedder = Scripted::new();
    embedder.generates = false;
    let embedder = start(embedder, keyed);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/openai_client.py");
    let urls = [&server, &embedder].map(|server| format!("http://{}", server.address));
    let output =
        program("python").arg(script).args([&urls[0], "sk-own", &urls[1]]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert_eq!(output.stdout, b"good\n");
    until("no text", || server.open.load(Ordering::Acquire) == 0);
}

#[test]
fn schemathesis_finds_nothing() {
    let server = start(Scripted::new(), |_| {});
    let document = format!("http://{}/openapi.json", server.address);
    let output = program("schemathesis")
        .args([
            "run",
            &document,
            "--max-examples",
            "40",
            "--seed",
            "1",
            "--workers",
            "2",
            "--no-color",
        ])
        // That min_tokens is at most max_tokens, or that a grammar can be read, no schema says.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("Tested: 10"), "{told}");
}
