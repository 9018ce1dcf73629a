//! What keeps an edge running: limits, TLS, the log and the metrics, filling and emptying the cache, the
//! end without loss, and its settings.
//!
//! One file: short cases of one running edge.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::command::Served;
use super::run::{command, fresh_folder, pack, python_command, text};
use super::serving::{Edge, path};
use serde_json::Value;
use tenpak::edge::EdgeOptions;
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn store(size: usize) -> Arc<dyn Transport> {
    let memory = ObjectBackend::memory();
    memory.put(&path("tables/big"), vec![vec![7; size].into()]).await.expect("a write");
    memory.put(&path("refs/m/@a"), vec!["ref".into()]).await.expect("a write");
    Arc::new(memory)
}

fn status(head: &str) -> u16 {
    head[9..12].parse().expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_is_told_to_come_back() {
    const SIZE: usize = 64 << 20;
    let mut options = EdgeOptions::default();
    options.max_requests = 2;
    let edge = Edge::with(vec![store(SIZE).await], options).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(&edge.address).await.expect("the edge");
        let request = b"GET /tables/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("a request");
        // Its head is there: it has its place.
        stream.read_u8().await.expect("an answer");
        slow.push(stream);
    }
    let (head, _) = edge.ask("GET /refs/m/@a", "").await;
    assert_eq!(status(&head), 503, "{head}");
    assert!(head.contains("retry-after: 1"), "{head}");
    let (head, body) = edge.ask("GET /metrics", "").await;
    let told = String::from_utf8(body).expect("text");
    assert_eq!(status(&head), 200);
    assert!(told.contains("tenpak_edge_in_flight 2\n"), "{told}");
    assert!(told.contains("tenpak_edge_requests_saturated_total 1\n"), "{told}");
    let mut whole = Vec::new();
    slow.remove(0).read_to_end(&mut whole).await.expect("a body");
    assert!(whole.len() > SIZE);
    let mut head = String::new();
    for _ in 0..1000 {
        head = edge.ask("GET /refs/m/@a", "").await.0;
        if status(&head) == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&head), 200, "a place is free again: {head}");
    // Whoever goes away gives its place back, too.
    drop(slow);
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_loses_its_place() {
    let client_stall = Duration::from_millis(300);
    let mut options = EdgeOptions::default();
    options.max_requests = 1;
    options.client_stall = client_stall;
    let edge = Edge::with(vec![store(64 << 20).await], options).await;
    let mut stuck = tokio::net::TcpStream::connect(&edge.address).await.expect("the edge");
    let request = b"GET /tables/big HTTP/1.1\r\nHost: x\r\n\r\n";
    stuck.write_all(request).await.expect("a request");
    stuck.read_u8().await.expect("an answer");
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&edge.ask("GET /refs/m/@a", "").await.0) != 200 {
        assert!(Instant::now() < deadline, "it keeps its place");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, metrics) = edge.ask("GET /metrics", "").await;
    let metrics = String::from_utf8(metrics).expect("text");
    assert!(metrics.contains("tenpak_edge_answers_broken_total 1\n"), "{metrics}");
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_rate_waits() {
    let mut options = EdgeOptions::default();
    options.rate = Some(0.5);
    let edge = Edge::with(vec![store(10).await], options).await;
    assert_eq!(status(&edge.ask("GET /refs/m/@a", "").await.0), 200);
    let (head, _) = edge.ask("GET /refs/m/@a", "").await;
    assert_eq!(status(&head), 429, "{head}");
    assert!(head.contains("retry-after: 2") || head.contains("retry-after: 1"), "{head}");
    assert_eq!(status(&edge.ask("GET /healthz", "").await.0), 200);
    edge.end().await;
}

