//! Planes and palettes: whatever a signer wrote, decoding ends, in bounds, and only where every length is right.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec;
use tenpak::format::dtype::Dtype;
use tenpak::format::record::{ChunkRecord, CodecId};
use tenpak::format::id::StoredDigest;
use tenpak::chunk::verified::VerifiedChunk;

fuzz_target!(|data: &[u8]| {
    // A fixture's record and stored bytes, or the codec, the length, the parameters, the rest.
    let head: Option<(&[u8; 128], &[u8])> = data.split_first_chunk();
    let fixture = head.and_then(|(record, stored)| Some((ChunkRecord::parse(record).ok()?, stored)));
    let (codec, decoded_len, parameters, stored) = match fixture {
        Some((record, stored)) => (record.codec, record.decoded_len, record.parameters, stored),
        None => {
            let Some((&[codec, a, b, c], rest)) = data.split_first_chunk() else { return };
            let Some((parameters, stored)) = rest.split_first_chunk() else { return };
            let len = u32::from_le_bytes([a, b, c & 3, 0]);
            (CodecId(16 + codec % 2), len, *parameters, stored)
        }
    };
    let record = ChunkRecord {
        codec,
        parameters,
        stored_len: stored.len() as u32,
        stored: StoredDigest::of(stored),
        ..ChunkRecord::raw(Dtype::BF16, decoded_len, blake3::hash(b""))
    };
    let Ok(chunk) = VerifiedChunk::verify(record, BytesMut::from(stored)) else { return };
    let mut out = vec![0; (decoded_len as usize).min(1 << 20)];
    let decoded = codec::decode(&chunk, None, &mut out).is_ok();
    assert!(!decoded || out.len() == decoded_len as usize);
    // What the host decodes of these codecs, a device is told how to decode.
    let told = [CodecId::RAW, CodecId::PLANES, CodecId::PALETTE].contains(&codec);
    let program = codec::Program::of(&record, stored);
    assert!(!decoded || !told || matches!(program, Ok(Some(_))));
});
