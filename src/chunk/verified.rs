//! The border between bytes that arrived and bytes that are known.
//!
//! A [`VerifiedChunk`] comes of nothing but hashing and owns its bytes, so that nobody can change them
//! after the check; bytes that are hashed on arrival ([`Arriving`]) are out of reach from then on.
//! Checked once, a chunk can be shared, and then has as many owners as need it. Decoders take nothing
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

/// A chunk whose stored bytes are the ones its record names. They lie in memory of its own or, once
/// [shared](VerifiedChunk::share), in memory that nobody can write.
#[derive(Debug, Clone)]
pub struct VerifiedChunk<M = BytesMut> {
    record: ChunkRecord,
    stored: M,
}

/// Stored bytes that are not the ones a record names, given back for reuse.
#[derive(Debug)]
pub struct Unverified {
    /// What is wrong.
    pub error: DigestMismatch,
    /// The bytes, for another attempt in the same place.
    pub bytes: BytesMut,
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

impl VerifiedChunk {
    /// Hashes `stored` and compares it with the record.
    pub fn verify(record: ChunkRecord, stored: BytesMut) -> Result<Self, Box<Unverified>> {
        let found = StoredDigest::of(&stored);
        Self::compare(record, stored, found)
    }

    fn compare(
        record: ChunkRecord,
        stored: BytesMut,
        found: StoredDigest,
    ) -> Result<Self, Box<Unverified>> {
        HASHED.fetch_add(stored.len() as u64, Ordering::Relaxed);
        if found == record.stored && stored.len() == record.stored_len as usize {
            return Ok(Self { record, stored });
        }
        let error = DigestMismatch {
            expected: record.stored,
            expected_len: record.stored_len,
            found,
            len: stored.len(),
        };
        Err(Box::new(Unverified { error, bytes: stored }))
    }

    /// Gives up the proof and keeps the bytes.
    pub fn into_stored(self) -> BytesMut {
        self.stored
    }

    /// The chunk for several owners. `share` says who frees the memory; `None` if it gives other
    /// memory than the one that was hashed.
    pub fn share(self, share: impl FnOnce(BytesMut) -> Bytes) -> Option<VerifiedChunk<Bytes>> {
        let (start, len) = (self.stored.as_ptr(), self.stored.len());
        let stored = share(self.stored);
        let same = (stored.as_ptr(), stored.len()) == (start, len);
        same.then_some(VerifiedChunk { record: self.record, stored })
    }
}

impl<M: AsRef<[u8]>> VerifiedChunk<M> {
    /// What the chunk is.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// Its stored bytes.
    pub fn stored(&self) -> &[u8] {
        self.stored.as_ref()
    }
}

impl VerifiedChunk<Bytes> {
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

/// What is hashed at a time while more is to come: whole subtrees of BLAKE3 in full vectors.
const STEP: usize = 64 << 10;

/// A chunk whose stored bytes are still coming: hashed while the rest travels and what came is in the
/// cache.
#[derive(Debug)]
pub struct Arriving {
    record: ChunkRecord,
    /// What has come and nobody else can reach.
    taken: BytesMut,
    /// Of the first bytes of `taken`, `hashed` of them.
    hasher: blake3::Hasher,
    hashed: usize,
    /// The room behind them.
    room: BytesMut,
}

impl Arriving {
    /// A chunk of which nothing has come, which is to lie in `room`.
    pub fn new(record: ChunkRecord, mut room: BytesMut) -> Self {
        room.clear();
        let (taken, hasher) = (BytesMut::new(), blake3::Hasher::new());
        Self { record, taken, hasher, hashed: 0, room }
    }

    /// Where further bytes are to be appended, no more than are [`Self::missing`]. It does not grow
    /// if the chunk fits what it was made with.
    pub fn room(&mut self) -> &mut BytesMut {
        &mut self.room
    }

    /// How many stored bytes have not come.
    pub fn missing(&self) -> usize {
        (self.record.stored_len as usize).saturating_sub(self.taken.len() + self.room.len())
    }

