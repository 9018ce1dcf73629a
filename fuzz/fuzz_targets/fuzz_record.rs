//! A chunk record and stored bytes: what is accepted is written again byte for byte, and decoding
//! gives the decoded length or an error.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec;
use tenpak::format::record::ChunkRecord;
use tenpak::format::id::StoredDigest;
use tenpak::chunk::verified::VerifiedChunk;

fuzz_target!(|data: &[u8]| {
    let Some((head, stored)) = data.split_first_chunk::<{ ChunkRecord::LEN }>() else { return };
    let Ok(mut record) = ChunkRecord::parse(head) else { return };
    assert_eq!(&record.to_bytes(), head);
    // The digest is set right, so that the decoder is reached.
    record.stored = StoredDigest::of(stored);
    record.stored_len = stored.len() as u32;
    if let Ok(chunk) = VerifiedChunk::verify(record, BytesMut::from(stored)) {
        let raw = record.codec == tenpak::format::record::CodecId::RAW;
        let len = if raw { record.stored_len } else { record.decoded_len };
        if let Ok(decoded) = codec::into_decoded(chunk, None) {
            assert_eq!(decoded.len(), len as usize);
        }
    }
});
