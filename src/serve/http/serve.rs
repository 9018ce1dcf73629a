//! Connections: accepted, answered, and finished before the end.
//!
//! Told to stop, the server refuses what is new with 503 and finishes what is open, within a bound; then it cuts
//! what is left. What a connection that is cut had asked ends with it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::routes;
use super::state::{Server, State};
use crate::edge::{ClientStream, Unread};

/// How long a client may take to send the head of a request once it began.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How often the open texts are looked at while the server stops.
const LOOK: Duration = Duration::from_millis(20);
/// How long what is written already may take to reach its client.
const FAREWELL: Duration = Duration::from_secs(5);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 200;
/// Bytes of a connection that may wait.
const CONNECTION_BYTES: usize = 128 << 10;

/// Serves `server` on `listener` until `shutdown` is done, and then finishes what it has begun.
///
/// # Errors
/// If the system gives no more connections.
pub async fn serve(
    listener: TcpListener,
    server: Server,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let state = State::new(server);
    let (cut, _) = watch::channel(false);
    let accepting = Accepting {
        routes: routes::router(&state),
        places: Arc::new(Semaphore::new(state.server.limits.connections)),
        graceful: GracefulShutdown::new(),
        http: builder(),
        cut,
        state,
    };
    accepting.accept(&listener, shutdown).await?;
    routes::drain(&accepting.state);
    let state = accepting.state.clone();
    let idle = async move {
        while !state.is_idle() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let bound = accepting.state.server.limits.drain;
    let finished = async {
        tokio::time::timeout(bound, idle).await.unwrap_or_default();
    };
    accepting.accept(&listener, finished).await?;
    drop(listener);
    let Accepting { graceful, cut, .. } = accepting;
    tokio::time::timeout(FAREWELL, graceful.shutdown()).await.unwrap_or_default();
    cut.send_replace(true);
    Ok(())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(CONNECTION_BYTES);
    http.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    http
}

struct Accepting {
    state: Arc<State>,
    routes: Router,
    places: Arc<Semaphore>,
    graceful: GracefulShutdown,
    http: auto::Builder<TokioExecutor>,
    cut: watch::Sender<bool>,
}

impl Accepting {
    /// Accepts until `end` is done.
    async fn accept(
        &self,
        listener: &TcpListener,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut end = pin!(end);
        let mut failures = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut end => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    self.take(stream);
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

    /// Answers what a connection asks, in the background.
    fn take(&self, stream: TcpStream) {
        // Who finds no place notices.
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (routes, http, state) = (self.routes.clone(), self.http.clone(), self.state.clone());
        let (watcher, mut cut) = (self.graceful.watcher(), self.cut.subscribe());
        tokio::spawn(async move {
            let _place = place;
            let talking = async move {
                let stall = state.server.limits.stall;
                match &state.server.tls {
                    None => talk(&http, stream, stall, routes, watcher).await,
                    Some(tls) => {
                        let agreed =
                            tokio::time::timeout(HEADER_TIME, tls.acceptor().accept(stream)).await;
                        // Whoever cannot agree on a connection notices.
                        if let Ok(Ok(stream)) = agreed {
                            talk(&http, stream, stall, routes, watcher).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = talking => {}
                _ = cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

async fn talk(
    http: &auto::Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stall: Duration,
    routes: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let unread = Unread::default();
    let stream = TokioIo::new(ClientStream::new(stream, stall, unread.clone()));
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request| {
        let (routes, unread) = (routes.clone(), unread.clone());
        async move {
            let request = unread.watch(request);
            let version = request.version();
            let mut answer = routes.call(request).await?;
            unread.close(&mut answer, version);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http.serve_connection(stream, service).into_owned();
    // A connection that breaks concerns its client, who notices.
    watcher.watch(connection).await.unwrap_or_default();
}