    /// Takes what was appended, and hashes what makes whole steps.
    pub fn take_in(&mut self) {
        self.taken.unsplit(self.room.split());
        let steps = self.taken.len() / STEP * STEP;
        if let Some(new) = self.taken.get(self.hashed..steps) {
            self.hasher.update(new);
            self.hashed = steps;
        }
    }

    /// Hashes the rest, and compares with the record.
    pub fn verify(mut self) -> Result<VerifiedChunk, Box<Unverified>> {
        self.take_in();
        self.hasher.update(self.taken.get(self.hashed..).unwrap_or_default());
        let found = StoredDigest::from_hash(self.hasher.finalize());
        let (record, stored) = (self.record, self.whole());
        VerifiedChunk::compare(record, stored, found)
    }

    /// Gives up, and keeps the memory.
    pub fn abandon(mut self) -> BytesMut {
        self.take_in();
        self.whole()
    }

    /// What was taken, with the room behind it again.
    fn whole(self) -> BytesMut {
        let mut whole = self.taken;
        whole.unsplit(self.room);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use crate::format::record::CodecId;

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
    fn what_is_shared_is_what_was_hashed() {
        let record = ChunkRecord::raw(Dtype::Bytes, 5, blake3::hash(b"chunk"));
        let chunk = || VerifiedChunk::verify(record, BytesMut::from(&b"chunk"[..])).unwrap();
        let shared = chunk().share(BytesMut::freeze).unwrap();
        assert_eq!(shared.stored(), b"chunk");
        assert_eq!(shared.bytes().as_ptr(), shared.stored().as_ptr(), "nothing was copied");
        for other in [&b"other"[..], b"chunk"] {
            assert!(chunk().share(|_| Bytes::from_static(other)).is_none(), "other memory");
        }
        assert!(chunk().share(|bytes| bytes.freeze().slice(1..)).is_none());

        let described = ChunkRecord { codec: CodecId::ZSTD, decoded_len: 7, ..record };
        assert_eq!(shared.described_by(&described).unwrap().record(), &described);
        for other in [
            ChunkRecord { stored_len: 4, ..record },
            ChunkRecord { stored: StoredDigest::of(b"other"), ..record },
        ] {
            assert!(shared.described_by(&other).is_none());
        }
    }

    #[test]
    fn bytes_are_hashed_as_they_arrive() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let record = ChunkRecord::raw(Dtype::Bytes, data.len() as u32, blake3::hash(&data));
        for step in [1, 1000, STEP, STEP + 1, data.len()] {
            for damaged in [None, Some(0), Some(STEP), Some(data.len() - 1)] {
                let mut arriving = Arriving::new(record, BytesMut::with_capacity(data.len()));
                let at = arriving.room().as_ptr();
                let mut data = data.clone();
                if let Some(byte) = damaged {
                    data[byte] ^= 1;
                }
                for part in data.chunks(step) {
                    arriving.room().extend_from_slice(part);
                    arriving.take_in();
                }
                assert_eq!(arriving.missing(), 0);
                let back = match (arriving.verify(), damaged) {
                    (Ok(chunk), None) => chunk.into_stored(),
                    (Err(unverified), Some(_)) => unverified.bytes,
                    (other, _) => panic!("steps of {step}, damaged at {damaged:?}: {other:?}"),
                };
                assert_eq!(back, data);
                assert_eq!(back.as_ptr(), at, "nothing was copied");
            }
        }
    }

    #[test]
    fn the_memory_of_an_abandoned_chunk_comes_back_whole() {
        let record = ChunkRecord::raw(Dtype::Bytes, 100, blake3::hash(b"of no matter"));
        let mut arriving = Arriving::new(record, BytesMut::with_capacity(100));
        let at = arriving.room().as_ptr();
        for (part, missing) in [(&b"taken"[..], 95), (b"not taken", 86)] {
            arriving.take_in();
            arriving.room().extend_from_slice(part);
            assert_eq!(arriving.missing(), missing);
        }
        let memory = arriving.abandon();
        assert_eq!((memory.as_ptr(), memory.capacity()), (at, 100));
        assert_eq!(memory, b"takennot taken"[..]);
        let short = Arriving::new(record, memory).verify().unwrap_err();
        assert_eq!((short.error.len, short.bytes.as_ptr()), (0, at));
    }
}
