//! The command, as people start it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::held::Held;
use super::run::{command, done, text};
use super::world::*;

/// A server, killed when it goes.
struct Served {
    child: Child,
    address: String,
    ready: Value,
}

impl Served {
    fn start(store: &str, more: &[&str]) -> Self {
        let arguments = ["--store", store, "--json", "serve", "m", "--listen", "127.0.0.1:0"];
        let mut child = command(&[&arguments[..], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        let url = ready["url"].as_str().unwrap();
        Self { address: url.strip_prefix("http://").unwrap().to_owned(), child, ready }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        post(&self.address, path, body)
    }

    fn text(&self, model: &str) -> Value {
        let asked = json!({"model": model, "prompt": [5, 9, 40], "max_tokens": 6, "temperature": 0, "logprobs": 1});
        let (status, answer) = self.post("/v1/completions", &asked);
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0].clone()
    }

    fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn post(address: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn quantized(store: &Path) {
    let arguments = ["quantize", "m", "--preset", "bnb_nf4", "--name", "nf4", "--json"];
    done(&[&["--store", text(store)][..], &arguments].concat());
}

#[test]
fn it_says_where_it_listens_answers_and_ends_when_told() {
    let store = packed("served", &fixture("base"));
    quantized(&store);
    let served = Served::start(text(&store), &[]);
    assert_eq!(served.ready["engine"], "embedded");
    assert!(served.ready["ready_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(served.ready["max_context"], 512);
    let (plain, other) = (served.text("m"), served.text("m:latest"));
    assert_eq!(plain, other);
    let (status, answer) =
        served.post("/v1/completions", &json!({"model": "nobody", "prompt": "x"}));
    assert_eq!(status, 404, "{answer}");

    // The next model takes over between two steps; one of another shape, or none, does not.
    let (status, answer) = served.post("/v1/admin/swap", &json!({"artifact": "nf4"}));
    assert_eq!(status, 200, "{answer}");
    let swapped = served.text("m");
    assert_ne!(plain, swapped);
    for (body, expected) in [(json!({"artifact": "nobody"}), 409), (json!({}), 400)] {
        assert_eq!(served.post("/v1/admin/swap", &body).0, expected);
    }
    assert_eq!(swapped, served.text("m"));
    let (status, _) = served.post("/v1/admin/swap", &json!({"artifact": "m"}));
    assert_eq!((status, served.text("m")), (200, plain));

    // Its port is taken for others.
    let arguments = ["--store", text(&store), "serve", "m", "--listen", &served.address];
    let output = command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give another --listen"));
    assert_eq!(served.stop(), 0);
}

#[test]
fn what_is_damaged_or_not_there_is_never_served() {
    let store = packed("served-damaged", &fixture("base"));
    let arguments = ["--store", text(&store), "serve", "nobody", "--listen", "127.0.0.1:0"];
    assert_eq!(command(&arguments).output().unwrap().status.code(), Some(3));
    super::faults::damage(&store, 0.5);
    let arguments = ["--store", text(&store), "serve", "m", "--listen", "127.0.0.1:0"];
    let output = command(&arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("chunk") && output.stdout.is_empty(), "{told}");
}

#[test]
fn the_next_start_needs_no_byte_of_the_origin_that_was_kept() {
    let store = packed("served-kept", &fixture("base"));
    let cache = super::run::fresh_folder("served-cache");
    let first = Served::start(text(&store), &["--keep-cache", text(&cache)]);
    let expected = first.text("m");
    assert_eq!(first.stop(), 0);
    // What is damaged at the origin now is not asked for.
    super::faults::damage(&store, 0.5);
    let second = Served::start(text(&store), &["--keep-cache", text(&cache)]);
    assert_eq!(second.text("m"), expected);
    assert_eq!(second.stop(), 0);
}

/// Starts a server on a store whose weights are held back, and waits until it answers that it is not ready.
fn waiting(origin: &Held) -> (Child, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = free.to_string();
    let arguments = ["--store", &origin.url, "--json", "serve", "m", "--listen", &address];
    let child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    while status_of(&address, "/health") != Some(503) {
        std::thread::yield_now();
    }
    (child, address)
}

#[test]
fn a_request_that_comes_before_the_weights_is_answered_as_they_arrive() {
    let store = packed("served-early", &fixture("base"));
    let origin = Held::start(&store);
    let (mut child, address) = waiting(&origin);
    let asked = json!({"model": "m", "prompt": [5, 9, 40], "max_tokens": 6, "temperature": 0});
    let early = {
        let (address, asked) = (address.clone(), asked.clone());
        std::thread::spawn(move || post(&address, "/v1/completions", &asked))
    };
    origin.open();
    let (status, answer) = early.join().unwrap();
    assert_eq!(status, 200, "{answer}");
    let (_, again) = post(&address, "/v1/completions", &asked);
    assert_eq!(answer["choices"], again["choices"]);
    assert_eq!(status_of(&address, "/health"), Some(200));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_ends_when_told_although_the_weights_never_come() {
    let store = packed("served-never", &fixture("base"));
    let origin = Held::start(&store);
    let (mut child, _) = waiting(&origin);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn status_of(address: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
