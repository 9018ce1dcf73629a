//! The edge over each kind of backend: right bytes, right headers, nothing outside the store.

use std::sync::Arc;

use super::serving::{Edge, path};
use bytes::Bytes;
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ReadRange, Transport, TransportErrorKind};

const SIZE: usize = 1_000_000;

fn object() -> Bytes {
    (0..SIZE).map(|i| (i * 7 + i / 251) as u8).collect()
}

async fn fill(transport: &dyn Transport) {
    for (name, content) in [
        ("tables/a", object()),
        ("tables/empty", Bytes::new()),
        ("refs/m/@v 1", "ref".into()),
        ("layouts/a", "layout".into()),
        ("tenpak.json", "{}".into()),
        ("private", "secret".into()),
        ("elsewhere/a", "secret".into()),
    ] {
        transport.put(&path(name), vec![content]).await.expect("a write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_backend_is_served() {
    let memory: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    fill(memory.as_ref()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let files: Arc<dyn Transport> = Arc::new(DirBackend::new(dir.path().to_owned()));
    fill(files.as_ref()).await;
    let skips = FaultBackend::new(memory.clone(), vec![Fault::always("", Action::WholeForRange)]);
    let first = Edge::over(memory.clone()).await;
    let chained: Arc<dyn Transport> = Arc::new(first.client());
    for transport in [memory, files, Arc::new(skips), chained] {
        let edge = Edge::over(transport).await;
        let client = edge.client();
        for (range, start, end) in [
            (ReadRange::Full, 0, SIZE),
            (ReadRange::Bounded(0..1), 0, 1),
            (ReadRange::Bounded(300_000..900_001), 300_000, 900_001),
            (ReadRange::Bounded(0..SIZE as u64), 0, SIZE),
            (ReadRange::Suffix(5), SIZE - 5, SIZE),
            (ReadRange::Suffix(u64::MAX), 0, SIZE),
        ] {
            let policy = RetryPolicy::default();
            let read = read_all(&client, &path("tables/a"), range.clone(), 1 << 30, &policy).await;
            assert!(read.expect("a read").0 == object().slice(start..end), "{range:?}");
        }
        let beyond = client.open(&path("tables/a"), ReadRange::Bounded(5..SIZE as u64 + 1)).await;
        assert_eq!(beyond.expect_err("an error").kind, TransportErrorKind::OutOfRange);
        let missing = client.open(&path("tables/missing"), ReadRange::Full).await;
        assert_eq!(missing.expect_err("an error").kind, TransportErrorKind::NotFound);
        let info = client.head(&path("tables/a")).await.expect("a head").expect("an object");
        assert_eq!(info.size, SIZE as u64);
        assert_eq!(client.head(&path("tables/missing")).await.expect("a head"), None);
        drop(client);
        edge.end().await;
    }
    first.end().await;
}

#[tokio::test]
async fn answers_say_what_they_hold() {
    let memory = Arc::new(ObjectBackend::memory());
    fill(memory.as_ref()).await;
    let edge = Edge::over(memory).await;
    let size = SIZE;
    #[rustfmt::skip]
    let cases = [
        ("GET /tables/a", "", "200 ok", format!("content-length: {size}"), "immutable", size),
        ("HEAD /tables/a", "", "200 ok", format!("content-length: {size}"), "immutable", 0),
        ("GET /tables/a", "Range: bytes=0-9\r\n", "206 ", format!("content-range: bytes 0-9/{size}"), "immutable", 10),
        ("GET /tables/a", "Range: bytes=999990-\r\n", "206 ", format!("content-range: bytes 999990-999999/{size}"), "immutable", 10),
        ("GET /tables/a", "Range: bytes=999990-2000000\r\n", "206 ", format!("content-range: bytes 999990-999999/{size}"), "immutable", 10),
        ("GET /tables/a", "Range: bytes=-3\r\n", "206 ", format!("content-range: bytes 999997-999999/{size}"), "immutable", 3),
        ("GET /tables/a", "Range: bytes=1000000-\r\n", "416 ", format!("content-range: bytes */{size}"), "no-cache", 22),
        ("GET /tables/a", "Range: bytes=-0\r\n", "416 ", format!("content-range: bytes */{size}"), "no-cache", 22),
        ("GET /tables/a", "Range: bytes=0-1,4-5\r\n", "206 ", format!("content-range: bytes 0-5/{size}"), "immutable", 6),
        ("GET /tables/a", "Range: bytes=9-5\r\n", "200 ok", format!("content-length: {size}"), "immutable", size),
        ("HEAD /tables/a", "Range: bytes=0-9\r\n", "200 ok", format!("content-length: {size}"), "immutable", 0),
        ("GET /tables/a", "Range: bytes=0-9\r\nIf-Range: \"a\"\r\n", "206 ", format!("content-range: bytes 0-9/{size}"), "immutable", 10),
        ("GET /tables/a", "Range: bytes=0-9\r\nIf-Range: \"b\"\r\n", "200 ok", format!("content-length: {size}"), "immutable", size),
        ("GET /tables/a", "If-None-Match: \"b\", W/\"a\"\r\n", "304 ", "etag: \"a\"".into(), "immutable", 0),
        ("GET /tables/a", "If-None-Match: *\r\n", "304 ", "etag: \"a\"".into(), "immutable", 0),
        ("GET /tables/a", "If-Match: \"b\"\r\n", "412 ", "etag: \"a\"".into(), "immutable", 20),
        ("GET /tables/empty", "", "200 ok", "content-length: 0".into(), "immutable", 0),
        ("GET /tables/empty", "Range: bytes=0-0\r\n", "416 ", "content-range: bytes */0".into(), "no-cache", 22),
        ("GET /refs/m/@v%201", "", "200 ok", "etag: \"".into(), "cache-control: public, max-age=5", 3),
        ("GET /refs/m/@v%201", "Range: bytes=1-\r\n", "206 ", "content-range: bytes 1-2/3".into(), "age: 0", 2),
        ("HEAD /refs/m/@v%201", "", "200 ok", "content-length: 3".into(), "date: ", 0),
        ("GET /layouts/a", "", "200 ok", "accept-ranges: bytes".into(), "cache-control: public, max-age=5", 6),
        ("GET /tenpak.json", "", "200 ok", "content-length: 2".into(), "immutable", 2),
        ("GET /private", "", "404 ", String::new(), "no-cache", 10),
        ("GET /elsewhere/a", "", "404 ", String::new(), "no-cache", 10),
        ("PUT /tables/new", "", "405 ", "allow: get, head, options".into(), "no-cache", 19),
        ("DELETE /tables/a", "", "405 ", "allow: get, head, options".into(), "no-cache", 19),
        ("OPTIONS /tables/a", "", "204 ", "allow: get, head, options".into(), "no-cache", 0),
        ("OPTIONS /elsewhere/a", "", "404 ", String::new(), "no-cache", 10),
    ];
    for (line, headers, status, holds, caching, length) in cases {
        let (head, body) = edge.ask(line, headers).await;
        let what = format!("{line} {headers}: {head}");
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{what}");
        assert!(head.contains(&holds) && head.contains(caching), "{what}; no {holds} or {caching}");
        assert_eq!(body.len(), length, "{what}");
    }
    let (head, _) = edge.ask("GET /refs/m/@v%201", "").await;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let condition = format!("If-None-Match: \"other\", {tag}\r\n");
    let (head, body) = edge.ask("GET /refs/m/@v%201", &condition).await;
    assert!(head.starts_with("http/1.1 304") && body.is_empty(), "{head}");
    edge.end().await;
}

#[tokio::test]
async fn an_origins_failure_is_never_a_short_object() {
    use TransportErrorKind::*;
    for (action, status) in [
        (Action::Fail(Transient), Some("503")),
        (Action::Fail(Denied), Some("502")),
        (Action::Fail(Protocol), Some("502")),
        (Action::Fail(Stalled), Some("504")),
        (Action::Fail(Io), Some("500")),
        (Action::Reset(500_000), None),
        (Action::EndEarly(500_000), None),
    ] {
        let memory = ObjectBackend::memory();
        fill(&memory).await;
        let faults = vec![Fault::always("tables/", action.clone())];
        let edge = Edge::over(Arc::new(FaultBackend::new(Arc::new(memory), faults))).await;
        let (head, body) = match status {
            Some(_) => edge.ask("GET /tables/a", "").await,
            None => (String::new(), Vec::new()),
        };
        match status {
            Some(status) => {
                assert!(head.starts_with(&format!("http/1.1 {status}")), "{action:?}: {head}");
                assert!(body.len() < 100);
            }
            None => {
                let mut policy = RetryPolicy::default();
                policy.retries = 0;
                let client = edge.client();
                let whole = ReadRange::Full;
                let read = read_all(&client, &path("tables/a"), whole, 1 << 30, &policy).await;
                assert!(read.expect_err("an error").is_transient(), "{action:?}");
            }
        }
        edge.end().await;
    }
}

#[tokio::test]
async fn a_download_under_way_is_finished_at_shutdown() {
    let memory = ObjectBackend::memory();
    fill(&memory).await;
    let big = Bytes::from(vec![7; 30_000_000]);
    memory.put(&path("tables/big"), vec![big.clone()]).await.expect("a write");
    let mut edge = Edge::over(Arc::new(memory)).await;
    let client = edge.client();
    let mut reader = client.open(&path("tables/big"), ReadRange::Full).await.expect("a read");
    drop(edge.stop.take());
    let mut out = bytes::BytesMut::new();
    while reader.body.append(&mut out, 1 << 20).await.expect("a read") > 0 {}
    assert!(out == big);
    drop((reader, client));
    edge.end().await;
}
