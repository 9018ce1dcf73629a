//! An edge in this process, and requests to it whose heads a fuzzer wrote.

use std::sync::Arc;

use tenpak::edge::{self, Edge, EdgeOptions};
use tenpak::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

pub struct Served {
    pub runtime: Runtime,
    address: String,
}

/// An answer: its status, its lines as they came, and its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub lines: Vec<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Served {
    pub fn new(origin: Arc<dyn Transport>, options: EdgeOptions) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let edge = Edge::new(vec![origin], options).expect("an edge");
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
            let address = listener.local_addr().expect("its address").to_string();
            tokio::spawn(edge::serve(edge, listener, std::future::pending()));
            address
        });
        drop(_inside);
        Self { runtime, address }
    }

    /// One request with these further lines, none of which can end the head or say how long it is.
    pub fn ask(&self, method: &str, target: &str, lines: &[&[u8]]) -> Answer {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n").into_bytes();
        request.extend_from_slice(b"Connection: close\r\n");
        for line in lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let answer = self.runtime.block_on(async {
            let mut stream = TcpStream::connect(&self.address).await.expect("the edge");
            // It may refuse and close before it has read everything.
            drop(stream.write_all(&request).await);
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            answer
        });
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        let lines = head.lines().skip(1).map(str::to_owned).collect();
        Answer { status, lines, body: answer[end..].to_vec() }
    }
}

/// The lines of `text` that a request may have as headers.
pub fn lines(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let said = |line: &&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        let reserved = ["content-length", "transfer-encoding", "connection", "expect", "upgrade"];
        !line.is_empty() && !reserved.iter().any(|r| r.as_bytes().eq_ignore_ascii_case(name))
    };
    lines.filter(said).collect()
}
