//! Any target and headers as a request to an edge: ranges, conditions, routes of all faces, listings,
//! signatures, tokens, traces. What comes with 200 or 206 are the object's bytes and no others, and what
//! costs to answer is bounded by the object.
#![no_main]

mod edge_exchange;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use edge_exchange::{Answer, Served, lines};
use libfuzzer_sys::fuzz_target;
use tenpak::edge::{Access, EdgeOptions, TraceTarget, UrlKey};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::{Transport, ObjectPath};

/// Targets that the first byte of the input names; the others are its first line.
const TARGETS: [&str; 8] = [
    "/packs/327e069f9055bc50447f266f46c6d6a9f1e741bfd8093a803351ae291c513ef6",
    "/packs/ea92e49eee6d29efbe29746d353800062f5e81885d568e321cf39d8e09f04439",
    "/refs/demo/tiny/@unsigned",
    "/layouts/98e2d185b6b364af9d66c42810ad0c80716082ad9b17af70857dfdcda1d653e7",
    "/manifests/98e2d185b6b364af9d66c42810ad0c80716082ad9b17af70857dfdcda1d653e7",
    "/tables/c3899d385e34e1dfd2a681c7a22330e9ffa64c9dc079b930acfe042fd8edf7b2",
    "/demo/tiny/resolve/main/config.json",
    "/s3/demo/tiny/config.json",
];
/// Nobody needs a token; who shows `test` reads less than everything.
const TOKENS: &str = "anonymous\nlimited sha256:\
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 repos=demo/*\n";

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let memory = Arc::new(ObjectBackend::memory());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/v1/store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(fill(&memory, &root, &root));
    let key = UrlKey::new(&[b'k'; 32]).expect("a key");
    let access = Access::default().with_tokens(TOKENS).expect("tokens").with_url_key(key);
    let traces = Some(TraceTarget::new("http://127.0.0.1:9").expect("an address"));
    let mut options = EdgeOptions::default();
    options.access = access;
    options.traces = traces;
    Served::new(memory, options)
});

async fn fill(memory: &ObjectBackend, root: &Path, folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the fixtures") {
        let place = entry.expect("an entry").path();
        if place.is_dir() {
            Box::pin(fill(memory, root, &place)).await;
            continue;
        }
        let path = place.strip_prefix(root).expect("below it").to_str().expect("text");
        let bytes = std::fs::read(&place).expect("a file");
        let path = ObjectPath::new(path).expect("a path");
        memory.put(&path, vec![bytes.into()]).await.expect("a write");
    }
}

/// The first and last byte, and the size, of `bytes A-B/SIZE`.
fn content_range(value: &str) -> (usize, usize, usize) {
    let (range, size) = value.strip_prefix("bytes ").and_then(|v| v.split_once('/')).expect("bytes");
    let (first, last) = range.split_once('-').expect("a range");
    let number = |text: &str| text.parse().expect("a number");
    (number(first), number(last), number(size))
}

fn is_demanding(lines: &[u8]) -> bool {
    lines.to_ascii_lowercase().windows(14).any(|word| word == b"only-if-cached")
}

fn check_part(value: &str, body: &[u8], whole: &[u8]) {
    let (first, last, size) = content_range(value);
    assert_eq!(size, whole.len());
    assert!(first <= last && body == &whole[first..=last], "other bytes than the object's");
}

fn check(answer: &Answer, whole: &[u8], demanding: bool) {
    match answer.status {
        200 => assert!(answer.body == whole),
        206 => {
            let kind = answer.header("content-type").expect("a type");
            let Some(boundary) = kind.strip_prefix("multipart/byteranges; boundary=") else {
                let range = answer.header("content-range").expect("a range");
                return check_part(range, &answer.body, whole);
            };
            let (mark, end) = (format!("\r\n--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
            let mut rest = answer.body.strip_suffix(end.as_bytes()).expect("an end");
            let mut parts = 0;
            while let Some(after) = rest.strip_prefix(mark.as_bytes()) {
                let at = after.windows(4).position(|w| w == b"\r\n\r\n").expect("a part's head");
                let head = std::str::from_utf8(&after[..at]).expect("text");
                let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: "));
                let range = range.expect("a range");
                let (first, last, _) = content_range(range);
                let (body, further) = after[at + 4..].split_at(last + 1 - first);
                check_part(range, body, whole);
                (rest, parts) = (further, parts + 1);
            }
            assert!(rest.is_empty() && (2..=100).contains(&parts), "{parts} parts");
            assert!(answer.body.len() <= whole.len() + parts * 200, "a part repeats bytes");
        }
        304 => assert!(answer.body.is_empty()),
        400..=499 => assert!(answer.body.len() < 1000),
        // What the client itself demands: nothing that has to be asked for (`only-if-cached`).
        504 if demanding => {}
        status => panic!("{status}"),
    }
    if answer.status != 304 && let Some(length) = answer.header("content-length") {
        assert_eq!(length, answer.body.len().to_string());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    if let Some(target) = TARGETS.get(usize::from(which)) {
        let whole = SERVED.ask("GET", target, &[]);
        assert_eq!(whole.status, 200, "{target}");
        let demanding = is_demanding(rest);
        return check(&SERVED.ask("GET", target, &lines(rest)), &whole.body, demanding);
    }
    let (target, rest) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &[][..]),
    };
    let Ok(target) = std::str::from_utf8(target) else { return };
    if target.is_empty() || target.contains([' ', '\r']) {
        return;
    }
    let method = ["GET", "HEAD", "OPTIONS", "POST", "PUT"][usize::from(which) % 5];
    let answer = SERVED.ask(method, target, &lines(rest));
    // An origin in memory always answers: nothing is the edge's or the origin's fault.
    // S3 calls so what it knows and this face does not.
    let allowed = match answer.status {
        504 => is_demanding(rest),
        status => status < 500 || status == 501 && target.contains("/s3"),
    };
    assert!(allowed, "{method} {target}: {answer:?}");
    if method == "HEAD" {
        assert!(answer.body.is_empty());
    }
});
