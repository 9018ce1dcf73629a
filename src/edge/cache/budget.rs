//! Memory of answers under way: one budget for all that they hold beyond the cache.
//!
//! A chunk counts once, however many answers hold it, until the cache and the last of them let it go;
//! what readers of files decode ahead counts, too. With half of the budget used, answers send small
//! copies and let their chunks go in between, and with all of it used no further answer begins. So
//! slow clients hold a bounded number of bytes, not each what it asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The most and the least that one reader may decode ahead; with less it would not go ahead of its
/// chunks.
const MOST: u64 = 16 << 20;
const LEAST: u64 = 4 << 20;
/// Which part of what is left one reader gets.
const PART: u64 = 8;

/// The budget, and how much of it is used.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes that the cache may hold.
    cache: u64,
    limit: u64,
    /// Bytes of chunks in memory, the cache's and the answers'.
    chunks: AtomicU64,
    promised: AtomicU64,
}

/// What a reader may hold, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Budget {
    /// A budget of `limit` bytes, beside a cache of `cache` bytes.
    pub(crate) fn new(cache: u64, limit: u64) -> Arc<Self> {
        let (chunks, promised) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { cache, limit, chunks, promised })
    }

    /// Bytes that answers hold.
    pub(crate) fn used(&self) -> u64 {
        let chunks = self.chunks.load(Ordering::Relaxed);
        self.promised.load(Ordering::Relaxed) + chunks.saturating_sub(self.cache)
    }

    /// Whether no further answer may begin.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// Whether answers should hold little.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.limit / 2
    }

    /// The same bytes, counted until their last reference is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.chunks.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Held { budget: self.clone(), bytes })
    }

    /// A share for one more reader that decodes ahead: the least, if no more is left.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        let left = (self.limit / 2).saturating_sub(self.used());
        self.promise((left / PART).clamp(LEAST, MOST))
    }

    /// A share of so many bytes.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> Share {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: self.clone(), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    budget: Arc<Budget>,
    bytes: Bytes,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.chunks.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_readers_hold_is_bounded() {
        let budget = Budget::new(0, 512 << 20);
        let first = budget.share();
        assert_eq!(first.bytes, MOST);
        let mut many = Vec::new();
        while !budget.is_full() {
            many.push(budget.share());
        }
        // Many get their least, and few much.
        assert!((64..128).contains(&many.len()), "{}", many.len());
        assert!(budget.used() < (512 << 20) + MOST && budget.is_tight());
        drop((first, many));
        assert_eq!((budget.used(), budget.share().bytes), (0, MOST));
    }

    #[test]
    fn a_chunk_counts_once_and_not_where_the_cache_has_room_for_it() {
        let budget = Budget::new(1000, 1000);
        let cached = budget.hold(Bytes::from(vec![1; 1000]));
        assert_eq!(budget.used(), 0);
        let sent = budget.hold(Bytes::from(vec![2; 600]));
        let parts = [sent.slice(..300), sent.slice(300..)];
        assert_eq!((budget.used(), budget.is_tight(), budget.is_full()), (600, true, false));
        drop((cached, sent));
        assert_eq!(budget.used(), 0);
        let share = budget.promise(500);
        let other = budget.hold(Bytes::from(vec![3; 900]));
        assert_eq!((budget.used(), budget.is_full()), (1000, true));
        assert_eq!(parts[1][0], 2);
        drop((parts, other));
        assert_eq!(budget.used(), 500);
        drop(share);
        assert_eq!(budget.used(), 0);
    }
}
