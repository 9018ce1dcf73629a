//! Connections: accepted, answered, and finished before the end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::{Edge, EdgeError, route};

/// How long a client may take to send a request's head.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long open answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `edge` on `listener` until `shutdown` is done, and then finishes what it has begun.
pub async fn serve(
    edge: Arc<Edge>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), EdgeError> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    server.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) if failures >= MAX_ACCEPT_FAILURES => return Err(EdgeError::Accept(e)),
            Err(_) => {
                // Too many open files, or a client that left again: others may fare better.
                failures += 1;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let edge = edge.clone();
        let service = service_fn(move |request| {
            let edge = edge.clone();
            async move { Ok::<_, Infallible>(route::answer(&edge, request).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks concerns its client, who notices.
            connection.await.unwrap_or_default();
        });
    }
    drop(listener);
    tokio::time::timeout(FAREWELL, graceful.shutdown()).await.unwrap_or_default();
    Ok(())
}
