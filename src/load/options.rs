//! How a load uses memory and the network.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::delta_base_cache::DeltaBaseCache;
use super::line::Line;
use crate::memory::slot::SlotProvider;
use crate::schedule::plan::PlanOptions;
use crate::schedule::scheduler::Limits;

/// How a load uses memory and the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Bytes of tensors in flight, with the chunks that wait for their bases, and of delivered tensors
    /// not yet dropped. A larger tensor is admitted alone. A consumer that keeps what it gets wants `u64::MAX`.
    pub budget: u64,
    /// The same while more requests than at first go on, each of which needs some.
    pub most_budget: u64,
    /// Requests at a time. By default where reads block (files) at first one for each core, 2 to 8, and up to 64
    /// while more of them make the load faster; else 4 at first, 17 to 64 where answers take long, and up to 128.
    pub connections: Option<usize>,
    /// How long a request may go without a byte before it is replaced.
    pub stall: Duration,
    /// Tensors larger than this are delivered in pieces of at most this size (or of one slot, if
    /// that is larger); those cut into bands only if they are four times as long. By default tensors
    /// are whole.
    pub piece: Option<u64>,
    /// What was taken from the load counts no longer, though its bytes are still held: whoever takes it answers for
    /// its memory, and may hold as much as it likes.
    pub hand_over: bool,
    /// Bytes of one request when a long run is divided.
    pub segment: u64,
    /// Unwanted bytes that a request may span. By default as many as come in the time of a round trip, as far as
    /// the reads that opened the artifact tell; else 64 KiB.
    pub gap: Option<u64>,
    /// How often a damaged chunk is fetched before the load fails.
    pub bad_chunks: u32,
    /// How often a request may fail in a row before the load fails.
    pub failures: u32,
    /// The pause after a first failure; it doubles with each further one, up to 5 seconds.
    pub first_pause: Duration,
    /// How long a request runs before it may be found slow and be divided; `None`: never.
    pub hedge_after: Option<Duration>,
    /// For the jitter of pauses between retries and of what is tried: by default another for each load, so that many
    /// do not do the same at the same time.
    pub seed: u64,
    /// The destination: it lends the memory that tensors arrive in. By default the heap's.
    pub memory: Option<Arc<dyn SlotProvider>>,
    /// Loads from the same store that find together how many requests go on. By default each finds that alone.
    pub line: Option<Arc<Line>>,
    /// A chunk that cannot be had fails its own delivery only, and the load goes on.
    pub tolerant: bool,
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
            most_budget: limits.most_budget,
            connections: None,
            stall: limits.stall,
            piece: None,
            hand_over: false,
            segment: plan.segment,
            gap: None,
            bad_chunks: limits.bad_chunks,
            failures: limits.failures,
            first_pause: limits.first_pause,
            hedge_after: limits.hedge_after,
            seed: RandomState::new().build_hasher().finish(),
            memory: None,
            line: None,
            tolerant: false,
            bases: None,
        }
    }
}
