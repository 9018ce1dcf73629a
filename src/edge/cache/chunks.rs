//! Verified chunks in memory, each filled by one caller however many ask at a time.
//!
//! Only what was verified gets in. Whoever finds a chunk missing has its claim; the rest wait for it. A
//! claim that is dropped unfilled hands over: they who wait look again, and one of them has it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use moka::sync::Cache;
use tokio::sync::watch;

use crate::chunk::verified::{OwnedBytes, VerifiedChunk};
use crate::edge::cache::budget::Budget;
use crate::format::id::StoredDigest;
use crate::transport::TransportError;

/// A chunk that the cache and any number of answers hold.
pub(crate) type Chunk = VerifiedChunk;

/// What became of a fill. Everybody who waited gets the same error.
pub(crate) type Outcome = Result<Chunk, Arc<TransportError>>;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct CacheStats {
    /// Looks that found the chunk.
    pub(crate) hits: AtomicU64,
    /// Looks that began a fill.
    pub(crate) misses: AtomicU64,
    /// Looks that joined a fill under way.
    pub(crate) collapsed: AtomicU64,
}

/// The chunks of an edge.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    memory: Cache<StoredDigest, Chunk>,
    filling: Mutex<HashMap<StoredDigest, watch::Receiver<Option<Outcome>>>>,
    stats: CacheStats,
    budget: Arc<Budget>,
}

/// What a look at the cache gives.
pub(crate) enum Found {
    /// The chunk.
    Ready(Chunk),
    /// Somebody fills it.
    Filling(Waiting),
    /// The caller fills it.
    Missing(Claim),
}

