//! Verified chunks, wherever they are: in memory, on disk, or at an origin, which is asked once for all who
//! want one. Nobody gets a byte of a chunk before all of it was verified.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::chunk::verified::VerifiedChunk;
use crate::edge::cache::budget::Budget;
use crate::edge::cache::chunks::{Chunk, ChunkCache, Claim, Found};
use crate::edge::cache::disk::DiskTier;
use crate::edge::cache::origins::{Opened, Origins, copy, worse};
use crate::format::id::{PackId, StoredDigest};
use crate::format::record::ChunkRecord;
use crate::format::store as paths;
use crate::memory::pool::{self, Urgency};
use crate::transport::small::RetryPolicy;
use crate::transport::{ReadRange, TransportError, TransportErrorKind};

/// The most that one request to the origin asks for.
const RUN: u64 = 8 << 20;
/// Requests to the origin at a time.
const ORIGIN_REQUESTS: usize = 32;

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

/// The chunks of a store.
#[derive(Debug)]
pub(crate) struct ChunkSource {
    origins: Arc<Origins>,
    retry: RetryPolicy,
    cache: Arc<ChunkCache>,
    disk: Option<Arc<DiskTier>>,
    requests: Semaphore,
    stats: OriginStats,
}

/// A chunk that somebody wants, and where it lies.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) pack: PackId,
    /// Its bytes in the pack.
    pub(crate) place: Range<u64>,
    pub(crate) record: ChunkRecord,
}

/// Neighbours in one pack that are to be filled: one request.
pub(crate) struct Run {
    pack: PackId,
    chunks: VecDeque<(Range<u64>, ChunkRecord, Claim)>,
}

impl Run {
    pub(crate) fn of(wanted: &Wanted, claim: Claim) -> Self {
        let chunk = (wanted.place.clone(), wanted.record, claim);
        Self { pack: wanted.pack, chunks: VecDeque::from([chunk]) }
    }

    fn range(&self) -> Range<u64> {
        let ends =
            |chunk: Option<&(Range<u64>, _, _)>| chunk.map_or(0..0, |(place, ..)| place.clone());
        ends(self.chunks.front()).start..ends(self.chunks.back()).end
    }

    /// Whether the chunk is the next in the pack, and a request may be as long.
    pub(crate) fn is_before(&self, wanted: &Wanted) -> bool {
        let range = self.range();
        (self.pack, range.end) == (wanted.pack, wanted.place.start)
            && wanted.place.end - range.start <= RUN
    }

    pub(crate) fn push(&mut self, wanted: &Wanted, claim: Claim) {
        self.chunks.push_back((wanted.place.clone(), wanted.record, claim));
    }
}

