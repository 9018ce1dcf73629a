//! The connections of one store, http and https alike.
//!
//! hyper writes the request and reads the head of the answer. A body of known length is then taken
//! from the connection itself, straight to where it belongs: a copy through hyper's buffer would cost
//! half as much as hashing. Every other body, and all of HTTP/2, stays with hyper.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use hyper::http::{request, response};
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use url::Url;

use super::connect::{Connector, ExchangeError, Stream};
use super::options::HttpOptions;
use crate::transport::move_bytes;

/// Unused connections kept at a time.
const MAX_IDLE: usize = 128;
/// From which time on that a connection or an answer takes, connections are made before they are needed; and how many,
/// before it is known how many requests there will be.
const FAR: Duration = Duration::from_millis(3);
const AHEAD: usize = 3;
/// How long an unused connection is kept: less than the 60 s and more of common servers.
const IDLE: Duration = Duration::from_secs(50);
/// The longest head of an answer.
const MAX_HEAD: usize = 128 << 10;
/// Flow-control window of one HTTP/2 stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Flow-control window of one HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// HTTP/2 connections to one server.
const SESSIONS: usize = 32;
/// The longest HTTP/2 data frame taken.
const FRAME: u32 = 256 << 10;

/// The connections of one store.
#[derive(Debug)]
pub(super) struct Connections {
    connector: Arc<Connector>,
    /// Whether a connection takes long to be made, or an answer to come.
    far: AtomicBool,
    idle: Arc<Mutex<Vec<Idle>>>,
    /// One for this, and one for each connection that is being made ahead.
    making: Arc<()>,
    /// Those of HTTP/2, which could serve many requests at a time; limits are per connection, so that there are many.
    sessions: Mutex<HashMap<Arc<str>, Vec<Session>>>,
}

/// A connection of HTTP/2.
#[derive(Debug, Clone)]
struct Session {
    sender: http2::SendRequest<Empty<Bytes>>,
    /// One for the session, and one for each request that it serves.
    requests: Arc<()>,
}

struct Idle {
    home: Arc<str>,
    stream: Stream,
    since: Instant,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("home", &self.home).finish_non_exhaustive()
    }
}

