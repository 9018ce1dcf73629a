//! Web servers, good and bad: the right bytes, or an error of the right kind, and never a hang.
//!
//! One file: a list of servers, each with its fault.

#![cfg(feature = "cli")]

#[path = "support/web.rs"]
mod web;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{
    ObjectPath, ReadRange, Transport, TransportError, TransportErrorKind, Version,
};
use web::{Step, WebServer, answer, correct};

const LIMIT: u64 = 1 << 30;

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("a path")
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn transport(url: &str) -> HttpBackend {
    HttpBackend::new(url, HttpOptions::default()).expect("a backend")
}

/// Tries again at once, and takes half a second of silence for a stall.
fn eager(retries: u32) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    policy.retries = retries;
    policy.first_pause = Duration::from_millis(1);
    policy.longest_pause = Duration::from_millis(5);
    policy.stall = Duration::from_millis(500);
    policy
}

async fn get(url: &str, range: ReadRange) -> Result<(Bytes, Option<Version>), TransportError> {
    let read = read_all(&transport(url), &path("packs/a"), range, LIMIT, &eager(0)).await;
    if let Err(e) = &read {
        // Every error names the store and the object.
        assert!(e.to_string().starts_with(&format!("{url}/: packs/a: ")), "{e}");
    }
    read
}

#[tokio::test]
async fn good_servers_are_read() {
    let object = pattern(300_000);
    let served = object.clone();
    let server = WebServer::start(move |_, head| vec![Step::Send(correct(head, &served))]).await;
    let b = transport(&server.url);
    for (range, start, end) in [
        (ReadRange::Full, 0, 300_000),
        (ReadRange::Bounded(0..1), 0, 1),
        (ReadRange::Bounded(1000..250_000), 1000, 250_000),
        (ReadRange::Bounded(0..300_000), 0, 300_000),
        (ReadRange::Suffix(17), 300_000 - 17, 300_000),
        (ReadRange::Suffix(u64::MAX), 0, 300_000),
    ] {
        let read = read_all(&b, &path("packs/a"), range.clone(), LIMIT, &eager(0)).await;
        assert!(read.expect("a read").0 == object[start..end], "{range:?}");
    }
    for range in [300_000..300_001, 299_999..300_001, 999_999..1_000_000] {
        let got = b.open(&path("packs/a"), ReadRange::Bounded(range)).await;
        assert_eq!(got.expect_err("an error").kind, TransportErrorKind::OutOfRange);
    }
    assert_eq!(server.connections(), 1, "keep-alive");
    let empty = WebServer::start(|_, head| vec![Step::Send(correct(head, b""))]).await;
    for range in [ReadRange::Suffix(10), ReadRange::Full] {
        assert_eq!(get(&empty.url, range).await.expect("no bytes").0, "");
    }
}

#[tokio::test]
async fn paths_and_headers_are_sent_as_they_should() {
    let server = WebServer::start(|_, head| vec![Step::Send(correct(head, b"x"))]).await;
    let b = transport(&format!("{}/some/prefix/", server.url));
    let range = ReadRange::Bounded(0..1);
    b.open(&path("refs/a b/@v1?#%2e"), range).await.expect("a read");
    let request = server.requests().remove(0);
    let line = "GET /some/prefix/refs/a%20b/@v1%3F%23%252e HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    let request = request.to_ascii_lowercase();
    assert!(request.contains("\r\nrange: bytes=0-0\r\n"), "{request}");
    assert!(request.contains("\r\naccept-encoding: identity\r\n"), "{request}");
}

#[tokio::test]
async fn head_tells_size_time_and_absence() {
    let server = WebServer::start(|number, _| {
        let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
        vec![Step::Send(match number {
            0 => answer("200 OK", &["Content-Length: 12345", date], b""),
            1 => answer("404 Not Found", &["Content-Length: 99"], b""),
            _ => answer("200 OK", &["Connection: close"], b""),
        })]
    })
    .await;
    let b = transport(&server.url);
    let info = b.head(&path("a")).await.expect("a head").expect("an object");
    let time = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!((info.size, info.modified), (12345, time));
    assert_eq!(b.head(&path("a")).await.expect("a head"), None);
    let unknown = b.head(&path("a")).await.expect_err("no size");
    assert_eq!(unknown.kind, TransportErrorKind::Protocol);
}