#[test]
fn curl_speaks_http_2_over_tls() {
    let folder = fresh_folder("tls");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let tls = ["--tls-cert", text(&chain), "--tls-key", text(&key)];
    let served = Served::with("tls-edge", &tls);
    let port = served.address.rsplit(':').next().expect("a port");
    let url = format!("https://localhost:{port}/org/m/resolve/main/model.safetensors");
    let right = std::fs::read(served.model.join("model.safetensors")).expect("the weights");
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let out = folder.join("out");
        let output = Command::new("curl")
            .args(["-sS", flag, "--cacert", text(&chain), "-o", text(&out)])
            .args(["-w", "%{http_version} %{http_code}", &url])
            .output()
            .expect("curl");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told, format!("{version} 200"), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::read(&out).expect("a file") == right);
    }
    let load =
        command(&["--json", "--store", &format!("https://localhost:{port}"), "load", "org/m"])
            .env("SSL_CERT_FILE", &chain)
            .output()
            .expect("a process");
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    // Plain HTTP on that port is no request.
    let mut stream = TcpStream::connect(&served.address).expect("the edge");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

/// Reads one answer from a connection that stays; gives its head and whether it was whole.
fn exchange(stream: &mut TcpStream, target: &str) -> Result<(String, usize), std::io::Error> {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let mut answer = Vec::new();
    let mut piece = vec![0; 1 << 16];
    let end = loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(ended());
        }
        answer.extend_from_slice(&piece[..count]);
        if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|l| l.parse().ok()).expect("a length");
    let mut got = answer.len() - end;
    while got < length {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(ended());
        }
        got += count;
    }
    Ok((head, got))
}

