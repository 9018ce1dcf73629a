//! The border between bytes that arrived and bytes that are known.
//!
//! A [`VerifiedChunk`] comes of nothing but hashing and owns its bytes, so that nobody can change them
//! after the check; bytes that are hashed on arrival ([`Arriving`]) are out of reach from then on. In memory that is shared, it has as many owners as need it. Decoders take nothing
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
        let found = StoredDigest::of(stored.as_ref());
        Self::compare(record, stored, found)
    }

    fn compare(
        record: ChunkRecord,
        stored: M,
        found: StoredDigest,
    ) -> Result<Self, Box<Unverified<M>>> {
        let len = stored.as_ref().len();
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

/// Memory that is divided and joined again without a copy.
pub trait Divisible: OwnedBytes + AsMut<[u8]> + Default {
    /// Takes the first `at` bytes.
    fn divide(&mut self, at: usize) -> Self;

    /// Joins the memory with what lies right behind it; with other memory, it need not.
    fn rejoin(&mut self, next: Self);
}

/// What is hashed at a time while more is to come: whole subtrees of BLAKE3 in full vectors.
const STEP: usize = 64 << 10;

/// A chunk whose stored bytes are still coming: hashed while the rest travels and what came is in the
/// cache.
#[derive(Debug)]
pub struct Arriving<M: Divisible> {
    record: ChunkRecord,
    /// What has come and nobody else can reach; the first `hashed` bytes of it went into `hasher`.
    taken: M,
    /// `None` before: small chunks are moved about, and a hasher is larger than many of them.
    hasher: Option<Box<blake3::Hasher>>,
    hashed: usize,
    /// The room behind it.
    room: M,
}

impl<M: Divisible> Arriving<M> {
    /// A chunk of which nothing has come, which is to fill `room`.
    pub fn new(record: ChunkRecord, room: M) -> Self {
        Self { record, taken: M::default(), hasher: None, hashed: 0, room }
    }

    /// Where its further bytes belong.
    pub fn room(&mut self) -> &mut [u8] {
        self.room.as_mut()
    }

    /// Takes the first `count` bytes of the room, which have come, and hashes what makes whole steps.
    pub fn take_in(&mut self, count: usize) {
        self.taken.rejoin(self.room.divide(count));
        let steps = self.taken.as_ref().len() / STEP * STEP;
        let new = self.taken.as_ref().get(self.hashed..steps).unwrap_or_default();
        if !new.is_empty() {
            self.hasher.get_or_insert_default().update(new);
            self.hashed = steps;
        }
    }

    /// Hashes the rest, and compares with the record.
    ///
    /// # Errors
    ///
    /// If other bytes have come than the record names, with the memory.
    pub fn verify(mut self) -> Result<VerifiedChunk<M>, Box<Unverified<M>>> {
        let rest = self.taken.as_ref().get(self.hashed..).unwrap_or_default();
        let found = match &mut self.hasher {
            // What is there whole takes fewer passes.
            None => StoredDigest::of(rest),
            Some(hasher) => StoredDigest::from_hash(hasher.update(rest).finalize()),
        };
        let (record, stored) = (self.record, self.abandon());
        VerifiedChunk::compare(record, stored, found)
    }

    /// Gives up, and keeps the memory.
    pub fn abandon(self) -> M {
        let mut whole = self.taken;
        whole.rejoin(self.room);
        whole
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

    impl Divisible for BytesMut {
        fn divide(&mut self, at: usize) -> Self {
            self.split_to(at)
        }

        fn rejoin(&mut self, next: Self) {
            self.unsplit(next);
        }
    }

    #[test]
    fn bytes_are_hashed_as_they_arrive() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let record = ChunkRecord::raw(Dtype::Bytes, data.len() as u32, blake3::hash(&data));
        for step in [1, 1000, STEP, STEP + 1, data.len()] {
            for damaged in [None, Some(0), Some(STEP), Some(data.len() - 1)] {
                let mut arriving = Arriving::new(record, BytesMut::zeroed(data.len()));
                let mut wire = data.clone();
                if let Some(at) = damaged {
                    wire[at] ^= 1;
                }
                for part in wire.chunks(step) {
                    arriving.room()[..part.len()].copy_from_slice(part);
                    arriving.take_in(part.len());
                }
                assert!(arriving.room().is_empty());
                match arriving.verify() {
                    Ok(chunk) => assert!(damaged.is_none() && chunk.stored() == data),
                    Err(bad) => assert!(damaged.is_some() && bad.bytes == wire),
                }
            }
        }
        let mut arriving = Arriving::new(record, BytesMut::zeroed(data.len()));
        arriving.take_in(70_000);
        assert_eq!(arriving.abandon().len(), data.len(), "its memory comes back whole");
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
