//! Packs, read through the cache: each chunk comes from memory or, once for all who ask, from the
//! origin, and is verified before anybody gets a byte of it.
//!
//! A pack's identifier commits to its index and its index to every chunk, so that a pack needs no
//! manifest to be served right. What lies between chunks and end, index and trailer, is made anew from
//! the verified index.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::chunk::verified::VerifiedChunk;
use crate::edge::cache::budget::Budget;
use crate::edge::cache::chunks::{ChunkCache, Claim, Found};
use crate::edge::cache::disk::DiskTier;
use crate::edge::cache::origins::{Opened, Origins};
use crate::edge::options::ABSENT;
use crate::format::id::PackId;
use crate::format::pack::{PackIndex, Trailer};
use crate::format::record::ChunkRecord;
use crate::format::store as paths;
use crate::store::{Store, StoreError};
use crate::transport::small::RetryPolicy;
use crate::transport::{ReadRange, TransportError, TransportErrorKind};

/// The most that one request to the origin asks for.
const RUN: u64 = 8 << 20;
/// How far ahead of a reader chunks are fetched.
const AHEAD: u64 = 16 << 20;
/// The same of chunks on a disk that has to be waited for. What the system has of them in memory is read when it
/// is its turn: nobody's first byte waits for what others read ahead, and a chunk is sent from the core that has
/// just hashed it.
const DISK_AHEAD: u64 = 4 << 20;
/// The largest chunk that is read where other answers wait meanwhile.
const AT_ONCE: u32 = 2 << 20;
/// What is sent at a time where memory is short.
const FRAME: u64 = 64 << 10;
/// A part of a chunk that is this many times smaller is copied: it would hold the whole.
const SMALL: usize = 4;
/// Requests to the origin at a time.
const ORIGIN_REQUESTS: usize = 32;
/// Readers of files at a time that decode a chunk for a few of its bytes.
const WINDOWS: usize = 4;
/// Packs whose indexes are kept.
const INDEXES: u64 = 4096;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct OriginStats {
    /// Bytes of chunks that came.
    pub(crate) bytes: AtomicU64,
    /// Chunks that were not what they should be.
    pub(crate) damaged: AtomicU64,
    /// Requests after a failed one.
    pub(crate) retries: AtomicU64,
}

/// The packs of a store, behind a cache.
#[derive(Debug)]
pub(crate) struct Packs {
    origins: Arc<Origins>,
    retry: RetryPolicy,
    cache: Arc<ChunkCache>,
    disk: Option<Arc<DiskTier>>,
    indexes: Cache<PackId, Arc<PackMap>>,
    /// Packs that no origin had a moment ago.
    absent: Cache<PackId, Arc<TransportError>>,
    requests: Semaphore,
    /// Turns for those who decode a few bytes at a time.
    windows: Semaphore,
    stats: OriginStats,
}

/// Neighbouring chunks to fill.
type Run = VecDeque<(Range<u64>, ChunkRecord, Claim)>;

/// Where a pack's chunks lie.
#[derive(Debug)]
pub(crate) struct PackMap {
    /// The chunks with their places, in order.
    chunks: Vec<(Range<u64>, ChunkRecord)>,
    /// What follows the chunks.
    tail: Bytes,
}

impl PackMap {
    fn new(index: &PackIndex) -> Self {
        let chunks = index.places().map(|(range, record)| (range, *record)).collect();
        let mut tail = index.to_bytes();
        // An index is shorter than a pack, which is at most 64 MiB.
        let trailer = Trailer { index_len: tail.len() as u32 };
        tail.extend_from_slice(&trailer.to_bytes());
        Self { chunks, tail: tail.into() }
    }

    fn data_len(&self) -> u64 {
        self.chunks.last().map_or(0, |(range, _)| range.end)
    }

    /// Bytes of the pack.
    pub(crate) fn size(&self) -> u64 {
        self.data_len() + self.tail.len() as u64
    }

    /// The chunks that hold bytes of `wanted`.
    pub(crate) fn chunks(&self, wanted: &Range<u64>) -> &[(Range<u64>, ChunkRecord)] {
        let from = self.chunks.partition_point(|(range, _)| range.end <= wanted.start);
        let to = self.chunks.partition_point(|(range, _)| range.start < wanted.end);
        self.chunks.get(from..to.max(from)).unwrap_or_default()
    }
}

/// The part of a chunk that somebody wants.
struct Part {
    record: ChunkRecord,
    /// Where the chunk lies in the pack.
    place: Range<u64>,
    /// The wanted bytes, counted from the chunk's start.
    wanted: Range<u64>,
}