impl ChunkSource {
    pub(crate) fn new(
        origins: Arc<Origins>,
        retry: RetryPolicy,
        cache: Arc<ChunkCache>,
        disk: Option<Arc<DiskTier>>,
    ) -> Arc<Self> {
        let (requests, stats) = (Semaphore::new(ORIGIN_REQUESTS), OriginStats::default());
        Arc::new(Self { origins, retry, cache, disk, requests, stats })
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

    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Whether the chunk may be on disk.
    pub(crate) fn is_on_disk(&self, chunk: &StoredDigest) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.has(chunk))
    }

    /// A chunk for whom a look was counted before. `waited` is as in [`Self::fill`].
    pub(crate) async fn get(
        self: &Arc<Self>,
        wanted: &Wanted,
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
            |disk: &Arc<DiskTier>| run.chunks.iter().any(|(_, record, _)| disk.has(&record.stored));
        let Some(disk) = disk.filter(on_disk) else {
            waited.store(true, Ordering::Relaxed);
            return self.clone().fetch(run);
        };
        let (source, waited, runtime) = (self.clone(), waited.clone(), Handle::current());
        if run.chunks.len() > 1 {
            waited.store(true, Ordering::Relaxed);
            runtime.spawn_blocking(move || source.read(&disk, run));
            return;
        }
        // What the system has of it in memory is there as quickly as it is hashed.
        let len = run.range().end - run.range().start;
        pool::start(usize::try_from(len).unwrap_or(usize::MAX), urgency, move || {
            let mut run = run;
            let read = run.chunks.front().and_then(|(_, record, _)| disk.read_at_once(record));
            if let Some(chunk) = read
                && let Some((_, _, claim)) = run.chunks.pop_front()
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
        for (place, record, claim) in run.chunks {
            if let Some(chunk) = disk.read(&record) {
                claim.fill(chunk);
                continue;
            }
            let wanted = Wanted { pack: run.pack, place, record };
            match &mut missing {
                Some(run) if run.is_before(&wanted) => run.push(&wanted, claim),
                _ => {
                    if let Some(run) = missing.replace(Run::of(&wanted, claim)) {
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
        let runtime = Handle::current();
        // A directory's reads block their thread.
        if self.origins.reads_block() {
            runtime.clone().spawn_blocking(move || runtime.block_on(self.fill_run(run)));
        } else {
            runtime.spawn(async move { self.fill_run(run).await });
        }
    }

    async fn fill_run(&self, mut run: Run) {
        // Only closed with the edge itself.
        let Ok(_permit) = self.requests.acquire().await else { return };
        let (mut last, mut round) = (None, 0);
        let error = loop {
            for origin in self.origins.in_order() {
                if last.is_some() {
                    self.stats.retries.fetch_add(1, Ordering::Relaxed);
                }
                match self.fill_from(origin, &mut run).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(pack = %run.pack, %error, "chunks not fetched");
                        last = Some(worse(last, error));
                    }
                }
            }
            let error = last.get_or_insert_with(|| {
                let (kind, path) = (TransportErrorKind::NotFound, paths::pack(run.pack));
                TransportError::new(kind, self.origins.location(), path, "no origin")
            });
            let jitter = fastrand::f64();
            match self.retry.pause(round, jitter, error.retry_after) {
                Some(pause) if error.is_transient() => tokio::time::sleep(pause).await,
                _ => break Arc::new(copy(error)),
            }
            round += 1;
        };
        for (_, _, claim) in run.chunks {
            claim.fail(error.clone());
        }
    }

    /// Fills what is left of a run from one origin, as far as that is right.
    async fn fill_from(&self, origin: usize, run: &mut Run) -> Result<(), TransportError> {
        let mut origin = origin;
        let filled = self.fill_some(&mut origin, run).await;
        self.origins.tell(origin, filled.as_ref().err());
        filled
    }

    /// The same; `origin` becomes the one that answered.
    async fn fill_some(&self, origin: &mut usize, run: &mut Run) -> Result<(), TransportError> {
        if run.chunks.is_empty() {
            return Ok(());
        }
        let path = paths::pack(run.pack);
        let location = |origin: usize| self.origins.transport(origin).location();
        let late = |_| {
            let what = "no answer came";
            TransportError::new(TransportErrorKind::Stalled, location(*origin), &path, what)
        };
        let range = ReadRange::Bounded(run.range());
        let opened = self.origins.open(*origin, &path, &range);
        let Opened { mut reader, origin: answered } =
            tokio::time::timeout(self.retry.stall, opened).await.map_err(late)??;
        *origin = answered;
        let error = |kind, what: String| TransportError::new(kind, location(answered), &path, what);
        let stalled = |_| error(TransportErrorKind::Stalled, "no byte came".to_owned());
        let mut at = reader.range.start;
        let mut buffer = BytesMut::new();
        while let Some((place, record, _)) = run.chunks.front() {
            let (place, record) = (place.clone(), *record);
            // A server that ignores ranges sends what lies before, too.
            buffer.reserve(record.stored_len as usize);
            while at + (buffer.len() as u64) < place.end {
                if at < place.start && !buffer.is_empty() {
                    at += buffer.len() as u64;
                    buffer.clear();
                }
                let to = if at < place.start { place.start } else { place.end };
                let most = usize::try_from(to - at).unwrap_or(usize::MAX) - buffer.len();
                let read = reader.body.append(&mut buffer, most.min(RUN as usize));
                let count =
                    tokio::time::timeout(self.retry.stall, read).await.map_err(stalled)??;
                if count == 0 {
                    let what = format!("the body ends at byte {}", at + buffer.len() as u64);
                    return Err(error(TransportErrorKind::Protocol, what));
                }
                self.stats.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            at = place.end;
            let arrived = buffer.split();
            let check = move || VerifiedChunk::verify(record, arrived);
            let checked = pool::spawn(record.stored_len as usize, Urgency::Now, check).await;
            match checked.map_err(|why| error(TransportErrorKind::Io, why.to_string()))? {
                Ok(chunk) => {
                    if let Some((_, _, claim)) = run.chunks.pop_front()
                        && let Some(chunk) = claim.fill(chunk)
                        && let Some(disk) = self.disk.clone()
                    {
                        let write = move || disk.write(&record.stored, chunk.stored());
                        tokio::task::spawn_blocking(write);
                    }
                }
                Err(bad) => {
                    let (why, from, offset) = (&bad.error, location(answered), place.start);
                    tracing::warn!(%path, offset, from, %why, "chunk failed verification");
                    self.stats.damaged.fetch_add(1, Ordering::Relaxed);
                    let what = format!("damaged at offset {}: {}", place.start, bad.error);
                    return Err(error(TransportErrorKind::Protocol, what));
                }
            }
        }
        Ok(())
    }
}