#[tokio::test]
async fn a_whole_object_may_come_for_a_range() {
    let object = pattern(50_000);
    let served = object.clone();
    let server = WebServer::start(move |_, _| {
        vec![Step::Send(answer("200 OK", &["Content-Length: 50000"], &served))]
    })
    .await;
    let reader = transport(&server.url)
        .open(&path("packs/a"), ReadRange::Bounded(100..200))
        .await
        .expect("a read");
    assert_eq!((reader.range, reader.size), (0..50_000, Some(50_000)));
    for (range, start, end) in [
        (ReadRange::Bounded(40_000..40_001), 40_000, 40_001),
        (ReadRange::Suffix(3), 49_997, 50_000),
    ] {
        assert!(get(&server.url, range).await.expect("a read").0 == object[start..end]);
    }
    let beyond = get(&server.url, ReadRange::Bounded(49_999..50_001)).await;
    assert_eq!(beyond.expect_err("an error").kind, TransportErrorKind::OutOfRange);
}

#[tokio::test]
async fn chunked_bodies_are_read() {
    let server = WebServer::start(|number, _| {
        let chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        let chunked = "Transfer-Encoding: chunked";
        let range = ["Content-Range: bytes 10-20/99", "Content-Range: bytes 10-19/99"];
        vec![Step::Send(match number {
            0 | 1 => answer("200 OK", &[chunked], chunks),
            2 => answer("206 Partial Content", &[chunked, range[0]], chunks),
            _ => answer("206 Partial Content", &[chunked, range[1]], chunks),
        })]
    })
    .await;
    let (whole, _) = get(&server.url, ReadRange::Full).await.expect("a read");
    assert_eq!(whole, "hello world");
    let (part, _) = get(&server.url, ReadRange::Bounded(3..8)).await.expect("a read");
    assert_eq!(part, "lo wo");
    let (part, _) = get(&server.url, ReadRange::Bounded(10..21)).await.expect("a read");
    assert_eq!(part, "hello world");
    // One byte more than the range says.
    let long = get(&server.url, ReadRange::Bounded(10..20)).await;
    assert_eq!(
        long.map(|(bytes, _)| bytes.len()).map_err(|e| e.kind),
        Err(TransportErrorKind::Protocol)
    );
}

/// What no layer above has to notice: the body itself fails, or is not opened at all.
#[tokio::test]
async fn lengths_are_checked_where_they_are_known() {
    let server = WebServer::start(|number, _| {
        let (range, body) = ("Content-Range: bytes 0-19/20", b"b\r\nhello world\r\n0\r\n\r\n");
        vec![Step::Send(match number {
            0 => answer("206 Partial", &[range, "Transfer-Encoding: chunked"], body),
            _ => answer("206 Partial", &[range, "Content-Length: 11"], b"hello world"),
        })]
    })
    .await;
    let b = transport(&server.url);
    let (at, range) = (path("a"), ReadRange::Bounded(0..20));
    let mut reader = b.open(&at, range.clone()).await.expect("an answer");
    let mut out = BytesMut::new();
    let ended = loop {
        match reader.body.append(&mut out, 100).await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind),
        }
    };
    assert_eq!(ended, Err(TransportErrorKind::Protocol));
    let refused = b.open(&at, range).await;
    assert_eq!(refused.expect_err("an error").kind, TransportErrorKind::Protocol);
}

