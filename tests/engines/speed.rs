//! `tenpak eval speed` against a server whose times are known.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use super::run::{Run, python_command, tenpak};

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn new(mode: &str, first: &str, each: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines/openai.py");
        let mut process = python_command()
            .arg(script)
            .env("MODE", mode)
            .env("FIRST", first)
            .env("EACH", each)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, url: format!("http://127.0.0.1:{}", line.trim()) }
    }

    fn measured(&self, more: &[&str]) -> Run {
        tenpak(&[&["eval", "speed", &self.url], more].concat())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A median is near what it is to be; the machine may have more to do than this.
#[track_caller]
fn near(run: &Run, pointer: &str, wanted: f64) {
    let of = |p: &str| {
        let found = run.json.pointer(&format!("{pointer}/{p}")).and_then(serde_json::Value::as_f64);
        found.unwrap_or_else(|| panic!("no {pointer}/{p}: {}", run.json))
    };
    let median = of("p50");
    assert!(
        (0.8 * wanted..=1.5 * wanted).contains(&median),
        "{pointer}: not {wanted}: {}",
        run.json
    );
    assert!(median <= of("p90") && of("p90") <= of("p95") && of("p95") <= of("p99"));
}

#[test]
fn times_are_those_of_the_server() {
    let server = Server::new("plain", "0.1", "0.02");
    let flags = [
        "--concurrency",
        "1,4",
        "--input-tokens",
        "101",
        "--output-tokens",
        "11",
        "--requests",
        "4",
        "--repeats",
        "2",
    ];
    let run = server.measured(&flags);
    assert_eq!(run.status, Some(0), "{}", run.error);
    for place in ["", "/levels/0"] {
        near(&run, &format!("{place}/ttft_ms"), 100.0);
        near(&run, &format!("{place}/tpot_ms"), 20.0);
        assert_eq!(
            run.json.pointer(&format!("{place}/prompt_tokens")).unwrap(),
            101.0,
            "{}",
            run.json
        );
        assert_eq!(run.json.pointer(&format!("{place}/completion_tokens")).unwrap(), 11.0);
        assert_eq!(run.json.pointer(&format!("{place}/requests")).unwrap(), 8);
    }
    // 11 tokens in 0.3 s, four at a time.
    let rate = |level: usize| run.json["levels"][level]["tokens_per_second"].as_f64().unwrap();
    assert!((12.0..=37.0).contains(&rate(0)) && (45.0..=148.0).contains(&rate(1)), "{}", run.json);
    assert_eq!(run.json["tokens_per_second"], run.json["levels"][1]["tokens_per_second"]);
    assert!(run.json["requests_per_second"].as_f64().unwrap() > 3.0);
    let spread = &run.json["spread"]["tokens_per_second"];
    assert!(
        spread["min"].as_f64().unwrap() <= rate(1) && rate(1) <= spread["max"].as_f64().unwrap()
    );
    assert_eq!((run.text("model").as_str(), &run.json["ignore_eos"]), ("org/m", &true.into()));
}

#[test]
fn a_server_that_takes_less_is_measured_all_the_same() {
    let server = Server::new("bare", "0.01", "0.01");
    let run = server.measured(&[
        "--input-tokens",
        "20",
        "--output-tokens",
        "5",
        "--requests",
        "3",
        "--repeats",
        "1",
    ]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(run.json["ignore_eos"], false);
    // Events are counted where the server counts no tokens.
    assert_eq!(run.json["completion_tokens"], 5.0);
    assert_eq!(run.json["prompt_tokens"], serde_json::Value::Null);
}

#[test]
fn what_goes_wrong_is_told() {
    let few = ["--input-tokens", "9", "--output-tokens", "4", "--requests", "6", "--repeats", "1"];
    let server = Server::new("keyed", "0", "0");
    let run = server.measured(&few);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("401: no key; give its key with --api-key"), "{}", run.error);
    let run = server.measured(&[&few[..], &["--api-key", "k", "--concurrency", "2"]].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    // By what completions say of their prompts.
    assert_eq!(run.json["prompt_tokens"], 9.0);
    let server = Server::new("broken", "0", "0.001");
    let run = server.measured(&few);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("were not answered"), "{}", run.error);
    assert!(run.number("failed") > 0 && run.number("requests") > 0, "{}", run.json);
    let server = Server::new("cold", "0", "0");
    let run = server.measured(&few);
    assert!(run.status == Some(1) && run.error.contains("503: not today"), "{}", run.error);
    let gone = server.url.clone();
    drop(server);
    let run = tenpak(&["eval", "speed", &gone]);
    assert_eq!(run.status, Some(5), "{}", run.error);
    for (arguments, status) in [
        (&["eval", "speed", "http://u:p@x/"][..], 2),
        (&["eval", "speed", "http://127.0.0.1:1/?x=1"], 2),
        (&["eval", "speed", "http://x", "--concurrency", "0"], 2),
        (&["eval", "speed", "org/m", "--api-key", "k"], 2),
    ] {
        assert_eq!(tenpak(arguments).status, Some(status), "{arguments:?}");
    }
}
