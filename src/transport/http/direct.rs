//! Plain HTTP/1.1 connections whose bodies go from the socket straight to where they belong.
//!
//! hyper writes the request and reads the head of the answer. A body of known length is then taken
//! from the socket itself: a copy through hyper's buffer would cost half as much as hashing. Every
//! other body stays with hyper.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::{request, response};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

/// Unused connections kept at a time.
const MAX_IDLE: usize = 64;
/// How long an unused connection is kept: less than the 60 s and more of common servers.
const IDLE: Duration = Duration::from_secs(50);
/// The longest head of an answer.
const MAX_HEAD: usize = 128 << 10;

/// The connections of one store.
#[derive(Debug)]
pub(super) struct Connections {
    connect_timeout: Duration,
    idle: Arc<Mutex<Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    authority: Arc<str>,
    stream: TcpStream,
    since: Instant,
}

/// The body of an answer.
pub(super) enum Payload {
    /// hyper reads it.
    Hyper(Incoming),
    /// It is read from the socket.
    Socket(Box<Socket>),
}

/// Why no answer came.
pub(super) enum ExchangeError {
    /// No connection.
    Connect(io::Error),
    /// The connection broke, or the answer is malformed.
    Http(hyper::Error),
}

impl Connections {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self { connect_timeout, idle: Arc::default() }
    }

    /// Sends a request for `url`, an http address, without a body.
    pub(super) async fn request(
        &self,
        url: &Url,
        head: &request::Parts,
    ) -> Result<Response<Payload>, ExchangeError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let authority: Arc<str> = format!("{host}:{port}").into();
        // The server may have closed an unused connection just now: that is no failure.
        if let Some(stream) = self.take(&authority)
            && let Ok(response) = self.exchange(stream, &authority, url, head).await
        {
            return Ok(response);
        }
        let connect = TcpStream::connect(&*authority);
        let stream = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(connected) => connected.map_err(ExchangeError::Connect)?,
            Err(_) => return Err(ExchangeError::Connect(io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(ExchangeError::Connect)?;
        self.exchange(stream, &authority, url, head).await.map_err(ExchangeError::Http)
    }

    /// An unused connection on which nothing has come since.
    fn take(&self, authority: &Arc<str>) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        while let Some(at) = idle.iter().rposition(|idle| idle.authority == *authority) {
            let stream = idle.remove(at).stream;
            let mut byte = [0];
            if stream.try_read(&mut byte).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        authority: &Arc<str>,
        url: &Url,
        head: &request::Parts,
    ) -> Result<Response<Payload>, hyper::Error> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut sender, mut connection) = builder.handshake(TokioIo::new(stream)).await?;
        let mut request = Request::from_parts(head.clone(), Empty::<Bytes>::new());
        // In the form that HTTP/1.1 sends to a server: path and host apart.
        if let Ok(path) = url[url::Position::BeforePath..].parse::<Uri>() {
            *request.uri_mut() = path;
        }
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
        let answer = {
            let mut answer = pin!(sender.send_request(request));
            let mut ended = None;
            poll_fn(|cx| {
                if ended.is_none()
                    && let Poll::Ready(end) = connection.poll_without_shutdown(cx)
                {
                    ended = Some(end);
                }
                match answer.as_mut().poll(cx) {
                    Poll::Pending => match ended.take() {
                        // Without a connection no answer comes; hyper has said so to `answer` too.
                        Some(Err(error)) => Poll::Ready(Err(error)),
                        Some(Ok(())) => {
                            ended = Some(Ok(()));
                            Poll::Pending
                        }
                        None => Poll::Pending,
                    },
                    ready => ready,
                }
            })
            .await?
        };
        let (head, mut body) = answer.into_parts();
        let Some(length) = known_length(&head) else {
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Response::from_parts(head, Payload::Hyper(body)));
        };
        // What hyper has read of the body already comes first: frames, then its buffer.
        let mut early = VecDeque::new();
        while let Some(Some(frame)) = body.frame().now_or_never() {
            if let Ok(data) = frame?.into_data() {
                early.push_back(data);
            }
        }
        let parts = connection.into_parts();
        early.push_back(parts.read_buf);
        let close =
            head.headers.get_all(CONNECTION).iter().any(|value| {
                value.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("close"))
            });
        let home = (!close).then(|| (self.idle.clone(), authority.clone()));
        let stream = Some(parts.io.into_inner());
        let socket = Socket { stream, early, remaining: length, home };
        Ok(Response::from_parts(head, Payload::Socket(Box::new(socket))))
    }
}

/// The length of a body that its head alone delimits.
fn known_length(head: &response::Parts) -> Option<u64> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let (Some(length), None) = (lengths.next(), lengths.next()) else { return None };
    let bodiless = head.status.is_informational() || matches!(head.status.as_u16(), 204 | 304);
    let framed = head.headers.contains_key(TRANSFER_ENCODING);
    if bodiless || framed || head.version != Version::HTTP_11 {
        return None;
    }
    let length = length.to_str().ok()?.trim();
    length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse().ok())?
}

/// Appends what has come, at most `max` bytes. Other than `read_buf`, it does not take a short read for
/// the end of what has come: while that was hashed, more did.
async fn read_ready(stream: &TcpStream, out: &mut BytesMut, max: usize) -> io::Result<usize> {
    loop {
        match stream.try_read_buf(&mut out.limit(max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            ended => return ended,
        }
    }
}

/// The unused connections, and which server this one is to.
type Home = (Arc<Mutex<Vec<Idle>>>, Arc<str>);

/// A body that is read from its socket.
pub(super) struct Socket {
    stream: Option<TcpStream>,
    early: VecDeque<Bytes>,
    remaining: u64,
    /// Where the connection goes once the body was read to its end.
    home: Option<Home>,
}

impl Socket {
    /// Appends at most `max` further bytes; 0 at the end of the body, or where the connection ends.
    pub(super) async fn read(&mut self, out: &mut BytesMut, max: usize) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(max).min(max);
        while self.early.front().is_some_and(Bytes::is_empty) {
            self.early.pop_front();
        }
        let count = match (self.early.front_mut(), &mut self.stream) {
            _ if most == 0 => 0,
            (Some(early), _) => {
                let taken = early.split_to(most.min(early.len()));
                out.extend_from_slice(&taken);
                taken.len()
            }
            (None, Some(stream)) => read_ready(stream, out, most).await?,
            (None, None) => 0,
        };
        self.remaining -= count as u64;
        if self.remaining == 0 {
            self.give_back();
        }
        Ok(count)
    }

    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The body was read to its end: the connection can serve again, unless the server sent more.
    fn give_back(&mut self) {
        let unread = self.early.iter().any(|bytes| !bytes.is_empty());
        let (Some(stream), Some((idle, authority))) = (self.stream.take(), self.home.take()) else {
            return;
        };
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !unread && idle.len() < MAX_IDLE {
            idle.push(Idle { authority, stream, since: Instant::now() });
        }
    }
}