/// Clients that leave when they are told to, as load balancers do, lose nothing: every request that was
/// sent is answered whole, and the log has a line for each.
#[test]
fn the_end_loses_no_request() {
    let folder = fresh_folder("drain-log");
    let log = folder.join("access.log");
    let served = Served::with("drain", &["--access-log", text(&log), "--drain", "1"]);
    let size = std::fs::metadata(served.model.join("model.safetensors")).expect("a file").len();
    let target = "/org/m/resolve/main/model.safetensors";
    let (told, answered, after) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let pid = served.process.id().to_string();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(&served.address).expect("the edge");
                loop {
                    let (head, got) = exchange(&mut stream, target).expect("a whole answer");
                    assert_eq!((status(&head), got as u64), (200, size), "{head}");
                    answered.fetch_add(1, Ordering::SeqCst);
                    if told.load(Ordering::SeqCst) {
                        after.fetch_add(1, Ordering::SeqCst);
                    }
                    if head.contains("connection: close") {
                        return;
                    }
                }
            });
        }
        // One that takes its answer slowly, until long after the others are gone.
        let slow = scope.spawn(|| {
            let mut stream = TcpStream::connect(&served.address).expect("the edge");
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .expect("a request");
            let (mut piece, mut got) = (vec![0; 64 << 10], 0);
            loop {
                let count = stream.read(&mut piece).expect("bytes");
                if count == 0 {
                    return got;
                }
                got += count as u64;
                answered.fetch_add(u64::from(got == count as u64), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(12));
            }
        });
        while answered.load(Ordering::SeqCst) < 9 {
            std::thread::yield_now();
        }
        told.store(true, Ordering::SeqCst);
        let killed = Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
        assert!(killed.success());
        // It says so while it still answers.
        let mut ready = TcpStream::connect(&served.address).expect("the edge");
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let (head, _) = exchange(&mut ready, "/readyz").expect("an answer");
            if status(&head) == 503 {
                assert!(head.contains("connection: close"), "{head}");
                break;
            }
            assert!(Instant::now() < deadline, "it stays ready: {head}");
        }
        assert!(slow.join().expect("no panic") > size, "the slow one has all of it");
    });
    let mut served = served;
    let ended = served.process.wait().expect("an end");
    assert!(ended.success(), "{ended}");
    assert!(after.load(Ordering::SeqCst) >= 8, "requests were under way");
    let lines = std::fs::read_to_string(&log).expect("a log");
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let files: Vec<&Value> = lines.iter().filter(|line| line["path"] == target).collect();
    assert_eq!(files.len() as u64, answered.load(Ordering::SeqCst));
    for line in files {
        let told = (&line["status"], &line["bytes"], &line["complete"], &line["face"]);
        assert_eq!(told, (&200.into(), &size.into(), &true.into(), &"hub".into()), "{line}");
        assert!(line["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
        assert!(line["time"].as_f64().is_some_and(|time| time > 1.7e9), "{line}");
        assert_eq!((&line["client"], &line["who"]), (&"127.0.0.1".into(), &"anyone".into()));
    }
}

#[test]
fn the_log_says_who_asked_for_what_and_keeps_secrets() {
    let folder = fresh_folder("log");
    let log = folder.join("access.log");
    let served = Served::with("logged", &["--access-log", text(&log)]);
    let deadline = Instant::now() + Duration::from_secs(30);
    served.ask(
        "GET /org/m/resolve/main/config.json?signature=secret",
        "Range: bytes=1-2\r\nUser-Agent: me \"quoted\"\r\nAuthorization: Bearer secret\r\n",
        "",
    );
    served.ask(&format!("GET /{}", "x".repeat(5000)), "", "");
    let lines = loop {
        let content = std::fs::read_to_string(&log).expect("a log");
        if content.lines().count() >= 2 {
            break content;
        }
        assert!(Instant::now() < deadline, "no lines: {content}");
        std::thread::yield_now();
    };
    assert!(!lines.contains("secret"), "{lines}");
    let first: Value =
        lines.lines().next().and_then(|l| serde_json::from_str(l).ok()).expect("JSON");
    assert_eq!(first["path"], "/org/m/resolve/main/config.json");
    assert_eq!((&first["status"], &first["bytes"]), (&206.into(), &2.into()));
    assert_eq!((&first["range"], &first["agent"]), (&"bytes=1-2".into(), &"me \"quoted\"".into()));
    assert!(lines.lines().all(|line| line.len() < 1500), "{lines}");
    let (_, metrics) = served.ask("GET /metrics", "", "");
    let metrics = String::from_utf8(metrics).expect("text");
    for line in [
        "tenpak_edge_first_byte_seconds_count{face=\"hub\",outcome=\"ok\"} 1",
        "tenpak_edge_first_byte_seconds_bucket{face=\"hub\",outcome=\"ok\",le=\"+Inf\"} 1",
        "tenpak_edge_first_byte_seconds_count{face=\"own\",outcome=\"refused\"} 1",
        "tenpak_edge_log_lost_total 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line} in {metrics}");
    }
}

/// Every metric, as dashboards and alerts name it. The parser leaves `_total` out of a counter's name.
const METRICS: &str = "\
counter answers_broken, counter cache_collapsed, counter cache_hits, counter cache_misses, \
counter connections_refused, counter connections_silent, counter disk_damaged, counter disk_hits, \
counter disk_unwritten, counter hashed_bytes, counter log_lost, counter origin_bytes, counter origin_hedges, \
counter origin_requests, counter origin_retries, counter prefetch_failures, counter prefetched, \
counter requests_limited, counter requests_saturated, counter sent_bytes, counter verify_failures, \
gauge answer_bytes, gauge connections, gauge disk_bytes, gauge in_flight, gauge origins_resting, \
gauge prefetching, gauge spans_lost, histogram first_byte_seconds";

