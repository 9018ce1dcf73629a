//! The Hub face: the real client of the Hugging Face Hub downloads from an edge, and every request
//! shape that clients make gets the answer that they need.

use std::path::Path;

use super::command::Served;
use super::run::{python_command, text};

#[test]
fn the_hubs_own_client_downloads_every_byte() {
    let served = Served::new("client");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/hub_client.py");
    let cache = served.folder.join("cache");
    let client = || {
        let mut client = python_command();
        client.arg("-B").env("HF_ENDPOINT", format!("http://{}", served.address));
        client.env("HF_HOME", served.folder.join("home"));
        client.env("HF_HUB_DISABLE_TELEMETRY", "1").env("HF_HUB_DISABLE_UPDATE_CHECK", "1");
        client
    };
    let output = client()
        .arg(script)
        .args(["org/m", text(&served.model), text(&cache), &served.commit])
        .output()
        .expect("python");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    // The client's own check of its cache against what the edge says of the files.
    let verified = client()
        .args(["-c", "from huggingface_hub.cli.hf import main; main()"])
        .args(["cache", "verify", "org/m", "--cache-dir", text(&cache)])
        .output()
        .expect("python");
    let told = String::from_utf8_lossy(&verified.stdout).into_owned()
        + &String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && told.contains("Verified"), "{told}");
}

#[test]
fn answers_have_what_clients_need() {
    let served = Served::new("answers");
    let weights = std::fs::read(served.model.join("model.safetensors")).expect("the weights");
    let size = weights.len();
    let commit = format!("x-repo-commit: {}", served.commit);
    let linked = format!("x-linked-size: {size}");
    let of = "/org/m/resolve/main/model.safetensors";
    let last = format!("content-range: bytes {}-{}/{size}", size - 5, size - 1);
    #[rustfmt::skip]
    let cases = [
        (format!("HEAD {of}"), "", "200", vec![&*commit, &*linked, "etag: \"", "x-linked-etag: \"", "accept-ranges: bytes"], 0..0),
        (format!("GET {of}"), "", "200", vec![&*commit], 0..size),
        (format!("GET {of}"), "Range: bytes=0-0\r\n", "206", vec!["content-range: bytes 0-0/"], 0..1),
        (format!("GET {of}"), "Range: bytes=12000000-\r\n", "206", vec!["content-range: bytes 12000000-"], 12_000_000..size),
        (format!("GET {of}"), "Range: bytes=9999999-10000001\r\n", "206", vec![], 9_999_999..10_000_002),
        (format!("GET {of}"), "Range: bytes=-5\r\n", "206", vec![&*last], size - 5..size),
        ("GET /org/m/resolve/v1/model.safetensors".to_owned(), "Range: bytes=7-8\r\n", "206", vec![&*commit], 7..9),
        (format!("GET /org/m/resolve/{}/model.safetensors", served.commit), "Range: bytes=7-8\r\n", "206", vec!["immutable"], 7..9),
    ];
    for (line, headers, status, holds, range) in cases {
        let (head, body) = served.ask(&line, headers, "");
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line} {headers}: {head}");
        for hold in holds {
            assert!(head.contains(hold), "{line} {headers}: no {hold} in {head}");
        }
        assert!(!head.contains("content-encoding") && !head.contains("xet"), "{head}");
        assert!(body == weights[range], "{line} {headers}: other bytes");
    }
    #[rustfmt::skip]
    let refused = [
        ("GET /org/m/resolve/main/nowhere", "404", "entrynotfound", true),
        ("GET /org/m/resolve/main/../../../etc/passwd", "404", "entrynotfound", true),
        ("GET /org/m/resolve/main/%2e%2e%2fconfig.json", "404", "entrynotfound", true),
        ("HEAD /org/m/resolve/nowhere/config.json", "404", "revisionnotfound", false),
        ("GET /org/none/resolve/main/config.json", "404", "reponotfound", false),
        ("GET /api/models/org/none", "404", "reponotfound", false),
        ("GET /api/models/a/b/c", "404", "reponotfound", false),
        ("GET /api/models/org/m/revision/refs%2Fpr%2F1", "404", "revisionnotfound", false),
        ("GET /api/models/org/m/tree/main/nowhere", "404", "entrynotfound", true),
    ];
    for (line, status, code, has_commit) in refused {
        let (head, _) = served.ask(line, "", "");
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line}: {head}");
        assert!(head.contains(&format!("x-error-code: {code}")), "{line}: {head}");
        assert_eq!(head.contains(&commit), has_commit, "{line}: {head}");
    }
    let (head, _) = served.ask(&format!("GET {of}"), &format!("Range: bytes={size}-\r\n"), "");
    assert!(
        head.starts_with("http/1.1 416") && head.contains(&format!("bytes */{size}")),
        "{head}"
    );
    let (head, body) = served.ask("GET /org/m/resolve/main/empty.txt", "", "");
    assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head}");
    assert!(head.contains("etag: \"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\""), "{head}");
    let (head, body) =
        served.ask("POST /api/models/org/m/paths-info/main", "", "paths=1_Pooling&expand=false");
    let told: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert!(head.starts_with("http/1.1 200") && told[0]["type"] == "directory", "{head} {told}");
    let (head, _) = served.ask("POST /api/models/org/m", "", "");
    assert!(head.starts_with("http/1.1 403") && head.contains("tenpak pack"), "{head}");
    let (head, _) = served.ask("POST /org/m/resolve/main/config.json", "", "");
    assert!(head.starts_with("http/1.1 405"), "{head}");
    assert!(served.ask("GET /healthz", "", "").0.starts_with("http/1.1 200"));
}

#[test]
fn what_is_fetched_ahead_is_not_fetched_again() {
    let served = Served::new("ahead");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !served.ask("GET /readyz", "", "").0.starts_with("http/1.1 200") {
        assert!(std::time::Instant::now() < deadline, "it never gets ready");
    }
    let counts = || String::from_utf8(served.ask("GET /metrics", "", "").1).expect("text");
    let count = |name: &str| -> u64 {
        let text = counts();
        let line = text.lines().find(|line| line.starts_with(name)).expect("a count");
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let fetched = count("tenpak_edge_origin_bytes_total");
    let weights = std::fs::read(served.model.join("model.safetensors")).expect("the weights");
    assert!(fetched > weights.len() as u64 / 2);
    let (_, body) = served.ask("GET /org/m/resolve/main/model.safetensors", "", "");
    assert!(body == weights);
    assert_eq!(count("tenpak_edge_origin_bytes_total"), fetched);
    assert!(count("tenpak_edge_cache_hits_total") > 0);
}

/// A refusal that has not read the request's body says that the connection ends with it.
#[test]
fn a_refused_upload_ends_its_connection() {
    let served = Served::new("hub-refused");
    let mut stream = std::net::TcpStream::connect(&served.address).expect("the edge");
    let head = "POST /api/repos/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a request");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer, and the end");
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 403") && answer.contains("tenpak pack"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}