/// Somebody who reads a range of a pack.
struct Reading {
    packs: Arc<Packs>,
    pack: PackId,
    parts: VecDeque<Part>,
    /// How many of `parts` were looked at, and their bytes.
    looked: usize,
    ahead: u64,
    tail: Option<Bytes>,
    /// Whether anything had to be waited for.
    waited: bool,
    /// Whether anything was given yet.
    given: bool,
}

impl Packs {
    pub(crate) fn new(
        origins: Arc<Origins>,
        retry: RetryPolicy,
        cache: Arc<ChunkCache>,
        disk: Option<Arc<DiskTier>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            origins,
            retry,
            cache,
            disk,
            indexes: Cache::new(INDEXES),
            absent: Cache::builder().max_capacity(INDEXES).time_to_live(ABSENT).build(),
            requests: Semaphore::new(ORIGIN_REQUESTS),
            windows: Semaphore::new(WINDOWS),
            stats: OriginStats::default(),
        })
    }

    pub(crate) fn stats(&self) -> &OriginStats {
        &self.stats
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        self.cache.budget()
    }

    pub(crate) fn windows(&self) -> &Semaphore {
        &self.windows
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Where the chunks of a pack lie, from the first origin whose index is the one that the pack's
    /// name commits to.
    pub(crate) async fn map(&self, pack: PackId) -> Result<Arc<PackMap>, Arc<TransportError>> {
        let read = async {
            let mut last = None;
            for origin in self.origins.in_order() {
                let index = Store::new(self.origins.transport(origin).clone());
                let index = index.with_retry(self.retry.clone());
                match read_index(&index, pack).await {
                    Ok(index) => return Ok(Arc::new(PackMap::new(&index))),
                    Err(error) => last = Some(worse(last, error)),
                }
            }
            Err(last.unwrap_or_else(|| self.error(pack, TransportErrorKind::NotFound, "no origin")))
        };
        if let Some(error) = self.absent.get(&pack).await {
            return Err(error);
        }
        let found = self.indexes.try_get_with(pack, read).await;
        if let Err(error) = &found
            && error.kind == TransportErrorKind::NotFound
        {
            self.absent.insert(pack, error.clone()).await;
        }
        found
    }

    /// The bytes `wanted` of a pack, which must lie in it, as they become known to be right.
    pub(crate) fn read(
        self: &Arc<Self>,
        pack: PackId,
        map: &PackMap,
        wanted: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
        let part = |(place, record): &(Range<u64>, ChunkRecord)| Part {
            record: *record,
            wanted: wanted.start.max(place.start) - place.start
                ..wanted.end.min(place.end) - place.start,
            place: place.clone(),
        };
        let parts = map.chunks(&wanted).iter().map(part).collect();
        let data = map.data_len();
        let tail = wanted.start.max(data)..wanted.end.min(map.size());
        // Both are at most the length of the tail, which is in memory.
        let tail = (!tail.is_empty())
            .then(|| map.tail.slice((tail.start - data) as usize..(tail.end - data) as usize));
        let packs = self.clone();
        let reading =
            Reading { packs, pack, parts, looked: 0, ahead: 0, tail, waited: false, given: false };
        stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        })
    }

    fn error(&self, pack: PackId, kind: TransportErrorKind, what: &str) -> TransportError {
        TransportError::new(kind, self.origins.location(), paths::pack(pack), what)
    }

    /// Fills neighbouring chunks: one that is at hand at once, others in the background, whoever waits for
    /// them. Gives whether they are to be waited for.
    fn fill(self: &Arc<Self>, pack: PackId, mut claims: Run) -> bool {
        let packs = self.clone();
        if let Some(disk) = self.disk.clone()
            && claims.iter().any(|(_, record, _)| disk.has(&record.stored))
        {
            if let [(_, record, _)] = claims.make_contiguous()
                && record.stored_len <= AT_ONCE
                && let Some((chunk, rest)) = disk.read_at_once(record)
                && let Some((_, _, claim)) = claims.pop_front()
            {
                claim.fill(chunk, |stored| disk.buffers().share_exact(stored, rest));
                return false;
            }
            tokio::task::spawn_blocking(move || {
                for run in from_disk(&disk, claims) {
                    packs.clone().fetch(pack, run);
                }
            });
        } else {
            packs.fetch(pack, claims);
        }
        true
    }

    /// Fetches neighbouring chunks from the origin, in the background.
    fn fetch(self: Arc<Self>, pack: PackId, claims: Run) {
        let packs = self.clone();
        // A directory's reads block their thread.
        if self.origins.reads_block() {
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(packs.fill_run(pack, claims)));
        } else {
            tokio::spawn(async move { packs.fill_run(pack, claims).await });
        }
    }

    async fn fill_run(&self, pack: PackId, mut claims: Run) {
        // Only closed with the edge itself.
        let Ok(_permit) = self.requests.acquire().await else { return };
        let (mut last, mut round) = (None, 0);
        let error = loop {
            for origin in self.origins.in_order() {
                if last.is_some() {
                    self.stats.retries.fetch_add(1, Ordering::Relaxed);
                }
                match self.fill_from(origin, pack, &mut claims).await {
                    Ok(()) => return,
                    Err(error) => last = Some(worse(last, error)),
                }
            }
            let none = || self.error(pack, TransportErrorKind::NotFound, "no origin");
            let error = last.get_or_insert_with(none);
            let jitter = fastrand::f64();
            match self.retry.pause(round, jitter, error.retry_after) {
                Some(pause) if error.is_transient() => tokio::time::sleep(pause).await,
                _ => break Arc::new(copy(error)),
            }
            round += 1;
        };
        for (_, _, claim) in claims {
            claim.fail(error.clone());
        }
    }

    /// Fills what is left of `claims` from one origin, as far as that is right.
    async fn fill_from(
        &self,
        origin: usize,
        pack: PackId,
        claims: &mut Run,
    ) -> Result<(), TransportError> {
        let mut origin = origin;
        let filled = self.fill_some(&mut origin, pack, claims).await;
        self.origins.tell(origin, filled.as_ref().err());
        filled
    }

    /// The same; `origin` becomes the one that answered.
    async fn fill_some(
        &self,
        origin: &mut usize,
        pack: PackId,
        claims: &mut Run,
    ) -> Result<(), TransportError> {
        let (Some(first), Some(last)) = (claims.front(), claims.back()) else { return Ok(()) };
        let range = first.0.start..last.0.end;
        let path = paths::pack(pack);
        let location = |origin: usize| self.origins.transport(origin).location();
        let late = |_| {
            let what = "no answer came";
            TransportError::new(TransportErrorKind::Stalled, location(*origin), &path, what)
        };
        let range = ReadRange::Bounded(range);
        let opened = self.origins.open(*origin, &path, &range);
        let Opened { mut reader, origin: answered } =
            tokio::time::timeout(self.retry.stall, opened).await.map_err(late)??;
        *origin = answered;
        let error = |kind, what: String| TransportError::new(kind, location(answered), &path, what);
        let stalled = |_| error(TransportErrorKind::Stalled, "no byte came".to_owned());
        let mut at = reader.range.start;
        let mut buffer = BytesMut::new();
        while let Some((place, record, _)) = claims.front() {
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
                let read = reader.body.read_some(&mut buffer, most.min(RUN as usize));
                let count =
                    tokio::time::timeout(self.retry.stall, read).await.map_err(stalled)??;
                if count == 0 {
                    let what = format!("the body ends at byte {}", at + buffer.len() as u64);
                    return Err(error(TransportErrorKind::Protocol, what));
                }
                self.stats.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            at = place.end;
            match VerifiedChunk::verify(record, buffer.split()) {
                Ok(chunk) => {
                    if let Some((_, _, claim)) = claims.pop_front()
                        && let Some(bytes) = claim.fill(chunk, BytesMut::freeze)
                        && let Some(disk) = self.disk.clone()
                    {
                        tokio::task::spawn_blocking(move || disk.write(&record.stored, &bytes));
                    }
                }
                Err(bad) => {
                    self.stats.damaged.fetch_add(1, Ordering::Relaxed);
                    let what = format!("damaged at offset {}: {}", place.start, bad.error);
                    return Err(error(TransportErrorKind::Protocol, what));
                }
            }
        }
        Ok(())
    }
}