/// The body of an answer.
pub(super) enum Payload {
    /// hyper reads it; as long as it does, its connection is not unused.
    Hyper(Incoming, #[expect(dead_code, reason = "it counts while it lives")] Option<Arc<()>>),
    /// It is read from the connection.
    Socket(Box<Socket>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(super) fn new(options: HttpOptions) -> Self {
        Self {
            connector: Arc::new(Connector::new(options)),
            far: AtomicBool::new(false),
            idle: Arc::default(),
            making: Arc::default(),
            sessions: Mutex::default(),
        }
    }

    /// Sends a request without a body for `url`, an http or https address.
    pub(super) async fn request(
        &self,
        url: &Url,
        head: &request::Parts,
    ) -> Result<Response<Payload>, ExchangeError> {
        let (authority, home) = server_of(url);
        // The server may have closed an unused connection just now: that is no failure.
        if let Some(stream) = self.take(&home)
            && let Ok(response) = self.exchange(stream, &home, url, head).await
        {
            return Ok(response);
        }
        if let Some(session) = self.session(&home) {
            match session.ask(head).await {
                Ok(response) => return Ok(response),
                Err(_) => self.forget(&home, &session),
            }
        }
        let started = Instant::now();
        let (stream, is_http2) = self.connector.connect(url, &authority).await?;
        if !is_http2 {
            self.took(url, started.elapsed());
            let started = Instant::now();
            let answer = self.exchange(stream, &home, url, head).await;
            self.took(url, started.elapsed());
            return answer.map_err(ExchangeError::Http);
        }
        let session = Session::new(stream).await.map_err(ExchangeError::Http)?;
        lock(&self.sessions).entry(home).or_default().push(session.clone());
        session.ask(head).await.map_err(ExchangeError::Http)
    }

    /// The connection of HTTP/2 that is to serve a request; `None`: a new one, since each has one already.
    fn session(&self, home: &Arc<str>) -> Option<Session> {
        let sessions = lock(&self.sessions);
        let all = sessions.get(home)?;
        let least = all.iter().min_by_key(|session| Arc::strong_count(&session.requests))?;
        let is_free = Arc::strong_count(&least.requests) == 1;
        (is_free || all.len() >= SESSIONS).then(|| least.clone())
    }

    fn forget(&self, home: &Arc<str>, session: &Session) {
        if let Some(all) = lock(&self.sessions).get_mut(home) {
            all.retain(|other| !Arc::ptr_eq(&other.requests, &session.requests));
        }
    }

    /// Hears how long a connection or an answer took.
    fn took(&self, url: &Url, time: Duration) {
        if time >= FAR && !self.far.swap(true, Ordering::Relaxed) {
            self.prepare(url, AHEAD);
        }
    }

    /// Makes connections to the server of `url` until so many are unused or on their way, if it is far and takes
    /// HTTP/1.1.
    pub(super) fn prepare(&self, url: &Url, count: usize) {
        let (authority, home) = server_of(url);
        if !self.far.load(Ordering::Relaxed) || lock(&self.sessions).contains_key(&home) {
            return;
        }
        let unused = lock(&self.idle).iter().filter(|idle| idle.home == home).count();
        let unused = unused + Arc::strong_count(&self.making) - 1;
        for _ in unused..count.min(MAX_IDLE) {
            let (connector, idle) = (self.connector.clone(), self.idle.clone());
            let making = self.making.clone();
            let (url, authority, home) = (url.clone(), authority.clone(), home.clone());
            tokio::spawn(async move {
                // Whoever needs one and does not find it makes it, and hears why that fails.
                if let Ok((stream, false)) = connector.connect(&url, &authority).await {
                    keep(&idle, Idle { home, stream, since: Instant::now() });
                }
                drop(making);
            });
        }
    }

    /// An unused connection on which nothing has come since.
    fn take(&self, home: &Arc<str>) -> Option<Stream> {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        while let Some(at) = idle.iter().rposition(|idle| idle.home == *home) {
            let stream = idle.remove(at).stream;
            let mut byte = [0];
            if stream
                .tcp()
                .try_read(&mut byte)
                .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            {
                return Some(stream);
            }
        }
        None
    }

    async fn exchange(
        &self,
        stream: Stream,
        home: &Arc<str>,
        url: &Url,
        head: &request::Parts,
    ) -> Result<Response<Payload>, hyper::Error> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut sender, mut connection) = builder.handshake(TokioIo::new(stream)).await?;
        let mut request = Request::from_parts(head.clone(), Empty::<Bytes>::new());
        let proxy = self.connector.proxy(url).filter(|_| url.scheme() == "http");
        match &proxy {
            // The whole address, which the request has.
            Some(proxy) => {
                if let Some(authorization) = &proxy.authorization {
                    let (name, value) = (PROXY_AUTHORIZATION, authorization.clone());
                    request.headers_mut().insert(name, value);
                }
            }
            // In the form that HTTP/1.1 sends to a server: path and host apart.
            None => {
                if let Ok(path) = url[url::Position::BeforePath..].parse::<Uri>() {
                    *request.uri_mut() = path;
                }
            }
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
        let (answered, mut body) = answer.into_parts();
        let Some(remaining) = known_length(&head.method, &answered) else {
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Response::from_parts(answered, Payload::Hyper(body, None)));
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
        let mut values = answered.headers.get_all(CONNECTION).iter();
        let close = values
            .any(|value| value.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("close")));
        let stream = parts.io.into_inner();
        let home = stream.tcp().peer_addr().ok().filter(|_| !close).map(|address| Home {
            idle: self.idle.clone(),
            connector: self.connector.clone(),
            authority: server_of(url).0,
            name: home.clone(),
            address,
            began: Instant::now(),
            len: remaining,
        });
        let mut socket = Socket { stream: Some(stream), early, remaining, home };
        if remaining == 0 {
            socket.give_back();
        }
        Ok(Response::from_parts(answered, Payload::Socket(Box::new(socket))))
    }
}

