//! An edge in this process, over any backend, and requests to it byte by byte.

use std::sync::Arc;
use std::time::Duration;

use tenpak::edge::{self, EdgeOptions};
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::{ObjectPath, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

pub fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("a path")
}

/// The running edge.
pub struct Edge {
    pub address: String,
    pub stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), edge::EdgeError>>,
}

impl Edge {
    pub async fn over(transport: Arc<dyn Transport>) -> Self {
        Self::with(vec![transport], EdgeOptions::default()).await
    }

    pub async fn with(origins: Vec<Arc<dyn Transport>>, options: EdgeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let edge = edge::Edge::new(origins, options).expect("an edge");
        let task = tokio::spawn(edge::serve(edge, listener, async move {
            stopped.await.unwrap_or_default();
        }));
        Self { address, stop: Some(stop), task }
    }

    pub fn client(&self) -> HttpBackend {
        let url = format!("http://{}", self.address);
        HttpBackend::new(&url, HttpOptions::default()).expect("a backend")
    }

    /// One request; the answer's head in lower case, and its body.
    pub async fn ask(&self, line: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).await.expect("the edge");
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8_lossy(&answer).to_lowercase(), body)
    }

    pub async fn end(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        ended.expect("an end").expect("no panic").expect("no error");
    }
}

/// Sends these bytes and reads whatever comes until the edge closes; nobody has to close first.
pub async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the edge");
    // A server may refuse and close before it has read everything.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), async {
        let mut piece = [0; 4096];
        while let Ok(count) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
            if count == 0 {
                break;
            }
        }
    });
    read.await.expect("the edge closes the connection");
    String::from_utf8_lossy(&answer).to_lowercase()
}

/// The statuses of the answers in `text`.
pub fn statuses(text: &str) -> Vec<u16> {
    let heads = text.split("http/1.1 ").skip(1);
    heads.map(|head| head[..3].parse().expect("a status")).collect()
}