impl ChunkCache {
    /// A cache of at most about `capacity` bytes; answers may hold `beyond` more.
    pub(crate) fn new(capacity: u64, beyond: u64) -> Arc<Self> {
        let weigh = |_: &StoredDigest, chunk: &Chunk| chunk.record().stored_len;
        let memory = Cache::builder().weigher(weigh).max_capacity(capacity).build();
        let (filling, stats) = (Mutex::default(), CacheStats::default());
        Arc::new(Self { memory, filling, stats, budget: Budget::new(capacity, beyond) })
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Bytes that answers hold beyond the cache.
    pub(crate) fn answer_bytes(&self) -> u64 {
        // What the cache has evicted it lets go only when it is told to, or later.
        self.memory.run_pending_tasks();
        self.budget.used()
    }

    /// Whether answers hold all that they may.
    pub(crate) fn is_saturated(&self) -> bool {
        self.budget.is_full() && {
            self.answer_bytes();
            self.budget.is_full()
        }
    }

    pub(crate) fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Looks for a chunk.
    pub(crate) fn get_or_claim(self: &Arc<Self>, digest: StoredDigest) -> Found {
        let found = self.get_or_claim_uncounted(digest);
        let count = match &found {
            Found::Ready(_) => &self.stats.hits,
            Found::Filling(_) => &self.stats.collapsed,
            Found::Missing(_) => &self.stats.misses,
        };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Looks for a chunk for whom this look, or one like it, was counted before.
    pub(crate) fn get_or_claim_uncounted(self: &Arc<Self>, digest: StoredDigest) -> Found {
        if let Some(chunk) = self.memory.get(&digest) {
            return Found::Ready(chunk);
        }
        let mut filling = self.filling();
        if let Some(waiting) = filling.get(&digest) {
            return Found::Filling(Waiting(waiting.clone()));
        }
        // A fill leaves the table only after its chunk is in memory.
        if let Some(chunk) = self.memory.get(&digest) {
            return Found::Ready(chunk);
        }
        let (sender, receiver) = watch::channel(None);
        filling.insert(digest, receiver);
        Found::Missing(Claim { cache: self.clone(), digest, sender })
    }

    /// Forgets a chunk. One that is being filled stays.
    pub(crate) fn remove(&self, digest: &StoredDigest) {
        self.memory.invalidate(digest);
    }

    fn filling(&self) -> MutexGuard<'_, HashMap<StoredDigest, watch::Receiver<Option<Outcome>>>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fill that somebody else has begun.
#[derive(Clone)]
pub(crate) struct Waiting(watch::Receiver<Option<Outcome>>);

impl Waiting {
    /// What became of it; `None` if it was given up, and the caller should look again.
    pub(crate) async fn outcome(mut self) -> Option<Outcome> {
        let filled = self.0.wait_for(Option::is_some).await.ok()?;
        filled.clone()
    }
}

/// The duty to fill one chunk.
pub(crate) struct Claim {
    cache: Arc<ChunkCache>,
    digest: StoredDigest,
    sender: watch::Sender<Option<Outcome>>,
}

impl Claim {
    /// The chunk is there; gives it for several owners, in its memory as `share` hands it over. One that
    /// is not the claimed one is as if it were not.
    pub(crate) fn fill(self, chunk: VerifiedChunk<impl OwnedBytes + Into<Bytes>>) -> Option<Chunk> {
        if chunk.record().stored != self.digest {
            return None;
        }
        let chunk = chunk.hand_on(|own| self.cache.budget.hold(own.into()))?;
        self.cache.memory.insert(self.digest, chunk.clone());
        self.sender.send_replace(Some(Ok(chunk.clone())));
        Some(chunk)
    }

    /// The chunk cannot be had; the next who looks may try again.
    pub(crate) fn fail(self, error: Arc<TransportError>) {
        self.sender.send_replace(Some(Err(error)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cache.filling().remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use crate::format::record::ChunkRecord;
    use crate::transport::TransportErrorKind;

    fn chunk(bytes: &[u8]) -> VerifiedChunk {
        let record = ChunkRecord::raw(Dtype::U8, bytes.len() as u32, blake3::hash(bytes));
        VerifiedChunk::verify(record, Bytes::copy_from_slice(bytes)).unwrap()
    }

    #[tokio::test]
    async fn one_fills_and_the_rest_wait() {
        let cache = ChunkCache::new(1 << 20, 1 << 20);
        let digest = StoredDigest::of(b"abc");
        let Found::Missing(claim) = cache.get_or_claim(digest) else { panic!("nothing is there") };
        let Found::Filling(first) = cache.get_or_claim(digest) else { panic!("it is claimed") };
        let Found::Filling(second) = cache.get_or_claim(digest) else { panic!("it is claimed") };
        let waiting = tokio::spawn(first.outcome());
        claim.fill(chunk(b"abc"));
        assert_eq!(waiting.await.unwrap().unwrap().unwrap().bytes(), &b"abc"[..]);
        assert_eq!(second.outcome().await.unwrap().unwrap().bytes(), &b"abc"[..]);
        assert!(
            matches!(cache.get_or_claim(digest), Found::Ready(chunk) if chunk.stored() == b"abc")
        );
        let counts = [&cache.stats.hits, &cache.stats.misses, &cache.stats.collapsed];
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1, 1, 2]);
    }

    #[tokio::test]
    async fn a_claim_that_is_given_up_hands_over_and_a_failure_is_not_kept() {
        let cache = ChunkCache::new(1 << 20, 1 << 20);
        let digest = StoredDigest::of(b"abc");
        let Found::Missing(claim) = cache.get_or_claim(digest) else { panic!("nothing is there") };
        let Found::Filling(waiting) = cache.get_or_claim(digest) else { panic!("it is claimed") };
        drop(claim);
        assert!(waiting.outcome().await.is_none());
        let Found::Missing(claim) = cache.get_or_claim(digest) else { panic!("it was given up") };
        let Found::Filling(waiting) = cache.get_or_claim(digest) else { panic!("it is claimed") };
        claim.fail(Arc::new(TransportError::new(TransportErrorKind::Transient, "o", "p", "busy")));
        assert!(waiting.outcome().await.unwrap().is_err());
        let Found::Missing(claim) = cache.get_or_claim(digest) else {
            panic!("failures are not kept")
        };
        // Another chunk than the claimed one does not get in under its name.
        claim.fill(chunk(b"other"));
        assert!(matches!(cache.get_or_claim(digest), Found::Missing(_)));
    }

    #[test]
    fn its_bytes_are_bounded() {
        let cache = ChunkCache::new(100_000, 100_000);
        for i in 0..100_u32 {
            let bytes = i.to_le_bytes().repeat(2500);
            let Found::Missing(claim) = cache.get_or_claim(StoredDigest::of(&bytes)) else {
                continue;
            };
            claim.fill(chunk(&bytes));
        }
        cache.memory.run_pending_tasks();
        assert!(cache.memory.weighted_size() <= 100_000 && cache.memory.weighted_size() > 0);
        assert!(!cache.is_saturated());
        assert_eq!(cache.answer_bytes(), 0, "what it evicts is let go");
    }
}
