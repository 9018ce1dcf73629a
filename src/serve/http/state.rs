//! What every request of a server shares.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use super::metrics::Metrics;
use crate::edge::Tls;
use crate::engine::sample::{Constraint, Grammar, Grammars, Sampling};
use crate::engine::text::{ChatTemplate, Tokenizer};
use crate::engine::{Engine, ModelInfo};

/// Requests that are read at a time: text to tokens, templates, grammars.
const READERS: usize = 4;

/// What a server holds to. Each bounds what strangers can make it do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a request.
    pub body: usize,
    /// Bytes of all requests that are being read.
    pub bodies: usize,
    /// How long a client may take to send it.
    pub body_time: Duration,
    /// Texts of one answer.
    pub choices: usize,
    /// Bytes of a stream that wait for a client that does not read.
    pub backlog: usize,
    /// How long a client may take nothing of what is sent.
    pub stall: Duration,
    /// How long open answers may take once the server is told to stop.
    pub drain: Duration,
    /// Connections at a time.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 << 20,
            bodies: 128 << 20,
            body_time: Duration::from_secs(60),
            choices: 128,
            backlog: 1 << 20,
            stall: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            connections: 1024,
        }
    }
}

/// A server of one model.
#[non_exhaustive]
pub struct Server {
    /// What runs the model.
    pub engine: Arc<dyn Engine>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How it writes conversations; none where the checkpoint does not say.
    pub template: Option<Arc<ChatTemplate>>,
    /// The names that clients may ask for; the first is the model's own.
    pub names: Vec<String>,
    /// The keys of clients; without any, every client is answered.
    pub keys: Vec<String>,
    /// How tokens are chosen where a request does not say.
    pub defaults: Sampling,
    /// What it holds to.
    pub limits: Limits,
    /// The certificate that it shows; none: plain HTTP.
    pub tls: Option<Tls>,
    /// Further routes, behind the same keys and bounds; on paths that are not served already.
    pub routes: Router,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are nobody's business.
        f.debug_struct("Server").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Server {
    /// Of a model under `name`, for every client.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        tokenizer: Arc<Tokenizer>,
        name: impl Into<String>,
    ) -> Self {
        Self {
            engine,
            tokenizer,
            template: None,
            names: vec![name.into()],
            keys: Vec::new(),
            defaults: Sampling::default(),
            limits: Limits::default(),
            tls: None,
            routes: Router::new(),
        }
    }
}

/// What requests share.
pub(crate) struct State {
    pub(crate) server: Server,
    pub(crate) info: ModelInfo,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: AtomicBool,
    pub(crate) created: u64,
    grammars: OnceLock<Result<Grammars, String>>,
    readers: Arc<Semaphore>,
    /// Room for bodies, in KiB.
    bodies: Arc<Semaphore>,
    busy: Arc<AtomicUsize>,
}

/// A request until its answer has begun.
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl State {
    pub(crate) fn new(server: Server) -> Arc<Self> {
        let name = server.names.first().cloned().unwrap_or_default();
        Arc::new(Self {
            info: server.engine.info(),
            metrics: Arc::new(Metrics::new(&name)),
            draining: AtomicBool::new(false),
            created: now(),
            grammars: OnceLock::new(),
            readers: Arc::new(Semaphore::new(READERS)),
            bodies: Arc::new(Semaphore::new(
                kibibytes(server.limits.bodies.max(server.limits.body)) as usize,
            )),
            busy: Arc::default(),
            server,
        })
    }

    pub(crate) fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.busy.clone())
    }

    /// Whether every request has been answered to its end.
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0 && self.metrics.open() == 0
    }

    /// Waits for room for a body.
    pub(crate) async fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.bodies.clone().acquire_many_owned(kibibytes(bytes)).await.ok()
    }

    /// Refuses what comes while the server stops.
    pub(crate) fn check_open(&self) -> Result<(), ApiError> {
        if self.draining.load(Ordering::Acquire) { Err(ApiError::draining()) } else { Ok(()) }
    }

    /// Does work that would keep others from being answered. A few at a time: the model needs the processor.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self.readers.clone().acquire_owned().await;
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&own)
        });
        done.await
            .map_err(|_| ApiError::failed("the request could not be read: please report it"))?
    }

    /// The name that is answered with, and the adapter that it asks for.
    pub(crate) fn model(&self, asked: Option<&str>) -> Result<(String, Option<String>), ApiError> {
        let Some(asked) = asked else {
            return Ok((self.server.names.first().cloned().unwrap_or_default(), None));
        };
        if self.server.names.iter().any(|name| name == asked) {
            return Ok((asked.to_owned(), None));
        }
        if self.info.adapters.iter().any(|name| name == asked) {
            return Ok((asked.to_owned(), Some(asked.to_owned())));
        }
        let shown: String = asked.chars().take(100).collect();
        let told = format!("no model {shown:?}: GET /v1/models names those that are served");
        Err(ApiError::new(StatusCode::NOT_FOUND, told).coded("model_not_found"))
    }

    /// Compiles a grammar.
    pub(crate) fn constraint(&self, grammar: &Grammar) -> Result<Constraint, ApiError> {
        let grammars = self.grammars.get_or_init(|| {
            Grammars::new(&self.server.tokenizer.words(), &self.info.ends)
                .map_err(|error| error.to_string())
        });
        let grammars = grammars
            .as_ref()
            .map_err(|told| ApiError::new(StatusCode::BAD_REQUEST, told.clone()))?;
        Ok(grammars.compile(grammar)?)
    }
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
