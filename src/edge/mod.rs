//! Serves a store over HTTP, verified: its own layout for loaders and further edges, and its artifacts
//! as repositories for clients of the Hugging Face Hub.
//!
//! Chunks pass through one cache, which nothing enters unverified. Only paths of a store's own folders
//! are answered. A body that cannot be finished ends its connection, so that no client takes a part for
//! the whole.

mod answer;
mod cache;
mod catalog;
mod disk;
mod files;
mod hub;
mod hub_face;
mod metrics;
mod pack_face;
mod packs;
mod prefetch;
mod request;
mod stream;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::source::Backend;
use crate::trust::{SeenRefs, TrustSet};
use answer::{Answer, plain};
use cache::ChunkCache;
use catalog::Catalog;
use disk::DiskTier;
use hub::{Ask, What};
use packs::Packs;

/// How long the origin may take for an answer or for the next bytes.
const ORIGIN_STALL: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's head.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long open answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an edge serves.
#[derive(Debug)]
pub struct EdgeOptions {
    /// The keys that count; with any, only what they signed is served.
    pub trust: TrustSet,
    /// The refs seen before. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
    /// Bytes of chunks kept in memory.
    pub memory: u64,
    /// A folder for chunks, and how many bytes of them are kept there.
    pub disk: Option<(PathBuf, u64)>,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self { trust: TrustSet::default(), seen: None, memory: 512 << 20, disk: None }
    }
}

/// A store with its cache, ready to be served.
#[derive(Debug)]
pub struct Edge {
    origins: Vec<Arc<dyn Backend>>,
    catalog: Arc<Catalog>,
    packs: Arc<Packs>,
    cache: Arc<ChunkCache>,
    disk: Option<Arc<DiskTier>>,
    /// Whether what was to be fetched first is there.
    ready: AtomicBool,
}

impl Edge {
    /// An edge over `origins`, which hold the same store; the first is preferred. Fails if the folder
    /// of its chunks cannot be used.
    pub fn new(
        origins: Vec<Arc<dyn Backend>>,
        options: EdgeOptions,
    ) -> Result<Arc<Self>, EdgeError> {
        let open = |(folder, budget): (PathBuf, u64)| {
            let failed = |source| EdgeError::Cache { folder: folder.clone(), source };
            DiskTier::open(&folder, budget).map(Arc::new).map_err(failed)
        };
        let disk = options.disk.map(open).transpose()?;
        let cache = ChunkCache::new(options.memory);
        let catalog = Catalog::new(&origins, options.trust, options.seen);
        let packs = Packs::new(origins.clone(), cache.clone(), disk.clone());
        let ready = AtomicBool::new(false);
        Ok(Arc::new(Self { origins, catalog, packs, cache, disk, ready }))
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The system gives no more connections.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
    /// The folder of the cache cannot be used.
    #[error("{}: {source}; name another --cache-dir", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

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
            async move { Ok::<_, Infallible>(answer(&edge, request).await) }
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

async fn answer(edge: &Arc<Edge>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let object = request::object_path(&path);
    let ask = if object.is_none() { Ask::parse(&path) } else { None };
    let form = matches!(&ask, Some(Ask { what: What::PathsInfo, .. }));
    let allowed = match *request.method() {
        Method::GET | Method::HEAD => !form,
        Method::POST => form,
        _ => false,
    };
    if !allowed {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED);
        let allow = if form { "POST" } else { "GET, HEAD" };
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return refused;
    }
    let answered = async {
        match (object, ask) {
            (Some(path), _) => pack_face::answer(edge, &path, &request).await,
            (None, Some(ask)) => hub_face::answer(edge, ask, request).await,
            (None, None) => match path.as_str() {
                "/healthz" => metrics::health(),
                "/readyz" if !edge.ready.load(Ordering::Acquire) => {
                    plain(StatusCode::SERVICE_UNAVAILABLE)
                }
                "/readyz" => metrics::health(),
                "/metrics" => metrics::answer(edge),
                _ => plain(StatusCode::NOT_FOUND),
            },
        }
    };
    match tokio::time::timeout(ORIGIN_STALL, answered).await {
        Ok(answer) => answer,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT),
    }
}
