//! Every codec: what is encoded is never larger, has a record that parses, and decodes to itself.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec::{self, CodecChoice, Encoder};
use tenpak::format::dtype::Dtype;
use tenpak::format::limits::MAX_CHUNK;
use tenpak::format::record::ChunkRecord;
use tenpak::chunk::verified::VerifiedChunk;

fuzz_target!(|data: &[u8]| {
    // Repeated, so that short inputs make chunks long enough to be sampled first.
    let Some((&[times, element], data)) = data.split_first_chunk() else { return };
    let mut decoded = data.repeat(usize::from(times) + 1);
    decoded.truncate(MAX_CHUNK as usize);
    if decoded.is_empty() {
        return;
    }
    let decoded = Bytes::from(decoded);
    let element = Dtype::ALL[usize::from(element) % Dtype::ALL.len()];
    let mut encoder = Encoder::default();
    for (choice, _) in CodecChoice::ALL {
        let encoded = encoder.encode(choice, element, decoded.clone(), None);
        assert!(encoded.stored.len() <= decoded.len());
        let record = encoded.record;
        assert_eq!(ChunkRecord::parse(&record.to_bytes()).ok(), Some(record));
        let chunk = VerifiedChunk::verify(record, BytesMut::from(&encoded.stored[..]));
        let chunk = chunk.expect("the record names what is stored");
        assert_eq!(codec::into_decoded(chunk, None).expect("it was just encoded"), decoded);
    }
});