impl Reading {
    /// The next bytes; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        // To read and hash a chunk is as long a turn as to send one.
        if self.given && !self.waited && self.packs.disk.is_some() {
            std::thread::yield_now();
        }
        self.look_ahead();
        let Some(part) = self.parts.front() else { return Ok(self.tail.take()) };
        let digest = part.record.stored;
        let bytes = loop {
            // It was looked at, and counted, ahead.
            match self.packs.cache.get_or_claim_uncounted(digest) {
                Found::Ready(bytes) => break bytes,
                Found::Filling(waiting) => match waiting.outcome().await {
                    Some(filled) => break filled.map_err(|error| copy(&error))?,
                    // Given up: the next look claims it.
                    None => continue,
                },
                Found::Missing(claim) => {
                    let Some(part) = self.parts.front() else { return Ok(None) };
                    let run = (part.place.clone(), part.record, claim);
                    self.waited |= self.packs.fill(self.pack, VecDeque::from([run]));
                }
            }
        };
        self.given = true;
        let Some(part) = self.parts.front_mut() else { return Ok(None) };
        let (budget, mut wanted) = (self.packs.budget(), part.wanted.clone());
        let is_tight = budget.is_tight();
        if is_tight {
            wanted.end = wanted.end.min(wanted.start + FRAME);
        }
        part.wanted.start = wanted.end;
        if part.wanted.is_empty() {
            self.parts.pop_front();
            self.looked = self.looked.saturating_sub(1);
            self.ahead = self.ahead.saturating_sub(bytes.len() as u64);
        }
        // The part lies in the chunk, whose length the record gave.
        let part = bytes.slice(wanted.start as usize..(wanted.end as usize).min(bytes.len()));
        Ok(Some(match is_tight || part.len() < bytes.len() / SMALL {
            true => budget.hold(Bytes::copy_from_slice(&part)),
            false => part,
        }))
    }

    /// Begins to fill what is missing of the chunks ahead, neighbours in one request.
    fn look_ahead(&mut self) {
        let mut run = VecDeque::new();
        let mut length = 0;
        let is_tight = self.packs.budget().is_tight();
        while let Some(part) = self.parts.get(self.looked) {
            let is_here = |disk: &Arc<DiskTier>| disk.has(&part.record.stored);
            let most = match self.packs.disk.as_ref().is_some_and(is_here) {
                _ if is_tight => 1,
                true if !self.waited => 1,
                true => DISK_AHEAD,
                false => AHEAD,
            };
            if self.ahead >= most {
                break;
            }
            let stored = u64::from(part.record.stored_len);
            self.looked += 1;
            self.ahead += stored;
            let found = self.packs.cache.get_or_claim(part.record.stored);
            let claim = match found {
                Found::Missing(claim) => Some(claim),
                Found::Ready(_) | Found::Filling(_) => None,
            };
            if (claim.is_none() || length + stored > RUN) && !run.is_empty() {
                self.waited |= self.packs.fill(self.pack, std::mem::take(&mut run));
                length = 0;
            }
            if let Some(claim) = claim {
                run.push_back((part.place.clone(), part.record, claim));
                length += stored;
            }
        }
        if !run.is_empty() {
            self.waited |= self.packs.fill(self.pack, run);
        }
    }
}

