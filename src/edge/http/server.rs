//! What every server of the crate does with connections: it accepts them, and talks HTTP on them.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Body;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::edge::http::client_stream::{ClientStream, RequestBody, Unread};

/// How long a client may take to send the head of a request once it began.
pub(crate) const HEADER_TIME: Duration = Duration::from_secs(30);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 200;
/// Bytes of a request's headers in HTTP/2.
const HEADERS: u32 = 64 << 10;
/// Bytes of a connection of HTTP/1 that may wait: more of an answer is taken only below that.
const CONNECTION_BYTES: usize = 128 << 10;

/// HTTP/1 and HTTP/2 with the bounds of every server.
pub(crate) fn protocols() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(CONNECTION_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS);
    http
}

/// Accepts until `end` is done, and hands each connection to `take`, which must not wait.
///
/// # Errors
/// If the system gives no more connections.
pub(crate) async fn accept(
    listener: &TcpListener,
    end: impl Future<Output = ()>,
    take: impl Fn(TcpStream, IpAddr),
) -> io::Result<()> {
    let mut end = pin!(end);
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => return Ok(()),
        };
        match accepted {
            Ok((stream, client)) => {
                failures = 0;
                take(stream, client.ip());
            }
            Err(error) if failures >= MAX_ACCEPT_FAILURES => return Err(error),
            Err(_) => {
                // Too many open files, or a client that left again: others may fare better.
                failures += 1;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers what a connection asks, until it ends. A client that takes nothing for longer than `stall` is given up.
pub(crate) async fn talk<S, B>(
    http: auto::Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
    watcher: Watcher,
    service: S,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let unread = Unread::default();
    let stream = TokioIo::new(ClientStream::new(stream, stall, unread.clone()));
    let service = service_fn(move |request| {
        let unread = unread.clone();
        let request = unread.watch(request);
        let version = request.version();
        let answering = service.call(request);
        async move {
            let mut answer = answering.await?;
            unread.close(&mut answer, version);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http.serve_connection(stream, service).into_owned();
    // A connection that breaks concerns its client, who notices.
    watcher.watch(connection).await.unwrap_or_default();
}
