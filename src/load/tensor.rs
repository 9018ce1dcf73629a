//! What a load delivers, and what it counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::chunk::verified::VerifiedChunk;
use crate::schedule::plan::{RecordIndex, TensorRequest};
use crate::schedule::scheduler::{Limit, SchedulerStats};

/// A verified tensor, a rank's part of one, or a piece of either.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// What was wanted: name, type, shape of the part, digest of the whole tensor.
    pub request: Arc<TensorRequest>,
    /// Offset of these bytes in what was wanted, row-major.
    pub offset: u64,
    /// The bytes. Their memory is let go when the last reference is dropped.
    pub data: Bytes,
    /// If chunks were asked for as they are stored ([`Form::Stored`]): this one, whose stored bytes `data`
    /// are.
    ///
    /// [`Form::Stored`]: crate::schedule::plan::Form::Stored
    pub stored: Option<StoredChunk>,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

/// A verified chunk of what was requested.
#[derive(Debug, Clone)]
pub struct StoredChunk {
    /// Which of the request's records.
    pub record: RecordIndex,
    /// The chunk.
    pub chunk: VerifiedChunk,
}

impl Tensor {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.request.entry.name
    }

    /// Whether nothing of the tensor came before.
    pub fn is_first_piece(&self) -> bool {
        self.is_first
    }

    /// Whether these bytes end what was wanted.
    pub fn is_last_piece(&self) -> bool {
        self.is_last
    }
}

/// What a load has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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
    /// The most requests that were to go on at a time.
    pub connections: u64,
    /// What was waited for most.
    pub limit: Limit,
    /// From the start to the first delivery.
    pub first_tensor: Option<Duration>,
    /// Sources that were asked, as bits in the order of the store's transports, and those of them of which a
    /// request failed in a way that may pass, or sent a damaged chunk.
    pub(crate) asked: u64,
    pub(crate) faulty: u64,
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
        self.connections = self.connections.max(next.connections);
        self.limit = next.limit;
        self.first_tensor = self.first_tensor.or(next.first_tensor);
        self.asked |= next.asked;
        self.faulty |= next.faulty;
    }
}

impl LoadStats {
    /// Takes the scheduler's counts, which come on top of those `before`.
    pub(super) fn take_state(&mut self, before: &Self, state: SchedulerStats) {
        self.requests = before.requests + state.requests;
        self.retries = before.retries + state.retries;
        self.hedges = before.hedges + state.hedges;
        self.refetched_chunks = before.refetched_chunks + state.refetched_chunks;
        self.dropped_mirrors = before.dropped_mirrors + state.dropped_mirrors;
        self.connections = before.connections.max(state.connections);
        self.limit = state.limit;
        self.asked = before.asked | state.asked;
        self.faulty = before.faulty | state.faulty;
    }
}