#[test]
fn prometheus_own_parser_reads_every_metric() {
    const READ: &str = "import sys, urllib.request as r\n\
        from prometheus_client.parser import text_string_to_metric_families as read\n\
        answer = r.urlopen(sys.argv[1])\n\
        assert answer.headers['content-type'].startswith('text/plain; version=0.0.4'), answer.headers\n\
        found = list(read(answer.read().decode()))\n\
        assert all(f.documentation[-1] == '.' for f in found)\n\
        assert all(s.labels == {} for f in found[:-1] for s in f.samples)\n\
        ok = {'face': 'hub', 'outcome': 'ok'}\n\
        of = lambda end: [s.value for s in found[-1].samples if ok.items() <= s.labels.items() and s.name.endswith(end)]\n\
        buckets = of('_bucket')\n\
        assert len(buckets) == 14 and buckets == sorted(buckets) and buckets[-1:] == of('_count') == [2], buckets\n\
        assert 0 < of('_sum')[0] < 60\n\
        print(', '.join(sorted(f.type + f.name.replace('tenpak_edge_', ' ') for f in found)))";
    let folder = fresh_folder("parsed");
    let (log, cache) = (folder.join("access.log"), folder.join("cache"));
    let more = ["--access-log", text(&log), "--cache-dir", text(&cache)];
    let served = Served::with("parsed-edge", &more);
    for _ in 0..2 {
        served.ask("GET /org/m/resolve/main/config.json", "", "");
    }
    let url = format!("http://{}/metrics", served.address);
    let read = python_command().args(["-c", READ, &url]).output().expect("python");
    let error = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{error}");
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), METRICS);
}

#[test]
fn what_happens_is_told_on_demand() {
    let folder = fresh_folder("told");
    let errors = folder.join("errors");
    let served = Served::new("told-edge");
    let store = served.folder.join("store");
    let load = |level: Option<&str>| {
        let mut load = command(&["load", "org/m", "--quiet", "--store", text(&store)]);
        level.map(|level| load.env("TENPAK_LOG", level));
        load.stderr(std::fs::File::create(&errors).expect("a file"));
        let ended = load.status().expect("a process");
        (ended.code(), std::fs::read_to_string(&errors).expect("text"))
    };
    assert_eq!(load(None), (Some(0), String::new()));
    let (status, told) = load(Some("debug"));
    assert!(status == Some(0) && told.contains("opened"), "{told}");
    assert_eq!(load(Some("loud")).0, Some(2));
    // A chunk that is damaged is told of, whatever becomes of the load.
    let names = super::run::names(&store, "packs/");
    let size = |name: &&String| store.join(name).metadata().expect("a pack").len();
    let pack = store.join(names.iter().max_by_key(size).expect("a pack"));
    let mut bytes = std::fs::read(&pack).expect("a pack");
    bytes[1000] ^= 1;
    std::fs::write(&pack, bytes).expect("written");
    let (status, told) = load(Some("warn"));
    assert_eq!(status, Some(4), "{told}");
    assert!(told.contains("WARN") && told.contains("chunk failed verification"), "{told}");
}

#[test]
fn operators_fill_and_empty_the_cache() {
    let folder = fresh_folder("admin");
    let (tokens, cache) = (folder.join("tokens"), folder.join("cache"));
    // The SHA-256 of `op`.
    let line = "op sha256:7f5ec2563af6d8d4b11eb6b6d87dd2e05aea6a2a2ae0ba2d1dc6f8b5ff41d8b1 admin\n";
    let digest = <sha2::Sha256 as sha2::Digest>::digest("op");
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = line.replace(&line[10..74], &digest);
    std::fs::write(&tokens, line).expect("a file");
    let more = ["--tokens", text(&tokens), "--cache-dir", text(&cache), "--cache-memory", "64M"];
    let served = Served::with("administered", &more);
    let token = "Authorization: Bearer op\r\n";
    let count = |name: &str| -> u64 {
        let metrics = String::from_utf8(served.ask("GET /metrics", "", "").1).expect("text");
        let line = metrics.lines().find(|line| line.starts_with(name)).expect("a count");
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
        }
    };
    let ready = || served.ask("GET /readyz", "", "").0.starts_with("http/1.1 200");
    wait("it never gets ready", &ready);
    let fetched = count("tenpak_edge_origin_bytes_total");
    assert!(fetched > 1 << 20);
    wait("chunks reach the disk", &|| count("tenpak_edge_disk_bytes ") == fetched);

    let (head, body) = served.ask("POST /purge?artifact=org/m", token, "");
    assert_eq!(status(&head), 200, "{head}");
    let told: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(told["chunks"].as_u64().is_some_and(|chunks| chunks > 5), "{told}");
    assert_eq!(count("tenpak_edge_disk_bytes "), 0);
    let (head, _) = served.ask("POST /prefetch?artifact=org/m", token, "");
    assert_eq!(status(&head), 202, "{head}");
    wait("it is fetched again", &|| count("tenpak_edge_prefetched_total") == 1);
    assert_eq!(count("tenpak_edge_origin_bytes_total"), 2 * fetched);
    let (head, _) = served.ask("GET /org/m/resolve/main/model.safetensors", token, "");
    assert_eq!(status(&head), 200);
    assert_eq!(count("tenpak_edge_origin_bytes_total"), 2 * fetched);
}

