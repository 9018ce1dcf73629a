//! Deltas and patches: whatever a signer wrote, against whatever base, decoding ends, in bounds, and
//! only where every length is right.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec;
use tenpak::format::dtype::Dtype;
use tenpak::format::record::{Base, ChunkRecord, CodecId};
use tenpak::format::id::{DecodedDigest, StoredDigest};
use tenpak::chunk::verified::VerifiedChunk;

/// A fixture: its record, the length of its base, the base, what is stored.
fn fixture(data: &[u8]) -> Option<(CodecId, [u8; 20], &[u8], &[u8])> {
    let (record, rest) = data.split_first_chunk()?;
    let record = ChunkRecord::parse(record).ok().filter(|record| record.base.is_some())?;
    let (len, rest) = rest.split_first_chunk()?;
    let (base, stored) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((record.codec, record.parameters, base, stored))
}

/// The codec, the base's length, the parameters, the base, the rest.
fn parts(data: &[u8]) -> Option<(CodecId, [u8; 20], &[u8], &[u8])> {
    let (&[codec, a, b], rest) = data.split_first_chunk()?;
    let (parameters, rest) = rest.split_first_chunk()?;
    let (base, stored) = rest.split_at_checked(usize::from(u16::from_le_bytes([a, b])))?;
    Some((CodecId(32 + codec % 2), *parameters, base, stored))
}

fuzz_target!(|data: &[u8]| {
    let Some((codec, parameters, base, stored)) = fixture(data).or_else(|| parts(data)) else {
        return;
    };
    // One that is as long as the base, and one that is not.
    for decoded_len in [base.len() as u32, base.len() as u32 + 1] {
        let record = ChunkRecord {
            codec,
            parameters,
            base: Some(Base { decoded: DecodedDigest::of(base), depth: 1 }),
            stored_len: stored.len() as u32,
            stored: StoredDigest::of(stored),
            ..ChunkRecord::raw(Dtype::BF16, decoded_len, blake3::hash(b""))
        };
        let Ok(chunk) = VerifiedChunk::verify(record, BytesMut::from(stored)) else { return };
        for base in [Some(base), None] {
            // Of the right length, and of others, which are refused.
            for len in [decoded_len as usize, base.map_or(0, <[u8]>::len).saturating_sub(1)] {
                let mut out = vec![0; len];
                if codec::decode(&chunk, base, &mut out).is_ok() {
                    assert_eq!(len, decoded_len as usize);
                    assert_eq!(base.map(<[u8]>::len), Some(len));
                }
            }
        }
    }
});
