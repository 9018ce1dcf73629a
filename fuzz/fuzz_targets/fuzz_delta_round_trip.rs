//! Any elements against any base: what is encoded is never larger than raw, has a record that
//! parses, and decodes to itself.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tenpak::chunk::codec::{self, Against, CodecChoice, Encoder};
use tenpak::format::dtype::Dtype;
use tenpak::format::limits::MAX_CHUNK;
use tenpak::format::record::{Base, ChunkRecord};
use tenpak::format::id::DecodedDigest;
use tenpak::chunk::verified::VerifiedChunk;

fuzz_target!(|data: &[u8]| {
    // The halves of the input, repeated: short inputs make chunks of several segments.
    let Some((&[times, element, depth], data)) = data.split_first_chunk() else { return };
    let (base, decoded) = data.split_at(data.len() / 2);
    let repeat = |part: &[u8]| {
        let mut all = part.repeat(usize::from(times) + 1);
        all.truncate(MAX_CHUNK as usize);
        all
    };
    let (base, decoded) = (repeat(base), Bytes::from(repeat(decoded)));
    if decoded.is_empty() {
        return;
    }
    let element = Dtype::ALL[usize::from(element) % Dtype::ALL.len()];
    let name = Base { decoded: DecodedDigest::of(&base), depth: 1 + depth % 8 };
    let against = Against { base: name, decoded: &base };
    let mut encoder = Encoder::default();
    for (choice, _) in CodecChoice::ALL {
        let encoded = encoder.encode(choice, element, decoded.clone(), Some(against));
        assert!(encoded.stored.len() <= decoded.len());
        let record = encoded.record;
        assert_eq!(record.base.is_some(), record.codec.has_base());
        assert_eq!(ChunkRecord::parse(&record.to_bytes()).ok(), Some(record));
        let chunk = VerifiedChunk::verify(record, BytesMut::from(&encoded.stored[..]));
        let chunk = chunk.expect("the record names what is stored");
        let back = codec::into_decoded(chunk, Some(&base)).expect("it was just encoded");
        assert_eq!(back, decoded);
    }
});
