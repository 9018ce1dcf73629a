//! Any headers of an origin's answer, relayed by an edge: what is kept and handed on is the origin's
//! body, an `Age` is a number, and what the origin forbids to keep is asked for again.
#![no_main]

mod edge_exchange;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use edge_exchange::{Served, lines};
use libfuzzer_sys::fuzz_target;
use tenpak::edge::EdgeOptions;
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BODY: &[u8] = b"what the origin has";

struct World {
    served: Served,
    /// The lines of its next answers.
    said: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicU64>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (said, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (given, count) = (said.clone(), asked.clone());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let url = format!("http://{}/", socket.local_addr().expect("its address"));
    socket.set_nonblocking(true).expect("a mode");
    let transport = HttpBackend::new(&url, HttpOptions::default()).expect("an address");
    let mut options = EdgeOptions::default();
    options.retry.retries = 0;
    let served = Served::new(Arc::new(transport), options);
    served.runtime.spawn(async move {
        let listener = TcpListener::from_std(socket).expect("a listener");
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_buf(&mut head).await {
                    Ok(count) if count > 0 => {}
                    _ => break,
                }
            }
            count.fetch_add(1, Ordering::Relaxed);
            let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", BODY.len())
                .into_bytes();
            answer.extend_from_slice(&given.lock().expect("nobody panics with it"));
            answer.extend_from_slice(b"Connection: close\r\n\r\n");
            answer.extend_from_slice(BODY);
            // The edge may have gone.
            drop(stream.write_all(&answer).await);
        }
    });
    World { served, said, asked }
});

/// Whether a line says plainly that nobody may keep the answer.
fn forbids(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line).to_ascii_lowercase();
    ["cache-control: no-store", "cache-control: private", "cache-control: no-cache"]
        .contains(&line.trim_end())
}

fuzz_target!(|data: &[u8]| {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut halves = data.splitn(2, |byte| *byte == 0);
    let (origin, client) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let (origin, client) = (lines(origin), lines(client));
    *WORLD.said.lock().expect("nobody panics with it") =
        origin.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect();
    // Nothing is known of a path that was never asked for.
    let target = format!("/refs/case/@{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    WORLD.asked.store(0, Ordering::Relaxed);
    let first = WORLD.served.ask("GET", &target, &[]);
    let again = WORLD.served.ask("GET", &target, &client);
    for answer in [&first, &again] {
        if answer.status == 200 {
            assert!(answer.body == BODY);
            let age = answer.header("age").expect("an age");
            assert!(age.parse::<u64>().is_ok_and(|age| age <= 1 << 33), "{age}");
        }
    }
    if first.status == 200 && again.status == 200 && origin.iter().any(|line| forbids(line)) {
        assert!(WORLD.asked.load(Ordering::Relaxed) >= 2, "what may not be kept was");
    }
});
