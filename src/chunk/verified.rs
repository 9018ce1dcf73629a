//! The border between bytes that arrived and bytes that are known.
//!
//! A [`VerifiedChunk`] comes of nothing but hashing and owns its bytes, so that nobody can change them
//! after the check. In memory that is shared, it has as many owners as need it. Decoders take nothing
//! else.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::format::id::StoredDigest;
use crate::format::record::ChunkRecord;

/// The bytes that this process has hashed to verify chunks.
static HASHED: AtomicU64 = AtomicU64::new(0);

/// How many stored bytes this process has hashed to verify chunks.
pub fn hashed_bytes() -> u64 {
    HASHED.load(Ordering::Relaxed)
}

/// Memory that belongs to whoever holds it.
///
/// # Safety
///
/// As long as the value is neither dropped nor borrowed mutably, `as_ref` gives the same bytes, and
/// nobody else writes them.
pub unsafe trait OwnedBytes: AsRef<[u8]> {}

// SAFETY: shared, and never written.
unsafe impl OwnedBytes for Bytes {}
// SAFETY: written through `&mut` alone.
unsafe impl OwnedBytes for BytesMut {}
// SAFETY: written through `&mut` alone.
unsafe impl OwnedBytes for Vec<u8> {}

/// A chunk whose stored bytes are the ones its record names.
#[derive(Debug, Clone)]
pub struct VerifiedChunk<M: OwnedBytes = Bytes> {
    record: ChunkRecord,
    stored: M,
}

/// Stored bytes that are not the ones a record names, given back for reuse.
#[derive(Debug)]
pub struct Unverified<M> {
    /// What is wrong.
    pub error: DigestMismatch,
    /// The bytes, for another attempt in the same place.
    pub bytes: M,
}

/// What stored bytes should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len} stored bytes with digest {found}, where {expected_len} bytes with digest {expected} belong"
)]
pub struct DigestMismatch {
    /// The digest that the record names.
    pub expected: StoredDigest,
    /// The stored length that the record names.
    pub expected_len: u32,
    /// The digest of what arrived.
    pub found: StoredDigest,
    /// The length of what arrived.
    pub len: usize,
}

impl<M: OwnedBytes> VerifiedChunk<M> {
    /// Hashes `stored` and compares it with the record.
    ///
    /// # Errors
    ///
    /// If they are other bytes than the record names, with the bytes.
    pub fn verify(record: ChunkRecord, stored: M) -> Result<Self, Box<Unverified<M>>> {
        let (found, len) = (StoredDigest::of(stored.as_ref()), stored.as_ref().len());
        HASHED.fetch_add(len as u64, Ordering::Relaxed);
        if found == record.stored && len == record.stored_len as usize {
            return Ok(Self { record, stored });
        }
        let (expected, expected_len) = (record.stored, record.stored_len);
        let error = DigestMismatch { expected, expected_len, found, len };
        Err(Box::new(Unverified { error, bytes: stored }))
    }

    /// What the chunk is.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// Its stored bytes.
    pub fn stored(&self) -> &[u8] {
        self.stored.as_ref()
    }

    /// Gives up the proof and keeps the bytes.
    pub fn into_stored(self) -> M {
        self.stored
    }

    /// The same chunk in the hands of another owner, to whom `wrap` gives its memory; `None` if that shows
    /// other memory than the one that was hashed.
    pub fn hand_on<N: OwnedBytes>(self, wrap: impl FnOnce(M) -> N) -> Option<VerifiedChunk<N>> {
        let record = self.record;
        let before = self.stored().as_ptr_range();
        let stored = wrap(self.stored);
        let same = stored.as_ref().as_ptr_range() == before || record.stored_len == 0;
        same.then_some(VerifiedChunk { record, stored })
    }
}

impl VerifiedChunk {
    /// Its stored bytes, not copied.
    pub fn bytes(&self) -> Bytes {
        self.stored.clone()
    }

    /// The same bytes as another artifact's record describes them, with a codec and a base of its own;
    /// `None` if that record names other bytes.
    pub fn described_by(&self, record: &ChunkRecord) -> Option<Self> {
        let names = |record: &ChunkRecord| (record.stored, record.stored_len);
        (names(record) == names(&self.record))
            .then(|| Self { record: *record, stored: self.stored.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;

    #[test]
    fn only_the_named_bytes_verify() {
        let record = ChunkRecord::raw(Dtype::Bytes, 5, blake3::hash(b"chunk"));
        assert!(VerifiedChunk::verify(record, BytesMut::from(&b"chunk"[..])).is_ok());
        for bad in [&b"chunl"[..], b"chun", b"chunk\0", b""] {
            let back = VerifiedChunk::verify(record, BytesMut::from(bad)).unwrap_err();
            assert_eq!(back.bytes, bad);
        }
        let lying = ChunkRecord { stored_len: 4, ..record };
        assert!(VerifiedChunk::verify(lying, BytesMut::from(&b"chunk"[..])).is_err());
    }

    #[test]
    fn a_chunk_is_handed_on_with_its_own_memory_alone() {
        let record = ChunkRecord::raw(Dtype::Bytes, 5, blake3::hash(b"chunk"));
        let chunk = || VerifiedChunk::verify(record, BytesMut::from(&b"chunk"[..])).unwrap();
        let shared = chunk().hand_on(BytesMut::freeze).unwrap();
        assert_eq!(shared.bytes(), &b"chunk"[..]);
        assert!(chunk().hand_on(|_| Bytes::from_static(b"chunk")).is_none());
        assert!(chunk().hand_on(|own| own.freeze().slice(..4)).is_none());
    }
}
