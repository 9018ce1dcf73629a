//! Connections: accepted, answered, and finished before the end.
//!
//! Told to stop, the server first goes on for a while: it accepts, answers with `Connection: close`, and
//! says that it is not ready, so that clients and load balancers leave by themselves. Then it takes what
//! still waits in the listener's queue, and finishes every answer that it has begun.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::edge::api::route;
use crate::edge::error::EdgeError;
use crate::edge::http::client_stream::{ClientStream, Unread};
use crate::edge::http::connections::Connection;
use crate::edge::ops::trace::Tracer;
use crate::edge::ops::traffic;
use crate::edge::state::Edge;

/// How long a client may take to send the head of a request once it began.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long open answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 200;
/// Bytes of a request's headers in HTTP/2.
const HEADERS: u32 = 64 << 10;
/// Bytes of a connection of HTTP/1 that may wait: more of an answer is taken only below that.
const CONNECTION_BYTES: usize = 128 << 10;

/// Serves `edge` on `listener` until `shutdown` is done, and then finishes what it has begun.
///
/// # Errors
/// If the system gives no more connections, or traces cannot be sent.
pub async fn serve(
    edge: Arc<Edge>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), EdgeError> {
    let server = Server::new(edge.clone());
    let sampling = edge.clone();
    let sampler = tokio::spawn(async move {
        loop {
            sampling.traffic.add(sampling.sample());
            tokio::time::sleep(traffic::EVERY).await;
        }
    });
    let tracing = match edge.traces.clone() {
        Some(target) => {
            let (tracer, task) = Tracer::start(target).map_err(EdgeError::Traces)?;
            edge.watch.set_tracer(Some(tracer));
            Some(task)
        }
        None => None,
    };
    accept(&server, &listener, shutdown).await?;
    edge.draining.store(true, Ordering::Release);
    if !edge.drain.is_zero() {
        accept(&server, &listener, tokio::time::sleep(edge.drain)).await?;
    }
    // Whoever is connected already is answered.
    while let Some(Ok((stream, client))) = listener.accept().now_or_never() {
        server.take(stream, client.ip());
    }
    drop(listener);
    let finished = server.graceful.shutdown();
    tokio::time::timeout(FAREWELL, finished).await.unwrap_or_default();
    sampler.abort();
    edge.watch.set_tracer(None);
    if let Some(tracing) = tracing {
        let sent = tokio::time::timeout(FAREWELL, tracing).await;
        sent.unwrap_or(Ok(())).unwrap_or_default();
    }
    if let Some(log) = edge.watch.log.clone() {
        // It ends early only with the runtime.
        tokio::task::spawn_blocking(move || log.finish()).await.unwrap_or_default();
    }
    Ok(())
}

/// Accepts until `end` is done.
async fn accept(
    server: &Server,
    listener: &TcpListener,
    end: impl Future<Output = ()>,
) -> Result<(), EdgeError> {
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
                server.take(stream, client.ip());
            }
            Err(e) if failures >= MAX_ACCEPT_FAILURES => return Err(EdgeError::Accept(e)),
            Err(_) => {
                // Too many open files, or a client that left again: others may fare better.
                failures += 1;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Server {
    edge: Arc<Edge>,
    http: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
}

impl Server {
    fn new(edge: Arc<Edge>) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(CONNECTION_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS);
        Self { edge, http, graceful: GracefulShutdown::new() }
    }

    /// Answers what a connection asks, in the background.
    fn take(&self, stream: TcpStream, client: IpAddr) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (edge, http, watcher) = (self.edge.clone(), self.http.clone(), self.graceful.watcher());
        // Who finds no place notices.
        let Some(connection) = edge.connections.enter(client) else { return };
        tokio::spawn(async move {
            let place = connection.clone();
            let talking = async move {
                let Some(tls) = &edge.tls else {
                    return talk(http, stream, edge, connection, watcher).await;
                };
                // Whoever cannot agree on a connection notices.
                if let Ok(stream) = tls.acceptor().accept(stream).await {
                    talk(http, stream, edge, connection, watcher).await;
                }
            };
            tokio::select! {
                () = talking => {}
                () = place.is_over() => {}
            }
        });
    }
}

async fn talk(
    http: auto::Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    edge: Arc<Edge>,
    connection: Arc<Connection>,
    watcher: Watcher,
) {
    let stall = edge.client_stall;
    let unread = Unread::default();
    let stream = TokioIo::new(ClientStream::new(stream, stall, unread.clone()));
    let service = service_fn(move |request| {
        let (edge, busy, unread) = (edge.clone(), connection.begin(), unread.clone());
        async move {
            let request = unread.watch(request);
            let version = request.version();
            let mut answer = route::answer(&edge, request, busy).await;
            unread.close(&mut answer, version);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http.serve_connection(stream, service).into_owned();
    // A connection that breaks concerns its client, who notices.
    watcher.watch(connection).await.unwrap_or_default();
}
