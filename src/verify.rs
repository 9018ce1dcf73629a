//! The border between bytes that arrived and bytes that are known.
//!
//! A [`VerifiedChunk`] has one constructor, which hashes, and owns its bytes, so that nobody can
//! change them after the check. Decoders take nothing else.

use bytes::BytesMut;

use crate::format::record::ChunkRecord;
use crate::id::StoredDigest;

/// A chunk whose stored bytes are the ones its record names.
#[derive(Debug)]
pub struct VerifiedChunk {
    record: ChunkRecord,
    stored: BytesMut,
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
    /// Hashes `stored` and compares it with the record: the only way to a `VerifiedChunk`.
    pub fn verify(record: ChunkRecord, stored: BytesMut) -> Result<Self, Box<Unverified>> {
        let found = StoredDigest::of(&stored);
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

    /// What the chunk is.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// Its stored bytes.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// Gives up the proof and keeps the bytes.
    pub fn into_stored(self) -> BytesMut {
        self.stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

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
}