/// One bad answer each: what it is, what was asked, what the server does, what must come of it.
#[tokio::test]
async fn bad_answers_get_the_right_error() {
    use TransportErrorKind::*;
    let send = |status: &str, headers: &[&str], body: &[u8]| {
        vec![Step::Send(answer(status, headers, body))]
    };
    let part = |headers: &[&str], body: &[u8]| send("206 Partial Content", headers, body);
    let then = |mut steps: Vec<Step>, step: Step| {
        steps.push(step);
        steps
    };
    let range = || ReadRange::Bounded(10..20);
    let (full, suffix) = (ReadRange::Full, ReadRange::Suffix(10));
    let ten = b"0123456789";
    let (l5, l10) = ("Content-Length: 5", "Content-Length: 10");
    let right = "Content-Range: bytes 10-19/100";
    let huge = format!("X-Huge: {}", "x".repeat(2 << 20));
    let many: Vec<String> = (0..5000).map(|i| format!("X-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    #[rustfmt::skip]
    let cases = [
        ("short body", range(), then(part(&[right, l10], b"01234"), Step::Close), Protocol),
        ("reset in the body", range(), then(part(&[right, l10], b"01234"), Step::Reset), Transient),
        ("reset before the answer", range(), vec![Step::Reset], Transient),
        ("closed before the answer", range(), vec![Step::Close], Transient),
        ("closed in the headers", range(), vec![Step::Send(b"HTTP/1.1 206 Par".to_vec()), Step::Close], Transient),
        ("other range", range(), part(&["Content-Range: bytes 11-20/100", l10], ten), Protocol),
        ("shorter range", range(), part(&["Content-Range: bytes 10-14/100", l5], b"01234"), Protocol),
        ("longer range", range(), part(&["Content-Range: bytes 10-20/100", "Content-Length: 11"], b"0123456789a"), Protocol),
        ("object too short", range(), part(&["Content-Range: bytes 10-14/15", l5], b"01234"), OutOfRange),
        ("length disagrees", range(), part(&[right, "Content-Length: 11"], b"0123456789a"), Protocol),
        ("length is no number", range(), part(&[right, "Content-Length: ten"], ten), Protocol),
        ("two lengths", range(), part(&[right, l10, l5], ten), Protocol),
        ("no Content-Range", range(), part(&[l10], ten), Protocol),
        ("nonsense Content-Range", range(), part(&["Content-Range: bytes 19-10/100", l10], ten), Protocol),
        ("overflowing Content-Range", range(), part(&["Content-Range: bytes 10-18446744073709551615/*", l10], ten), Protocol),
        ("size smaller than range", range(), part(&["Content-Range: bytes 10-19/15", l10], ten), Protocol),
        ("multipart", range(), part(&["Content-Type: multipart/byteranges; boundary=x", l10], ten), Protocol),
        ("206 unasked", full.clone(), part(&["Content-Range: bytes 0-9/10", l10], ten), Protocol),
        ("suffix elsewhere", suffix.clone(), part(&["Content-Range: bytes 80-89/100", l10], ten), Protocol),
        ("suffix of unknown size", suffix.clone(), part(&["Content-Range: bytes 90-99/*", l10], ten), Protocol),
        ("suffix without length", suffix, send("200 OK", &["Connection: close"], ten), Protocol),
        ("gzip", full.clone(), send("200 OK", &["Content-Encoding: gzip", l10], ten), Protocol),
        ("broken chunk", full.clone(), then(send("200 OK", &["Transfer-Encoding: chunked"], b"zz\r\nhello"), Step::Close), Protocol),
        ("endless chunk length", full.clone(), send("200 OK", &["Transfer-Encoding: chunked"], &[b'f'; 64]), Protocol),
        ("unfinished chunks", full.clone(), then(send("200 OK", &["Transfer-Encoding: chunked"], b"5\r\nhello\r\n"), Step::Close), Protocol),
        ("no HTTP", full.clone(), vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())], Protocol),
        ("huge header", full.clone(), send("200 OK", &[&huge, l10], ten), Protocol),
        ("many headers", full.clone(), send("200 OK", &many, ten), Protocol),
        ("stall before the answer", range(), vec![Step::Stall], Stalled),
        ("stall in the headers", range(), vec![Step::Send(b"HTTP/1.1 206 Par".to_vec()), Step::Stall], Stalled),
        ("stall in the body", range(), then(part(&[right, l10], b"01234"), Step::Stall), Stalled),
        ("slow headers", range(), vec![Step::Drip(b"HTTP/1.1 206 Partial Content\r\n".to_vec(), Duration::from_millis(100))], Stalled),
        ("404", range(), send("404 Not Found", &["Content-Length: 0"], b""), NotFound),
        ("410", range(), send("410 Gone", &["Content-Length: 0"], b""), NotFound),
        ("416", range(), send("416 Range Not Satisfiable", &["Content-Length: 0"], b""), OutOfRange),
        ("401", range(), send("401 Unauthorized", &["Content-Length: 0"], b""), Denied),
        ("403", range(), send("403 Forbidden", &["Content-Length: 0"], b""), Denied),
        ("400", range(), send("400 Bad Request", &["Content-Length: 0"], b""), Denied),
        ("408", range(), send("408 Request Timeout", &["Content-Length: 0"], b""), Transient),
        ("429", range(), send("429 Too Many Requests", &["Content-Length: 0"], b""), Transient),
        ("500", range(), send("500 Oops", &["Content-Length: 0"], b""), Transient),
        ("503 without end", range(), then(send("503 Busy", &["Content-Length: 99"], b"wait"), Step::Stall), Transient),
        ("304", range(), send("304 Not Modified", &[], b""), Protocol),
        ("204", range(), send("204 No Content", &[], b""), Protocol),
        ("redirect to itself", range(), send("302 Found", &["Location: a", "Content-Length: 0"], b""), Protocol),
        ("redirect nowhere", range(), send("302 Found", &["Content-Length: 0"], b""), Protocol),
        ("redirect to a file", range(), send("302 Found", &["Location: file:///etc/passwd", "Content-Length: 0"], b""), Invalid),
    ];
    for (what, asked, steps, expected) in cases {
        let server = WebServer::start(move |_, _| steps.clone()).await;
        let start = std::time::Instant::now();
        let got = get(&server.url, asked).await;
        let got = got.map(|(bytes, _)| bytes).map_err(|e| (e.kind, e.to_string()));
        assert!(matches!(&got, Err((kind, _)) if *kind == expected), "{what}: {got:?}");
        assert!(start.elapsed() < Duration::from_secs(4), "{what} took {:?}", start.elapsed());
        if what == "redirect to itself" {
            assert_eq!(server.requests().len(), 11, "ten redirects are followed");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = get(&url, ReadRange::Full).await.expect_err("an error");
    assert_eq!(error.kind, TransportErrorKind::Transient);
}

#[tokio::test]
async fn a_slow_loris_is_not_a_stall_but_patience_ends_somewhere() {
    let drip = |length: usize| {
        WebServer::start(move |_, _| {
            let length_line = format!("Content-Length: {length}");
            let head = answer("200 OK", &[&length_line], b"");
            vec![Step::Send(head), Step::Drip(vec![b'x'; length], Duration::from_millis(20))]
        })
    };
    let server = drip(10).await;
    let (bytes, _) = get(&server.url, ReadRange::Full).await.expect("a slow read");
    assert_eq!(bytes.len(), 10);
    let server = drip(1000).await;
    let error = get(&server.url, ReadRange::Full).await.expect_err("an error");
    assert_eq!(error.kind, TransportErrorKind::Stalled, "{error}");
}

#[tokio::test]
async fn transient_failures_are_tried_again() {
    let server = WebServer::start(|number, head| {
        let object = pattern(5000);
        match number {
            0 => vec![Step::Send(answer("503 Busy", &["Content-Length: 4"], b"busy"))],
            1 => vec![Step::Reset],
            2 => vec![Step::Stall],
            3 => {
                let mut cut = correct(head, &object);
                cut.truncate(cut.len() - 1000);
                vec![Step::Send(cut), Step::Close]
            }
            _ => vec![Step::Send(correct(head, &object))],
        }
    })
    .await;
    let b = transport(&server.url);
    let range = ReadRange::Bounded(100..4000);
    let read = read_all(&b, &path("packs/a"), range, LIMIT, &eager(4)).await;
    assert!(read.expect("a read").0 == pattern(5000)[100..4000]);
    assert_eq!(server.requests().len(), 5);

    let server = WebServer::start(|_, _| {
        let headers = ["Content-Length: 0", "Retry-After: 7"];
        vec![Step::Send(answer("429 Slow Down", &headers, b""))]
    })
    .await;
    let read = read_all(&transport(&server.url), &path("a"), ReadRange::Full, 9, &eager(2)).await;
    let error = read.expect_err("an error");
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(server.requests().len(), 3);

    let server = WebServer::start(|_, _| vec![Step::Send(answer("404 No", &[], b""))]).await;
    let read = read_all(&transport(&server.url), &path("a"), ReadRange::Full, 9, &eager(4)).await;
    assert_eq!(read.expect_err("an error").kind, TransportErrorKind::NotFound);
    assert_eq!(server.requests().len(), 1, "what is not there is not asked for again");
}

#[tokio::test]
async fn redirects_are_followed() {
    for status in ["301", "302", "303", "307", "308"] {
        let object = pattern(1000);
        let served = object.clone();
        let server = WebServer::start(move |number, head| {
            let to = |location| {
                let headers = [location, "Content-Length: 5"];
                answer(&format!("{status} Elsewhere"), &headers, b"moved")
            };
            vec![Step::Send(match number {
                0 => to("Location: ../other/b?token=1"),
                1 => to("Location: /c"),
                _ => correct(head, &served),
            })]
        })
        .await;
        let read = get(&server.url, ReadRange::Bounded(10..20)).await.expect("a read");
        assert!(read.0 == object[10..20]);
        let requests = server.requests();
        let lines: Vec<_> = requests.iter().filter_map(|head| head.lines().next()).collect();
        let expected = ["/packs/a", "/other/b?token=1", "/c"];
        assert_eq!(lines, expected.map(|p| format!("GET {p} HTTP/1.1")), "{status}");
        assert!(requests.iter().all(|head| head.to_lowercase().contains("range: bytes=10-19")));
        assert_eq!(server.connections(), 1, "the connection is used again");
    }
}

/// A read that is dropped while it waits loses nothing: the next one goes on behind it.
#[tokio::test]
async fn a_cancelled_read_loses_no_byte() {
    let object = pattern(2000);
    let served = object.clone();
    let server = WebServer::start(move |_, head| {
        let all = correct(head, &served);
        let pause = Duration::from_millis(1);
        let (start, rest) = all.split_at(all.len() - 200);
        vec![Step::Send(start.to_vec()), Step::Drip(rest.to_vec(), pause)]
    })
    .await;
    let b = transport(&server.url);
    let mut reader = b.open(&path("a"), ReadRange::Full).await.expect("a read");
    let mut out = BytesMut::new();
    let mut cancelled = 0;
    while out.len() < object.len() {
        let read = reader.body.append(&mut out, 7);
        match tokio::time::timeout(Duration::from_micros(300), read).await {
            Ok(read) => assert_ne!(read.expect("a read"), 0),
            Err(_) => cancelled += 1,
        }
    }
    assert!(out == object[..]);
    assert!(cancelled > 20, "only {cancelled} reads were cancelled");
}

/// A reader that takes nothing holds the server back instead of filling memory.
#[tokio::test]
async fn back_pressure_reaches_the_server() {
    const SIZE: usize = 256 << 20;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let n = stream.read(&mut request).await.expect("a request");
        assert_ne!(n, 0);
        let head = answer("200 OK", &[&format!("Content-Length: {SIZE}")], b"");
        stream.write_all(&head).await.expect("a header");
        let block = vec![0; 64 << 10];
        while stream.write_all(&block).await.is_ok() {
            count.fetch_add(block.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    let mut reader = transport(&url).open(&path("a"), ReadRange::Full).await.expect("a read");
    let mut out = BytesMut::new();
    reader.body.append(&mut out, 1000).await.expect("a read");
    // The server is held back once its count has stood still for a second.
    let now = || sent.load(std::sync::atomic::Ordering::SeqCst);
    let (mut last, mut still) = (0, 0);
    while last == 0 || still < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        still = if now() == last { still + 1 } else { 0 };
        last = now();
        assert!(last < 32 << 20, "{last} bytes were sent to a reader that took 1000");
    }
    // It was the reader that held it back: what is taken lets as much follow.
    let mut taken = out.len();
    while now() == last {
        out.clear();
        let more = reader.body.append(&mut out, 1 << 20).await.expect("a read");
        assert_ne!(more, 0, "all that was sent was taken, and nothing follows");
        taken += more;
        assert!(taken <= 32 << 20, "{taken} bytes were taken, and nothing follows");
    }
    server.abort();
}

#[tokio::test]
async fn it_takes_no_writes() {
    let b = transport("http://127.0.0.1:1");
    let put = b.put(&path("a"), vec![]).await;
    assert_eq!(put.expect_err("an error").kind, TransportErrorKind::ReadOnly);
    let delete = b.delete(&path("a")).await;
    assert_eq!(delete.expect_err("an error").kind, TransportErrorKind::ReadOnly);
    let list = b.list("").await;
    assert_eq!(list.expect_err("an error").kind, TransportErrorKind::Unlistable);
}

/// A TLS server with a certificate of its own, which offers `protocols`; returns its address, its
/// certificate and the HTTP versions it was asked in, each with the number of the connection. Over HTTP/2 it
/// takes one stream at a time, and says GOAWAY after each answer.
async fn tls_server(
    protocols: &[&[u8]],
    redirect: Option<String>,
) -> (String, Vec<u8>, Arc<std::sync::Mutex<Vec<(usize, hyper::Version)>>>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a key");
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let versions = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = versions.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (acceptor, seen, redirect) = (acceptor.clone(), seen.clone(), redirect.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let answered = tokio::sync::Notify::new();
                let service = hyper::service::service_fn(|request: hyper::Request<_>| {
                    let _: &hyper::body::Incoming = request.body();
                    seen.lock().expect("a list").push((number, request.version()));
                    answered.notify_one();
                    let response = match &redirect {
                        Some(to) => hyper::Response::builder().status(302).header("location", to),
                        None => hyper::Response::builder().status(200).header("etag", "\"v\""),
                    };
                    let body = Full::new(Bytes::from(pattern(3_000_000)));
                    let response = response.body(body).expect("a response");
                    std::future::ready(Ok::<_, Infallible>(response))
                });
                let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                server.http2().max_concurrent_streams(1);
                let mut served =
                    std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
                let ended = tokio::select! {
                    ended = served.as_mut() => ended,
                    () = answered.notified() => {
                        if seen.lock().expect("a list").last().is_some_and(|last| last.1 == hyper::Version::HTTP_2) {
                            served.as_mut().graceful_shutdown();
                        }
                        served.await
                    }
                };
                if let Err(e) = ended {
                    eprintln!("connection: {e}");
                }
            });
        }
    });
    let url = format!("https://localhost:{port}");
    (url, made.cert.pem().into_bytes(), versions)
}

