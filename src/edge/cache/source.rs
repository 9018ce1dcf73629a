//! Verified chunks, wherever they are: in memory, on disk, or at an origin, which is asked once for all who
//! want one. Nobody gets a byte of a chunk before all of it was verified.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::runtime::Handle;

use crate::edge::cache::budget::Budget;
use crate::edge::cache::chunks::{Chunk, ChunkCache, Claim, Found};
use crate::edge::cache::disk::DiskTier;
use crate::edge::cache::origins::{Origins, copy, transport_error};
use crate::format::id::StoredDigest;
use crate::load::chunks::{ChunkStream, store_error};
use crate::load::{Line, LoadError, LoadStats};
use crate::memory::buffers::Buffers;
use crate::memory::pool::{self, Urgency};
use crate::memory::slot::SlotProvider;
use crate::store::Placed;
use crate::transport::TransportError;

/// The most that one request to the origin asks for.
const RUN: u64 = 8 << 20;
/// The most that is kept of memory which chunks arrived in and nobody uses.
const SPARE: usize = 64 << 20;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct OriginStats {
    /// Bytes of chunks that came.
    pub(crate) bytes: AtomicU64,
    /// Chunks that failed digest verification.
    pub(crate) damaged: AtomicU64,
    /// Requests after a failed one.
    pub(crate) retries: AtomicU64,
}

impl OriginStats {
    /// Counts what a fetch has done since `seen`.
    fn count(&self, seen: &mut LoadStats, now: LoadStats) {
        self.bytes.fetch_add(now.fetched_bytes - seen.fetched_bytes, Ordering::Relaxed);
        self.damaged.fetch_add(now.refetched_chunks - seen.refetched_chunks, Ordering::Relaxed);
        self.retries.fetch_add(now.retries - seen.retries, Ordering::Relaxed);
        *seen = now;
    }
}

/// The chunks of a store.
#[derive(Debug)]
pub(crate) struct ChunkSource {
    origins: Arc<Origins>,
    cache: Arc<ChunkCache>,
    disk: Option<Arc<DiskTier>>,
    /// Runs that are to be fetched, in the order in which they were asked for.
    line: Arc<Line>,
    /// What they arrive in.
    memory: Arc<Buffers>,
    stats: OriginStats,
}

/// Neighbours in one pack that are to be filled: one request.
pub(crate) struct Run(VecDeque<(Placed, Claim)>);

impl Run {
    pub(crate) fn of(wanted: Placed, claim: Claim) -> Self {
        Self(VecDeque::from([(wanted, claim)]))
    }

    fn range(&self) -> Range<u64> {
        let ends = |chunk: Option<&(Placed, Claim)>| chunk.map_or(0..0, |(chunk, _)| chunk.range());
        ends(self.0.front()).start..ends(self.0.back()).end
    }

    /// Whether the chunk is the next in the pack, and a request may be as long.
    pub(crate) fn is_before(&self, wanted: &Placed) -> bool {
        let (own, next) = (self.range(), wanted.range());
        let pack = self.0.front().map(|(chunk, _)| chunk.place.pack);
        (pack, own.end) == (Some(wanted.place.pack), next.start) && next.end - own.start <= RUN
    }

    pub(crate) fn push(&mut self, wanted: Placed, claim: Claim) {
        self.0.push_back((wanted, claim));
    }
}

impl ChunkSource {
    pub(crate) fn new(
        origins: Arc<Origins>,
        cache: Arc<ChunkCache>,
        disk: Option<Arc<DiskTier>>,
    ) -> Arc<Self> {
        let (line, memory) = (Arc::default(), Arc::new(Buffers::new(SPARE)));
        Arc::new(Self { origins, cache, disk, line, memory, stats: OriginStats::default() })
    }

    pub(crate) fn stats(&self) -> &OriginStats {
        &self.stats
    }

    pub(crate) fn cache(&self) -> &Arc<ChunkCache> {
        &self.cache
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        self.cache.budget()
    }

    pub(crate) fn origins(&self) -> &Arc<Origins> {
        &self.origins
    }