/// The address of a server, and its name among connections: none of one scheme serves the other.
fn server_of(url: &Url) -> (Arc<str>, Arc<str>) {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let authority = format!("{host}:{port}");
    let home = format!("{}://{authority}", url.scheme()).into();
    (authority.into(), home)
}

/// Keeps an unused connection, if they are not too many.
fn keep(idle: &Mutex<Vec<Idle>>, unused: Idle) {
    let mut idle = lock(idle);
    if idle.len() < MAX_IDLE {
        idle.push(unused);
    }
}

impl Session {
    async fn new(stream: Stream) -> Result<Self, hyper::Error> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, requests: Arc::default() })
    }

    async fn ask(&self, head: &request::Parts) -> Result<Response<Payload>, hyper::Error> {
        let (mut sender, own) = (self.sender.clone(), Some(self.requests.clone()));
        sender.ready().await?;
        let request = Request::from_parts(head.clone(), Empty::new());
        Ok(sender.send_request(request).await?.map(|body| Payload::Hyper(body, own)))
    }
}

/// The length of a body that its head alone delimits.
fn known_length(method: &Method, head: &response::Parts) -> Option<u64> {
    if *method == Method::HEAD {
        return Some(0);
    }
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

/// Where a connection goes when its body was read to the end.
struct Home {
    idle: Arc<Mutex<Vec<Idle>>>,
    connector: Arc<Connector>,
    authority: Arc<str>,
    name: Arc<str>,
    address: SocketAddr,
    /// When the body began, and its length.
    began: Instant,
    len: u64,
}

/// A body that is read from its connection.
pub(super) struct Socket {
    stream: Option<Stream>,
    early: VecDeque<Bytes>,
    remaining: u64,
    /// Where the connection goes once the body was read to its end.
    home: Option<Home>,
}

impl Socket {
    /// Writes further bytes to the beginning of `out`; 0 at the end of the body, or where the connection
    /// ends.
    pub(super) async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(out.len()).min(out.len());
        let out = out.get_mut(..most).unwrap_or_default();
        while self.early.front().is_some_and(Bytes::is_empty) {
            self.early.pop_front();
        }
        let count = match (self.early.front_mut(), &mut self.stream) {
            _ if out.is_empty() => 0,
            (Some(early), _) => move_bytes(early, out),
            (None, Some(Stream::Plain(stream))) => read_ready(stream, out).await?,
            (None, Some(stream)) => poll_fn(|cx| poll_fill(stream, cx, out)).await?,
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
        let (Some(stream), Some(home)) = (self.stream.take(), self.home.take()) else {
            return;
        };
        let Home { idle, connector, authority, name, address, began, len } = home;
        let is_slow = connector.addresses().heard(&authority, address, len, began.elapsed());
        if !unread && !is_slow {
            keep(&idle, Idle { home: name, stream, since: Instant::now() });
        }
    }
}

/// Reads what has come. Other than a poll, it does not take a short read for the end of what has come:
/// while that was hashed, more did.
async fn read_ready(stream: &TcpStream, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.try_read(out) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            ended => return ended,
        }
    }
}

/// Reads all that has come, which TLS gives record by record.
fn poll_fill(
    stream: &mut Stream,
    cx: &mut std::task::Context<'_>,
    out: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut filled = ReadBuf::new(out);
    while filled.remaining() > 0 {
        let before = filled.filled().len();
        match Pin::new(&mut *stream).poll_read(cx, &mut filled) {
            Poll::Ready(Ok(())) if filled.filled().len() > before => {}
            Poll::Ready(Err(error)) if before == 0 => return Poll::Ready(Err(error)),
            Poll::Pending if before == 0 => return Poll::Pending,
            // The end, a failure or a wait, which the next read finds again.
            _ => break,
        }
    }
    Poll::Ready(Ok(filled.filled().len()))
}
