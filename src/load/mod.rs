//! Loads tensors: streams them in the order asked, each as soon as its last chunk is verified.
//!
//! A driver task feeds the sans-I/O [`Scheduler`] and owns the memory; fetch tasks read, verify
//! and place. A tensor's bytes leave here only when every chunk of it has passed its check.

pub mod artifact;
mod buffer;
pub mod delta_base_cache;
mod driver;
mod error;
mod fetch;
mod links;
pub mod sink;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::format::id::ManifestId;
use crate::schedule::plan::{Plan, PlanOptions, TensorRequest};
use crate::schedule::scheduler::{Limits, MAX_MIRRORS, SchedulerStats};
use crate::transport::Transport;
use buffer::Feedback;
use delta_base_cache::DeltaBaseCache;
pub use error::{ErrorKind, LoadError};
use links::Kept;

/// How a load uses memory and the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Bytes of tensors in flight, with the chunks that wait for their bases, and of delivered tensors
    /// not yet dropped. A larger tensor is admitted alone. A consumer that keeps what it gets wants `u64::MAX`.
    pub budget: u64,
    /// Requests at a time; by default 4, or where reads block (local files) one for each core, 2 to 8.
    pub connections: Option<usize>,
    /// How long a request may go without a byte before it is replaced.
    pub stall: Duration,
    /// Tensors larger than this are delivered in pieces of at most this size (or of one slot, if
    /// that is larger); those cut into bands only if they are four times as long. By default tensors
    /// are whole.
    pub piece: Option<u64>,
    /// Bytes of one request when a long run is divided.
    pub segment: u64,
    /// Unwanted bytes that a request may span.
    pub gap: u64,
    /// How often a damaged chunk is fetched before the load fails.
    pub bad_chunks: u32,
    /// How often a request may fail in a row before the load fails.
    pub failures: u32,
    /// The pause after a first failure; it doubles with each further one, up to 5 seconds.
    pub first_pause: Duration,
    /// How long a request runs before it may be found slow and be divided; `None`: never.
    pub hedge_after: Option<Duration>,
    /// For the jitter of pauses between retries.
    pub seed: u64,
    /// What this load decodes is kept there, and bases that are there are not fetched. Each chunk is
    /// hashed and copied once more for it. By default nothing is kept.
    pub bases: Option<Arc<DeltaBaseCache>>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let limits = Limits::default();
        let plan = PlanOptions::default();
        Self {
            budget: limits.budget,
            connections: None,
            stall: limits.stall,
            piece: None,
            segment: plan.segment,
            gap: plan.gap,
            bad_chunks: limits.bad_chunks,
            failures: limits.failures,
            first_pause: limits.first_pause,
            hedge_after: limits.hedge_after,
            seed: 0,
            bases: None,
        }
    }
}

/// A verified tensor, a rank's part of one, or a piece of either.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// What was wanted: name, type, shape of the part, digest of the whole tensor.
    pub request: Arc<TensorRequest>,
    /// Offset of these bytes in what was wanted, row-major.
    pub offset: u64,
    /// The bytes. Their memory returns to the load when the last reference is dropped.
    pub data: Bytes,
}

impl Tensor {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.request.entry.name
    }

    /// Whether these bytes end what was wanted.
    pub fn is_last_piece(&self) -> bool {
        self.offset + self.data.len() as u64 == self.request.cut.len()
    }
}

/// What a load has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadStats {
    /// Requests for packs.
    pub requests: u64,
    /// Bytes that came from packs.
    pub fetched_bytes: u64,
    /// Bytes delivered.
    pub delivered_bytes: u64,
    /// Tensors (or pieces) delivered.
    pub delivered: u64,
    /// Requests sent again after a failure or a stall.
    pub retries: u64,
    /// Slow requests that were divided among idle connections.
    pub hedges: u64,
    /// Damaged chunks that were fetched again.
    pub refetched_chunks: u64,
    /// Mirrors given up.
    pub dropped_mirrors: u64,
    /// From the start to the first delivery.
    pub first_tensor: Option<Duration>,
}

