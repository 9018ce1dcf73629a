//! Clients that connect and say nothing, or not enough: they keep no place that others need.

use std::time::Duration;

use super::serving::Edge;
use super::world::World;
use tenpak::edge::{ConnectionLimits, EdgeOptions, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Short enough for a test, and long enough for a client that is not silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// When the test gives up.
const END: Duration = Duration::from_secs(20);

fn options(all: usize, of_address: usize) -> EdgeOptions {
    let mut limits = ConnectionLimits::default();
    (limits.all, limits.of_address) = (all, of_address);
    (limits.first_request, limits.idle) = (PATIENCE, PATIENCE);
    let mut options = EdgeOptions::default();
    options.connections = limits;
    options
}

/// What else comes before the other side closes the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(END, stream.read_to_end(&mut rest)).await;
    // A reset is an end, too.
    drop(read.expect("the edge closes the connection"));
    rest
}

async fn connect(edge: &Edge, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&edge.address).await.expect("the edge");
    stream.write_all(first).await.expect("some bytes");
    stream
}

#[test]
fn who_sends_no_request_is_disconnected() {
    let world = World::new();
    world.runtime.block_on(async {
        let edge = Edge::with(vec![world.memory.clone()], options(100, 100)).await;
        for first in [
            "",
            "P",
            "PRI",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /healthz HTTP/1.1\r\n",
            "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Header: ",
            "\r\n\r\n",
        ] {
            let mut stream = connect(&edge, first.as_bytes()).await;
            let answer = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
            assert!(!answer.contains("200"), "{first:?}: {answer}");
        }
        // Bytes that trickle in are no request either.
        let mut stream = connect(&edge, b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await;
        let trickle = async {
            while stream.write_all(b"X-A: b\r\n").await.is_ok() {
                tokio::time::sleep(PATIENCE / 8).await;
            }
        };
        tokio::time::timeout(END, trickle).await.expect("the edge closes the connection");
        edge.end().await;
    });
}

#[test]
fn who_agrees_on_no_tls_is_disconnected() {
    let world = World::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (world.dir.path().join("chain.pem"), world.dir.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    world.runtime.block_on(async {
        let mut options = options(100, 100);
        options.tls = Some(Tls::load(&chain, &key).expect("a certificate"));
        let edge = Edge::with(vec![world.memory.clone()], options).await;
        // Nothing, and the head of a handshake record whose rest never comes.
        for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            rest(&mut connect(&edge, first).await).await;
        }
        edge.end().await;
    });
}

#[test]
fn who_is_idle_after_an_answer_is_disconnected_and_who_takes_one_is_not() {
    let world = World::new();
    let pack = world.packs()[0].to_string();
    world.runtime.block_on(async {
        let edge = Edge::with(vec![world.memory.clone()], options(100, 100)).await;
        let mut idle = connect(&edge, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let ask = format!("GET /{pack} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut slow = connect(&edge, ask.as_bytes()).await;
        let answer = rest(&mut idle).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        // Longer than anybody may be idle; the rest of the answer comes all the same.
        tokio::time::sleep(PATIENCE * 4).await;
        let answer = rest(&mut slow).await;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(line.and_then(|n| n.parse().ok()), Some(answer.len() - end), "{head}");
        edge.end().await;
    });
}

#[test]
fn silent_clients_make_room_for_others() {
    let world = World::new();
    let packs = world.packs();
    world.runtime.block_on(async {
        let mut options = options(16, 12);
        options.connections.first_request = END * 10;
        options.connections.idle = END * 10;
        let edge = Edge::with(vec![world.memory.clone()], options).await;
        let mut silent = Vec::new();
        for n in 0..64 {
            silent.push(connect(&edge, if n % 2 == 0 { b"" } else { b"PRI" }).await);
        }
        for pack in packs.iter().cycle().take(32) {
            let (head, _) = edge.ask(&format!("GET /{pack}"), "").await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
        }
        // Those that were busy keep their places, and the next is refused.
        let mut busy = Vec::new();
        for _ in 0..12 {
            // More than the system takes for a client that reads nothing.
            let ask = b"GET /org/m/resolve/main/model.safetensors HTTP/1.1\r\nHost: x\r\n\r\n";
            let mut stream = connect(&edge, ask).await;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("an answer begins");
            busy.push(stream);
        }
        let mut refused = TcpStream::connect(&edge.address).await.expect("the edge");
        assert_eq!(rest(&mut refused).await, b"");
        // Another address has places of its own.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("a socket");
        let to = edge.address.parse().expect("an address");
        let mut other = socket.connect(to).await.expect("the edge");
        other
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("a request");
        let metrics = String::from_utf8_lossy(&rest(&mut other).await).into_owned();
        assert!(metrics.contains("tenpak_edge_connections_refused_total 1"), "{metrics}");
        assert!(metrics.contains("tenpak_edge_connections 13"), "{metrics}");
        drop(busy);
        edge.end().await;
    });
}
