//! Connections: accepted, answered, and finished before the end.
//!
//! Told to stop, the server refuses what is new with 503 and finishes what is open, within a bound; then it cuts
//! what is left. What a connection that is cut had asked ends with it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::routes;
use super::state::{Server, State};
use crate::edge::{HEADER_TIME, accept, protocols, talk};

/// How often the open texts are looked at while the server stops.
const LOOK: Duration = Duration::from_millis(20);
/// How long what is written already may take to reach its client.
const FAREWELL: Duration = Duration::from_secs(5);

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
        http: protocols(),
        cut,
        state,
    };
    let take = |stream, _| accepting.take(stream);
    accept(&listener, shutdown, take).await?;
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
    accept(&listener, finished, take).await?;
    drop(listener);
    let Accepting { graceful, cut, .. } = accepting;
    tokio::time::timeout(FAREWELL, graceful.shutdown()).await.unwrap_or_default();
    cut.send_replace(true);
    Ok(())
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
    /// Answers what a connection asks, in the background.
    fn take(&self, stream: TcpStream) {
        // Who finds no place notices.
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let routes = TowerToHyperService::new(self.routes.clone());
        let (http, state) = (self.http.clone(), self.state.clone());
        let (watcher, mut cut) = (self.graceful.watcher(), self.cut.subscribe());
        tokio::spawn(async move {
            let _place = place;
            let talking = async move {
                let stall = state.server.limits.stall;
                match &state.server.tls {
                    None => talk(http, stream, stall, watcher, routes).await,
                    Some(tls) => {
                        let agreed =
                            tokio::time::timeout(HEADER_TIME, tls.acceptor().accept(stream)).await;
                        // Whoever cannot agree on a connection notices.
                        if let Ok(Ok(stream)) = agreed {
                            talk(http, stream, stall, watcher, routes).await;
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