/// Of one load after the other.
impl std::ops::AddAssign for LoadStats {
    fn add_assign(&mut self, next: Self) {
        self.requests += next.requests;
        self.fetched_bytes += next.fetched_bytes;
        self.delivered_bytes += next.delivered_bytes;
        self.delivered += next.delivered;
        self.retries += next.retries;
        self.hedges += next.hedges;
        self.refetched_chunks += next.refetched_chunks;
        self.dropped_mirrors += next.dropped_mirrors;
        self.first_tensor = self.first_tensor.or(next.first_tensor);
    }
}

impl LoadStats {
    fn take_state(&mut self, state: SchedulerStats) {
        self.requests = state.requests;
        self.retries = state.retries;
        self.hedges = state.hedges;
        self.refetched_chunks = state.refetched_chunks;
        self.dropped_mirrors = state.dropped_mirrors;
    }
}

/// A load in progress: a stream of tensors. Dropping it ends the load.
#[derive(Debug)]
pub struct Loader {
    ready: UnboundedReceiver<(u32, Result<Tensor, LoadError>)>,
    feedback: UnboundedSender<Feedback>,
    stats: Arc<Mutex<LoadStats>>,
}

/// Cores that hash what a load brings: 2 to 8.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

impl Loader {
    /// Begins to load `tensors` of an artifact from `sources`, which hold the same store; the first
    /// is preferred. Must be called within a tokio runtime.
    ///
    /// `pack_ends` says where the known chunks of a pack end, for packs that may be asked for whole;
    /// see [`PlanOptions::pack_ends`].
    pub fn start(
        artifact: ManifestId,
        sources: Vec<Arc<dyn Transport>>,
        tensors: Vec<Arc<TensorRequest>>,
        pack_ends: std::collections::HashMap<crate::format::id::PackId, u64>,
        options: &LoadOptions,
    ) -> Self {
        let blocking = sources.iter().any(|source| source.reads_block());
        let kept = Arc::new(Kept::of(&tensors, options.bases.clone()));
        let plan = PlanOptions {
            held: kept.contents().copied().collect(),
            gap: options.gap,
            segment: options.segment,
            piece: options.piece,
            // A local file has no cache between that would like whole objects.
            pack_ends: if blocking { Default::default() } else { pack_ends },
        };
        let plan = Arc::new(Plan::new(tensors, &plan));
        let limits = Limits {
            budget: options.budget,
            // A local file's bytes are there as quickly as they are hashed, on a core for each request.
            connections: options.connections.unwrap_or(if blocking { cores() } else { 4 }).max(1),
            mirrors: sources.len().min(MAX_MIRRORS),
            stall: options.stall,
            bad_chunks: options.bad_chunks,
            failures: options.failures,
            first_pause: options.first_pause,
            hedge_after: options.hedge_after,
            seed: options.seed,
            ..Limits::default()
        };
        let (deliver, ready) = unbounded_channel();
        let (feedback, told) = unbounded_channel();
        let stats = Arc::<Mutex<LoadStats>>::default();
        let driver = driver::Driver::new(
            artifact,
            sources,
            plan,
            limits,
            kept,
            (deliver, feedback.downgrade()),
            stats.clone(),
        );
        tokio::spawn(driver.run(told));
        Self { ready, feedback, stats }
    }

    /// The next tensor; `None` after the last one, or after an error.
    pub async fn next(&mut self) -> Option<Result<Tensor, LoadError>> {
        std::future::poll_fn(|cx| self.poll_tensor(cx)).await
    }

    /// What the load has done so far.
    pub fn stats(&self) -> LoadStats {
        *buffer::lock(&self.stats)
    }

    fn poll_tensor(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Tensor, LoadError>>> {
        self.ready.poll_recv(cx).map(|next| {
            let (delivery, tensor) = next?;
            // The driver may have ended: it has nothing left to admit then.
            drop(self.feedback.send(Feedback::Taken(delivery)));
            Some(tensor)
        })
    }
}

impl Stream for Loader {
    type Item = Result<Tensor, LoadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_tensor(cx)
    }
}
