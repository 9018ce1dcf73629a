//! Connections: accepted, answered, and finished before the end.
//!
//! Told to stop, the server first goes on for a while: it accepts, answers with `Connection: close`, and
//! says that it is not ready, so that clients and load balancers leave by themselves. Then it takes what
//! still waits in the listener's queue, and finishes every answer that it has begun.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};

use crate::edge::api::route;
use crate::edge::error::EdgeError;
use crate::edge::http::server::{accept, protocols, talk};
use crate::edge::http::tls::Tls;
use crate::edge::ops::trace::Tracer;
use crate::edge::ops::traffic;
use crate::edge::state::Edge;

/// How long open answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(20);

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
    let take = |stream, client| server.take(stream, client);
    accept(&listener, shutdown, take).await.map_err(EdgeError::Accept)?;
    edge.draining.store(true, Ordering::Release);
    if !edge.drain.is_zero() {
        let drained = tokio::time::sleep(edge.drain);
        accept(&listener, drained, take).await.map_err(EdgeError::Accept)?;
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

struct Server {
    edge: Arc<Edge>,
    http: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
}

impl Server {
    fn new(edge: Arc<Edge>) -> Self {
        Self { edge, http: protocols(), graceful: GracefulShutdown::new() }
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
            let (place, stall) = (connection.clone(), edge.client_stall);
            let tls = edge.tls.as_ref().map(Tls::acceptor);
            let service = service_fn(move |request| {
                let (edge, busy) = (edge.clone(), connection.begin());
                async move { Ok(route::answer(&edge, request, busy).await) }
            });
            let talking = async move {
                let Some(tls) = tls else {
                    return talk(http, stream, stall, watcher, service).await;
                };
                // Whoever cannot agree on a connection notices.
                if let Ok(stream) = tls.accept(stream).await {
                    talk(http, stream, stall, watcher, service).await;
                }
            };
            tokio::select! {
                () = talking => {}
                () = place.is_over() => {}
            }
        });
    }
}