#[test]
fn settings_come_from_flags_then_the_environment_then_the_file() {
    let folder = fresh_folder("settings");
    let config = folder.join("edge.toml");
    let tokens = folder.join("tokens");
    let check = |content: &str, flags: &[&str], variables: &[(&str, &str)]| {
        std::fs::write(&config, content).expect("a file");
        let all = [&["--json", "edge", "--config", text(&config), "--check"], flags].concat();
        let mut command = command(&all);
        command.envs(variables.iter().copied());
        let output = command.output().expect("a process");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let json: Value = serde_json::from_str(&out).unwrap_or_default();
        let listen = json["listen"].as_str().unwrap_or_default().to_owned();
        (output.status.code(), listen, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(&tokens, "anonymous repos=org/*\n").expect("a file");
    pack(&folder, &tokens, "m", &[]);
    let right = format!(
        "origin = \"{}\"\nlisten = \"127.0.0.1:1\"\ncache-memory = \"64M\"\nprefetch = [\"org/m:v1\"]\n\
         tokens = \"{}\"\nrate = 100.5\nmax-requests = 10\ndrain = 0\nmirror = []\ntrust = []\n",
        text(&folder),
        text(&tokens)
    );
    let listen = |port: u16| format!("http://127.0.0.1:{port}");
    let (status, listened, error) = check(&right, &[], &[]);
    assert_eq!((status, listened), (Some(0), listen(1)), "{error}");
    let variable = [("TENPAK_EDGE_LISTEN", "127.0.0.1:2")];
    assert_eq!(check(&right, &[], &variable).1, listen(2));
    assert_eq!(check(&right, &["--listen", "127.0.0.1:3"], &variable).1, listen(3));
    // It says whether the origins answer; one that does not may do so later, one that is no store is a mistake.
    let gone = ["--mirror", "http://127.0.0.1:1/s?sig=secret"];
    let (status, listened, error) = check(&right, &gone, &[]);
    assert_eq!((status, listened), (Some(0), listen(1)), "{error}");
    assert!(error.contains("http://127.0.0.1:1/s?...: tenpak.json: cannot connect"), "{error}");
    let none = folder.join("none");
    let (status, _, error) = check(&right, &["--mirror", text(&none)], &[]);
    assert!(status == Some(3) && error.contains("no store at"), "{error}");
    for (wrong, says) in [
        (right.replace("rate =", "rates ="), "rates"),
        (right.replace("64M", "64X"), "64X"),
        (right.replace("org/m:v1", "-"), "artifact"),
        (right.replace("100.5", "-1.0"), "rate"),
        (right.replace("/tokens", "/missing"), "missing"),
        (right.replace("origin =", "# origin ="), "--origin"),
        (right.clone() + "tls-cert = \"x\"\n", "together"),
        (right.clone() + "url-key = \"tokens\"\n", "tokens"),
        (right.replace("listen = \"127.0.0.1:1\"", "listen = \"nowhere\""), "listen"),
        (right.clone() + "trust = [\"missing.pub\"]\n", "trust"),
        ("not toml".to_owned(), "edge.toml"),
    ] {
        let (status, _, error) = check(&wrong, &[], &[]);
        assert_eq!(status, Some(2), "{wrong}: {error}");
        assert!(error.contains(says), "{says}: {error}");
    }
    std::fs::write(&tokens, "reader repos=org/*\n").expect("a file");
    let (status, _, error) = check(&right, &[], &[]);
    assert!(status == Some(2) && error.contains("line 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_a_span_at_the_collector() {
    use std::io::BufRead;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    // A collector that takes two batches at most, and keeps their spans.
    let collector = std::thread::spawn(move || {
        let mut spans: Vec<Value> = Vec::new();
        let (stream, _) = listener.accept().expect("a connection");
        let mut reader = std::io::BufReader::new(stream);
        loop {
            let (mut line, mut length, mut first) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                if first.is_empty() {
                    first.clone_from(&line);
                }
                let lower = line.to_lowercase();
                if let Some(value) = lower.strip_prefix("content-length: ") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            if length == 0 {
                return spans;
            }
            assert_eq!(first.trim(), "POST /v1/traces HTTP/1.1");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let told: Value = serde_json::from_slice(&body).expect("JSON");
            let resource = &told["resourceSpans"][0];
            let name = &resource["resource"]["attributes"][0]["value"]["stringValue"];
            assert_eq!(name, "tenpak-edge");
            let batch = resource["scopeSpans"][0]["spans"].as_array().expect("spans");
            spans.extend(batch.iter().cloned());
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            reader.get_mut().write_all(answer).expect("an answer");
        }
    });
    let target = tenpak::edge::TraceTarget::new(&url).expect("a collector");
    let mut options = EdgeOptions::default();
    options.traces = Some(target);
    let edge = Edge::with(vec![store(1000).await], options).await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let joined = format!("traceparent: 00-{trace}-{parent}-01\r\n");
    edge.ask("GET /tables/big", &joined).await;
    edge.ask("GET /tables/big", &joined.replace("-01", "-00")).await;
    edge.ask("GET /nowhere", "").await;
    edge.end().await;
    let spans = collector.join().expect("no panic");
    assert_eq!(spans.len(), 2, "{spans:?}");
    let of = |path: &str| {
        let has = |span: &&Value| span["attributes"].to_string().contains(&format!("{path:?}"));
        spans.iter().find(has).expect(path)
    };
    let big = of("/tables/big");
    assert_eq!((&big["traceId"], &big["parentSpanId"]), (&trace.into(), &parent.into()));
    assert_eq!((&big["name"], &big["kind"]), (&"GET pack".into(), &2.into()));
    let attributes = big["attributes"].to_string();
    for part in ["\"intValue\":\"200\"", "\"intValue\":\"1000\"", "127.0.0.1"] {
        assert!(attributes.contains(part), "{part}: {attributes}");
    }
    let nano = |name: &str| big[name].as_str().and_then(|n| n.parse::<u128>().ok()).expect(name);
    assert!(nano("startTimeUnixNano") < nano("endTimeUnixNano"));
    let other = of("/nowhere");
    // OTLP writes what is not there as nothing.
    assert!(other["parentSpanId"] == "" && other["traceId"] != trace, "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_and_no_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let target = tenpak::edge::TraceTarget::new(&url).expect("a collector");
    let mut options = EdgeOptions::default();
    options.traces = Some(target);
    let edge = Edge::with(vec![store(1000).await], options).await;
    for _ in 0..3 {
        assert_eq!(status(&edge.ask("GET /tables/big", "").await.0), 200);
    }
    // The three, and those of asking for the counts.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let told = String::from_utf8(edge.ask("GET /metrics", "").await.1).expect("text");
        let lost = told.lines().find_map(|line| line.strip_prefix("tenpak_edge_spans_lost "));
        if lost.expect("the count").parse::<u64>().expect("a number") >= 3 {
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    edge.end().await;
}
