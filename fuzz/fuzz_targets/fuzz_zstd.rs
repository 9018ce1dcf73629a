//! Any bytes as a zstd chunk: an error, or what the library itself decodes, in the length that the
//! record says. Nothing is appended on an error.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec;
use tenpak::format::dtype::Dtype;
use tenpak::format::limits::MAX_CHUNK;
use tenpak::format::record::{ChunkRecord, CodecId};
use tenpak::format::id::StoredDigest;
use tenpak::chunk::verified::VerifiedChunk;
use zstd::zstd_safe::get_frame_content_size;

fuzz_target!(|data: &[u8]| {
    if data.is_empty() || data.len() > MAX_CHUNK as usize {
        return;
    }
    let claimed = get_frame_content_size(data).ok().flatten().unwrap_or(1000);
    for len in [claimed, claimed.saturating_add(1), claimed / 2] {
        let Some(len) = u32::try_from(len).ok().filter(|len| (1..=MAX_CHUNK).contains(len)) else {
            continue;
        };
        let record = ChunkRecord {
            codec: CodecId::ZSTD,
            stored_len: data.len() as u32,
            stored: StoredDigest::of(data),
            ..ChunkRecord::raw(Dtype::Bytes, len, blake3::hash(b""))
        };
        let chunk = VerifiedChunk::verify(record, BytesMut::from(data)).expect("its own digest");
        let mut out = vec![0; len as usize];
        if codec::decode(&chunk, None, &mut out).is_ok() {
            let peer = zstd::stream::decode_all(data).expect("it was decoded");
            assert!(peer == out);
        }
    }
});
