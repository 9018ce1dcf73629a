//! Decoded chunks kept for what is stored against them: what one load decoded, the next need not
//! fetch again.
//!
//! Bytes enter only after they were hashed and found to be the content under which they are kept, so
//! that no artifact can change what another decodes to. The bytes kept never exceed the budget; a
//! load holds on to those that it was planned with until it has used them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use crate::format::id::DecodedDigest;
use crate::format::record::ChunkRecord;

/// Decoded chunks by content, the least recently used ones dropped first. Loads of a process share
/// one through an `Arc`.
#[derive(Debug)]
pub struct DeltaBaseCache {
    budget: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    chunks: LruCache<DecodedDigest, Bytes>,
    bytes: u64,
}

impl DeltaBaseCache {
    /// A cache of at most `budget` bytes.
    pub fn new(budget: u64) -> Self {
        Self { budget, kept: Mutex::new(Kept { chunks: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The bytes kept at the moment.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The chunk of that content.
    pub fn get(&self, content: &DecodedDigest) -> Option<Bytes> {
        self.lock().chunks.get(content).cloned()
    }

    /// Keeps what a verified chunk was decoded to, if it is what its record says. Returns whether
    /// it is kept.
    pub fn offer(&self, record: &ChunkRecord, decoded: &[u8]) -> bool {
        let len = decoded.len() as u64;
        if len > self.budget {
            return false;
        }
        if self.lock().chunks.get(&record.decoded).is_some() {
            return true;
        }
        // Of a raw chunk, the stored digest is the decoded one; but whoever offers it may err.
        if DecodedDigest::of(decoded) != record.decoded {
            return false;
        }
        let bytes = Bytes::copy_from_slice(decoded);
        let mut kept = self.lock();
        kept.bytes += len;
        if let Some((_, old)) = kept.chunks.push(record.decoded, bytes) {
            kept.bytes -= old.len() as u64;
        }
        while kept.bytes > self.budget
            && let Some((_, old)) = kept.chunks.pop_lru()
        {
            kept.bytes -= old.len() as u64;
        }
        true
    }

    /// A holder cannot panic halfway.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;

    fn record(bytes: &[u8]) -> ChunkRecord {
        ChunkRecord::raw(Dtype::U8, bytes.len() as u32, blake3::hash(bytes))
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let cache = DeltaBaseCache::new(10);
        for bytes in [b"aaaa", b"bbbb"] {
            assert!(cache.offer(&record(bytes), bytes));
            assert!(cache.offer(&record(bytes), bytes), "again");
        }
        assert_eq!(cache.bytes(), 8);
        assert_eq!(cache.get(&record(b"aaaa").decoded).as_deref(), Some(&b"aaaa"[..]));
        assert!(cache.offer(&record(b"cccc"), b"cccc"));
        assert_eq!(cache.bytes(), 8);
        assert!(cache.get(&record(b"bbbb").decoded).is_none(), "used longest ago");
        assert!(cache.get(&record(b"aaaa").decoded).is_some());
        assert!(!cache.offer(&record(b"eleven chars"), b"eleven chars"), "beyond the budget");
    }

    /// Whoever signs a record that lies about its content poisons nobody else's loads.
    #[test]
    fn other_bytes_than_the_record_names_are_not_kept() {
        let cache = DeltaBaseCache::new(100);
        let mut lying = record(b"evil");
        lying.decoded = record(b"good").decoded;
        assert!(!cache.offer(&lying, b"evil"));
        assert!(cache.get(&lying.decoded).is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