fn trusting(url: &str, pem: Vec<u8>) -> HttpBackend {
    let mut options = HttpOptions::default();
    options.roots_pem = Some(pem);
    HttpBackend::new(url, options).expect("a backend")
}

#[tokio::test]
async fn https_speaks_the_version_that_was_agreed() {
    for (protocols, version) in [
        // Bodies of HTTP/1.1 come straight from the socket: HTTP/2 is for servers that take nothing else.
        (&[&b"h2"[..], b"http/1.1"][..], hyper::Version::HTTP_11),
        (&[&b"http/1.1"[..]][..], hyper::Version::HTTP_11),
        (&[&b"h2"[..]][..], hyper::Version::HTTP_2),
    ] {
        let (url, pem, versions) = tls_server(protocols, None).await;
        let b = trusting(&url, pem);
        let at = path("packs/a");
        for _ in 0..2 {
            let reads = (0..4).map(|_| async {
                let range = ReadRange::Bounded(1_000_000..2_000_000);
                read_all(&b, &at, range, LIMIT, &eager(0)).await
            });
            for read in futures_util::future::join_all(reads).await {
                let (bytes, tag) = read.expect("a read");
                assert!(bytes == pattern(3_000_000)[1_000_000..2_000_000]);
                assert_eq!(tag, Some(Version::tagged("\"v\"")));
            }
        }
        let seen = versions.lock().expect("a list").clone();
        assert!(seen.len() == 8 && seen.iter().all(|seen| seen.1 == version), "{seen:?}");
        // Limits are per connection: each of four requests at a time has its own.
        let mut connections: Vec<_> = seen[..4].iter().map(|seen| seen.0).collect();
        connections.sort_unstable();
        connections.dedup();
        assert_eq!(connections.len(), 4, "{seen:?}");
    }
}

#[tokio::test]
async fn https_is_not_left_and_its_certificate_is_checked() {
    let plain = WebServer::start(|_, head| vec![Step::Send(correct(head, b"plain"))]).await;
    let (url, pem, _) = tls_server(&[b"h2"], Some(format!("{}/a", plain.url))).await;
    let left = trusting(&url, pem).open(&path("a"), ReadRange::Full).await;
    assert_eq!(left.expect_err("an error").kind, TransportErrorKind::Invalid);
    assert_eq!(plain.requests().len(), 0);

    let (_, other_pem, _) = tls_server(&[b"h2"], None).await;
    let untrusted = trusting(&url, other_pem).open(&path("a"), ReadRange::Full).await;
    let error = untrusted.expect_err("an error");
    assert_eq!(error.kind, TransportErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
