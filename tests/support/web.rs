//! A web server that answers from a script, byte by byte as told.
//!
//! Each connection takes requests one after another; a request's answer is what the script says
//! for its number, counted over all connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A step of an answer.
#[derive(Clone)]
pub enum Step {
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes one by one, each after a pause.
    Drip(Vec<u8>, Duration),
    /// Nothing, until the client goes away.
    Stall,
    /// The connection is reset.
    Reset,
    /// The connection is closed in good order.
    Close,
}

/// What the server answers to request number N (from 0), whose head is given.
pub type Script = Arc<dyn Fn(usize, &str) -> Vec<Step> + Send + Sync>;

/// The running server; its requests are kept.
pub struct WebServer {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl WebServer {
    pub async fn start(script: impl Fn(usize, &str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let script: Script = Arc::new(script);
        let (seen, made) = (requests.clone(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                *made.lock().expect("a count") += 1;
                tokio::spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self { url, requests, connections, task }
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("a list").clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("a count")
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).expect("a request in ASCII");
        let number = {
            let mut seen = seen.lock().expect("a list");
            seen.push(head.clone());
            seen.len() - 1
        };
        for step in script(number, &head) {
            let sent = match step {
                Step::Send(bytes) => stream.write_all(&bytes).await,
                Step::Drip(bytes, pause) => drip(&mut stream, &bytes, pause).await,
                Step::Stall => {
                    let mut rest = [0; 1];
                    // Ends when the client gives up.
                    stream.read(&mut rest).await.map(|_| ())
                }
                Step::Reset => {
                    stream.set_zero_linger().expect("a socket option");
                    return;
                }
                Step::Close => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

async fn drip(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// An answer with these header lines and this body, without more than is given.
pub fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut all = format!("HTTP/1.1 {status}\r\n");
    for header in headers {
        all.push_str(header);
        all.push_str("\r\n");
    }
    all.push_str("\r\n");
    let mut all = all.into_bytes();
    all.extend_from_slice(body);
    all
}

/// A correct answer to a request for part of `object`, or for all of it.
pub fn correct(head: &str, object: &[u8]) -> Vec<u8> {
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let value = value.strip_prefix("bytes=")?;
        name.eq_ignore_ascii_case("range").then(|| value.split_once('-'))?
    });
    let length = format!("Content-Length: {}", object.len());
    let Some((first, last)) = range else {
        return answer("200 OK", &[&length], object);
    };
    let size = object.len();
    let (start, end) = match first {
        "" => (size.saturating_sub(last.parse().expect("a number")), size),
        first => {
            let last: usize = last.parse().expect("a number");
            (first.parse().expect("a number"), size.min(last + 1))
        }
    };
    if start >= end {
        let range = format!("Content-Range: bytes */{size}");
        let page = b"<h1>416</h1>";
        let length = format!("Content-Length: {}", page.len());
        return answer("416 Range Not Satisfiable", &[&range, &length], page);
    }
    let range = format!("Content-Range: bytes {start}-{}/{size}", end - 1);
    let length = format!("Content-Length: {}", end - start);
    answer("206 Partial Content", &[&range, &length], &object[start..end])
}
