//! Requests made to do harm: each gets its status, nothing outside the store is told, and the edge
//! serves on.

use std::sync::Arc;

use super::serving::{Edge, path, raw, statuses};
use tenpak::transport::Transport;
use tenpak::transport::dir::DirBackend;

const SECRET: &str = "the secret beside the store";

/// An edge over a folder that has a secret above it, in it, and beside its folders.
async fn edge() -> (tempfile::TempDir, Edge) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = dir.path().join("store");
    let files = DirBackend::new(store.clone());
    files.put(&path("tables/a"), vec!["table".into()]).await.expect("a write");
    for place in [dir.path().join("secret"), store.join("secret"), store.join("tables/.secret")] {
        std::fs::write(place, SECRET).expect("a file");
    }
    std::os::unix::fs::symlink(dir.path(), store.join("packs")).expect("a link");
    let edge = Edge::over(Arc::new(files)).await;
    (dir, edge)
}

#[tokio::test]
async fn nothing_outside_the_store_is_served() {
    let (_dir, edge) = edge().await;
    for target in [
        "/tables/../secret",
        "/tables/../../secret",
        "/tables/%2e%2e/secret",
        "/tables/%2e%2e%2fsecret",
        "/tables/..%2f..%2fsecret",
        "/tables/%252e%252e/secret",
        "/tables/%252e%252e%252fsecret",
        "/tables/..%5c..%5csecret",
        "/tables/%c0%ae%c0%ae/secret",
        "/tables/..;/secret",
        "/tables//../secret",
        "/tables/./../secret",
        "//secret",
        "/secret",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/tables/.secret",
        "/tables/%2esecret",
        "/tables/a%00",
        "/tables/%00/../../secret",
        "/tables/a%0d%0aX:%20y",
        "/tables/%",
        "/tables/%zz",
        "/packs/secret",
        "/packs/store/secret",
        "/org/m/resolve/main/../../secret",
        "/org/m/resolve/main/%2e%2e%2f%2e%2e%2fsecret",
        "/..%2fm/resolve/main/secret",
        "/api/models/..%2f..%2fsecret",
        "/api/models/org/m/tree/..%2f/secret",
        "http://127.0.0.1/secret",
        "http://elsewhere/tables/../secret",
        "file:///etc/passwd",
    ] {
        for method in ["GET", "HEAD"] {
            let (head, body) = edge.ask(&format!("{method} {target}"), "").await;
            let status: u16 = head[9..12].parse().expect("a status");
            assert!([400, 404].contains(&status), "{method} {target}: {head}");
            let told = head + &String::from_utf8_lossy(&body);
            assert!(!told.contains(SECRET) && !told.contains("root:"), "{target}: {told}");
        }
    }
    // The absolute form and another host mean the same objects.
    let (head, body) = edge.ask("GET http://elsewhere/tables/a", "").await;
    assert!(head.starts_with("http/1.1 200") && body == b"table", "{head}");
    edge.end().await;
}

#[tokio::test]
async fn malformed_and_oversized_heads_have_their_status() {
    let (_dir, edge) = edge().await;
    let long = "a".repeat(10_000);
    let longest = "a".repeat(70_000);
    let line = |rest: &str| format!("GET /tables/a HTTP/1.1\r\nHost: x\r\n{rest}\r\n");
    let fields = |count: usize| (0..count).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let cases = [
        ("a long path", format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
        ("a longer path", format!("GET /{longest} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
        ("many fields", line(&fields(150)), 431),
        ("a long field", line(&format!("X: {}\r\n", "y".repeat(40_000))), 431),
        ("a field without end", format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(1_000_000)), 431),
        ("no version", "GET /tables/a\r\n\r\n".to_owned(), 400),
        ("another protocol", "SSH-2.0-x\r\n\r\n".to_owned(), 400),
        ("a blank in a name", line("Host : x\r\n"), 400),
        ("a field without colon", line("Nothing\r\n"), 400),
        ("NUL in a value", line("X: a\0b\r\n"), 400),
        ("NUL in the path", "GET /tables/\0a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("a folded field", line("X: a\r\n b\r\n"), 400),
        ("a bare CR", line("X: a\rb\r\n"), 400),
        ("version 1.2", "GET /tables/a HTTP/1.2\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("version 3", "GET /tables/a HTTP/3.0\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("no host", "GET /tables/a HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("two hosts", line("Host: y\r\nConnection: close\r\n"), 400),
    ];
    for (what, request, status) in cases {
        let answer = raw(&edge.address, request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{what}: {answer:.300}");
    }
    let (head, _) = edge.ask("GET /tables/a", "").await;
    assert!(head.starts_with("http/1.1 200"), "it serves on: {head}");
    edge.end().await;
}

/// Two readers of one connection must never see two different sequences of requests. Each shape is
/// refused and its connection closed, so that what follows is nobody's request; where HTTP allows one
/// reading only, that is the one.
#[tokio::test]
async fn no_request_hides_in_another() {
    let (_dir, edge) = edge().await;
    let hidden = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let after = format!("0\r\n\r\n{hidden}");
    let length = hidden.len();
    let get = |fields: &str| format!("GET /tables/a HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let form = "/api/models/org/m/paths-info/main";
    let post = |fields: &str| format!("POST {form} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    for (what, request, expected) in [
        ("length, then chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), 411),
        ("chunks, then length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"), 411),
        ("chunks in a GET", get("Transfer-Encoding: chunked\r\n"), 411),
        ("an odd coding", get("Transfer-Encoding: xchunked\r\n"), 400),
        ("chunked twice", get("Transfer-Encoding: chunked, chunked\r\n"), 411),
        ("a coding after chunked", get("Transfer-Encoding: chunked, identity\r\n"), 400),
        ("a folded coding", get("Transfer-Encoding:\r\n chunked\r\n"), 400),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        ("a list of lengths", post("Content-Length: 5, 6\r\n"), 400),
        ("a signed length", post("Content-Length: +5\r\n"), 400),
        ("a negative length", post("Content-Length: -5\r\n"), 400),
        ("a huge length", post("Content-Length: 99999999999999999999\r\n"), 400),
        ("a hexadecimal length", post("Content-Length: 0x5\r\n"), 400),
        ("a blank before the colon", post("Content-Length : 5\r\n"), 400),
    ] {
        let answer = raw(&edge.address, format!("{request}{after}").as_bytes()).await;
        assert_eq!(statuses(&answer), [expected], "{what}: {answer}");
    }
    // A body that a GET declares is its own, and the next request begins behind it.
    let declared = format!("{}{hidden}{hidden}", get(&format!("Content-Length: {length}\r\n")));
    let answer = raw(&edge.address, declared.as_bytes()).await;
    assert!([&[200, 200][..], &[200]].contains(&&*statuses(&answer)), "{answer}");
    // Lines may end in a bare LF (RFC 9112, 2.2): the request is the same, and the only one.
    let bare = "GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n";
    assert_eq!(statuses(&raw(&edge.address, bare.as_bytes()).await), [200]);
    edge.end().await;
}