    /// Whether the chunk may be on disk.
    pub(crate) fn is_on_disk(&self, chunk: &StoredDigest) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.has(chunk))
    }

    /// A chunk for whom a look was counted before. `waited` is as in [`Self::fill`].
    pub(crate) async fn get(
        self: &Arc<Self>,
        wanted: Placed,
        urgency: Urgency,
        waited: &Arc<AtomicBool>,
    ) -> Result<Chunk, TransportError> {
        loop {
            match self.cache.get_or_claim_uncounted(wanted.record.stored) {
                Found::Ready(chunk) => return Ok(chunk),
                Found::Filling(waiting) => {
                    // One that was given up is claimed by the next look.
                    if let Some(filled) = waiting.outcome().await {
                        return filled.map_err(|error| copy(&error));
                    }
                }
                Found::Missing(claim) => self.fill(Run::of(wanted, claim), urgency, waited),
            }
        }
    }

    /// Fills neighbouring chunks, in the background and whoever waits for them. `waited` is set if a disk
    /// or an origin has to be waited for.
    pub(crate) fn fill(self: &Arc<Self>, run: Run, urgency: Urgency, waited: &Arc<AtomicBool>) {
        let disk = self.disk.clone();
        let on_disk =
            |disk: &Arc<DiskTier>| run.0.iter().any(|(chunk, _)| disk.has(&chunk.record.stored));
        let Some(disk) = disk.filter(on_disk) else {
            waited.store(true, Ordering::Relaxed);
            return self.clone().fetch(run);
        };
        let (source, waited, runtime) = (self.clone(), waited.clone(), Handle::current());
        if run.0.len() > 1 {
            waited.store(true, Ordering::Relaxed);
            runtime.spawn_blocking(move || source.read(&disk, run));
            return;
        }
        // What the system has of it in memory is there as quickly as it is hashed.
        let len = run.range().end - run.range().start;
        pool::start(usize::try_from(len).unwrap_or(usize::MAX), urgency, move || {
            let mut run = run;
            let read = run.0.front().and_then(|(chunk, _)| disk.read_at_once(&chunk.record));
            if let Some(chunk) = read
                && let Some((_, claim)) = run.0.pop_front()
            {
                claim.fill(chunk);
                return;
            }
            waited.store(true, Ordering::Relaxed);
            runtime.spawn_blocking(move || source.read(&disk, run));
        });
    }

    /// Fills what is on disk, and fetches the rest. Blocks.
    fn read(self: Arc<Self>, disk: &DiskTier, run: Run) {
        let mut missing: Option<Run> = None;
        for (wanted, claim) in run.0 {
            if let Some(chunk) = disk.read(&wanted.record) {
                claim.fill(chunk);
                continue;
            }
            match &mut missing {
                Some(run) if run.is_before(&wanted) => run.push(wanted, claim),
                _ => {
                    if let Some(run) = missing.replace(Run::of(wanted, claim)) {
                        self.clone().fetch(run);
                    }
                }
            }
        }
        if let Some(run) = missing {
            self.fetch(run);
        }
    }

    /// Fetches a run from the origins, in the background.
    fn fetch(self: Arc<Self>, run: Run) {
        Handle::current().spawn(async move { self.fill_run(run).await });
    }

    async fn fill_run(&self, run: Run) {
        let (order, origins) = self.origins.store();
        let (wanted, mut claims): (Vec<_>, VecDeque<_>) = run.0.into_iter().unzip();
        let shared: (_, Arc<dyn SlotProvider>) = (self.line.clone(), self.memory.clone());
        let mut chunks = ChunkStream::start_in(Some(shared), &origins, None, &wanted, false);
        let mut seen = LoadStats::default();
        let failed = loop {
            let next = chunks.next().await;
            self.stats.count(&mut seen, chunks.stats());
            let chunk = match next {
                Some((_, Ok(chunk))) => chunk,
                Some((_, Err(error))) => break Some(error),
                None => break None,
            };
            if let Some(chunk) = claims.pop_front().and_then(|claim| claim.fill(chunk))
                && let Some(disk) = self.disk.clone()
            {
                let write = move || disk.write(&chunk.record().stored, chunk.stored());
                tokio::task::spawn_blocking(write);
            }
        };
        self.origins.judge(&order, &seen);
        let Some(error) = failed else { return };
        if matches!(error, LoadError::Corrupt { .. }) {
            self.stats.damaged.fetch_add(1, Ordering::Relaxed);
        }
        let error = Arc::new(transport_error(store_error(error)));
        for claim in claims {
            claim.fail(error.clone());
        }
    }
}
