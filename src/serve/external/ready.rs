//! Waiting until an engine says that it is ready, while it lives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::child::Child;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(100);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an engine is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// It ended first.
    Ended(u8),
    /// It took too long.
    Late,
}

/// Waits until the engine that listens there answers `/health` with 200.
///
/// # Errors
/// If it ends first, or takes longer than `patience`.
pub async fn ready(child: &Child, listen: SocketAddr, patience: Duration) -> Result<(), NotReady> {
    let address = reached(listen);
    let asking = async {
        while !tokio::time::timeout(PATIENCE, healthy(address)).await.unwrap_or(false) {
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        status = child.ended() => Err(NotReady::Ended(status)),
        answered = tokio::time::timeout(patience, asking) => answered.map_err(|_| NotReady::Late),
    }
}

/// Where a listener is reached from here: one of every address is one of loopback.
pub fn reached(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

async fn healthy(address: SocketAddr) -> bool {
    let ask = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        // It ends with the answer.
        let connection = tokio::spawn(connection);
        let request = Request::get("/health").header(HOST, address.to_string());
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        connection.abort();
        Some(answer.status() == 200)
    };
    ask.await.unwrap_or(false)
}