/// Fills what is on disk; gives the runs of neighbours that are not.
fn from_disk(disk: &DiskTier, claims: Run) -> Vec<Run> {
    let mut missing: Vec<Run> = Vec::new();
    for (place, record, claim) in claims {
        if let Some((chunk, rest)) = disk.read(&record) {
            claim.fill(chunk, |stored| disk.buffers().share_exact(stored, rest));
            continue;
        }
        let chunk = (place.clone(), record, claim);
        match missing.last_mut() {
            Some(run) if run.back().is_some_and(|(last, _, _)| last.end == place.start) => {
                run.push_back(chunk);
            }
            _ => missing.push(VecDeque::from([chunk])),
        }
    }
    missing
}

async fn read_index(store: &Store, pack: PackId) -> Result<PackIndex, TransportError> {
    store.pack_index(pack).await.map_err(|error| match error {
        StoreError::Transport(error) => error,
        error => {
            let what = error.to_string();
            TransportError::new(
                TransportErrorKind::Protocol,
                store.location(),
                paths::pack(pack),
                what,
            )
        }
    })
}

/// The more telling of two failures: that something is wrong says more than that it is not there.
pub(crate) fn worse(last: Option<TransportError>, next: TransportError) -> TransportError {
    match last {
        Some(last) if next.kind == TransportErrorKind::NotFound => last,
        _ => next,
    }
}

/// The same error for another who waited.
pub(crate) fn copy(error: &TransportError) -> TransportError {
    let mut copy = TransportError::new(
        error.kind,
        error.location.clone(),
        error.object.clone(),
        error.message.clone(),
    );
    copy.retry_after = error.retry_after;
    copy
}
