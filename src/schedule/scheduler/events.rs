//! What the state of a load hears, what it wants done, and what bounds it.

use std::time::Duration;

use super::mirror::MirrorIndex;
use crate::format::id::PackId;
use crate::schedule::plan::{ChunkIndex, DeliveryIndex};

/// What bounds a load.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of deliveries that are being filled, wait to be taken, or are held by the consumer; with
    /// those that are filled, of the chunks that wait for their bases. A delivery beyond it is
    /// admitted alone.
    pub budget: u64,
    /// The same while more fetches go on than were planned: each needs some.
    pub most_budget: u64,
    /// Bytes that a delivery takes beside its own.
    pub beside: u64,
    /// Fetches at a time: so many at first.
    pub connections: usize,
    /// So many at most, where more of them make the load faster.
    pub most_connections: usize,
    /// Up to so many fetches at a time, they are as they were planned; more of them are smaller.
    pub as_planned: usize,
    /// Bytes per second that are as many as can be used: more fetches are not tried then.
    pub enough: u64,
    /// Bytes of a fetch when there are more than were planned: the least.
    pub least_fetch: u64,
    /// Bytes of one fetch that come in the time to an answer, as far as that is known before anything was measured.
    pub on_the_way: u64,
    /// Sources of the same store, of which 0 is the first choice; at most [`MAX_MIRRORS`](super::MAX_MIRRORS).
    pub mirrors: usize,
    /// How long a fetch may go without a byte.
    pub stall: Duration,
    /// How often one chunk may arrive damaged before the load fails, if no mirror is left that was not asked.
    pub bad_chunks: u32,
    /// How often a request may fail in a row on every mirror, without a chunk in between, before the load fails.
    pub failures: u32,
    /// The pause after a first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long a fetch runs before it may be found slow; `None` switches hedging off.
    pub hedge_after: Option<Duration>,
    /// Whether a chunk that cannot be had ([`Action::Lost`]) leaves the rest of the load alone.
    pub tolerant: bool,
    /// For the jitter of the pauses.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget: 96 << 20,
            most_budget: 160 << 20,
            beside: 0,
            connections: 4,
            most_connections: 4,
            as_planned: 4,
            enough: u64::MAX,
            least_fetch: 1 << 20,
            on_the_way: 0,
            mirrors: 1,
            stall: Duration::from_secs(30),
            bad_chunks: 3,
            failures: 5,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            hedge_after: Some(Duration::from_secs(2)),
            tolerant: false,
            seed: 0,
        }
    }
}

/// One request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub(super) u64);

/// Why a fetch ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The same request may succeed later, not before the server's wish.
    Transient(Option<Duration>),
    /// It will fail again on this mirror.
    Permanent,
    /// This mirror does not have what was asked for, or not all of it.
    Absent,
}

/// What happened.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An answer to the fetch has begun.
    Answered { fetch: FetchId },
    /// Bytes of the body arrived.
    Bytes { fetch: FetchId, count: u64 },
    /// The next chunk of the fetch is verified and in its place, or kept for what it is decoded with.
    Verified { fetch: FetchId, chunk: ChunkIndex },
    /// The next chunk of the fetch is damaged; its place is free again.
    Bad { fetch: FetchId, chunk: ChunkIndex },
    /// The fetch has ended and given back every place it held.
    Ended { fetch: FetchId, failure: Option<Failure> },
    /// The consumer took a delivery.
    Taken { delivery: DeliveryIndex },
    /// The memory of a delivery is free.
    Released { delivery: DeliveryIndex },
    /// Time has passed.
    Tick,
}

/// What to do.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reserve the memory of a delivery, and of its chunks that wait for each other.
    Admit { delivery: DeliveryIndex },
    /// Send a request. Chunks are read as they are granted, in this order.
    Start {
        fetch: FetchId,
        mirror: MirrorIndex,
        pack: PackId,
        whole: bool,
        chunks: Vec<ChunkIndex>,
    },
    /// The next `count` chunks of the fetch may be read.
    Grant { fetch: FetchId, count: usize },
    /// End the fetch as soon as it can be.
    Cancel { fetch: FetchId },
    /// The delivery is complete, and so are all before it.
    Deliver { delivery: DeliveryIndex },
    /// The chunk's delivery, which comes as if it were complete, lacks it.
    Lost { chunk: ChunkIndex, why: GaveUp },
    /// Nothing more will happen.
    Fail(GaveUp),
}

/// Why a load failed.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The chunk arrived damaged too often.
    BadChunk { chunk: ChunkIndex, tries: u32 },
    /// The request for this chunk and those after it failed too often.
    Fetch { chunk: ChunkIndex, mirror: MirrorIndex },
    /// A cancelled fetch does not end.
    Hung { chunk: ChunkIndex, mirror: MirrorIndex },
}

/// What a load waited for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Limit {
    /// Answers: so little was loaded that no rate was found.
    #[default]
    Answers,
    /// The pace of each connection: more of them would have brought more, and no more were allowed.
    Connections,
    /// The link, or all that the origin gives: more connections brought no more.
    Link,
    /// The origin: it refused more requests.
    Origin,
    /// This machine: as much came as it takes.
    Processor,
    /// Files: they were read as fast as they could be.
    Disk,
    /// Whoever takes what was loaded, or the memory that it holds.
    Consumer,
}

impl Limit {
    /// Its name, in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Connections => "connections",
            Self::Link => "link",
            Self::Origin => "origin",
            Self::Processor => "processor",
            Self::Disk => "disk",
            Self::Consumer => "consumer",
        }
    }
}

/// Counts for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStats {
    /// Requests sent.
    pub requests: u64,
    /// Requests sent again after a failure or a stall.
    pub retries: u64,
    /// Slow requests that were divided among idle connections.
    pub hedges: u64,
    /// Damaged chunks fetched again.
    pub refetched_chunks: u64,
    /// Mirrors given up.
    pub dropped_mirrors: u64,
    /// The most requests that were to go on at a time.
    pub connections: u64,
    /// What was waited for most.
    pub limit: Limit,
    /// Mirrors that were asked, as bits.
    pub(crate) asked: u64,
    /// Mirrors of which a request failed in a way that may pass, or sent a damaged chunk, as bits.
    pub(crate) faulty: u64,
}
