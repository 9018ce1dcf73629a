//! A pack index or trailer: what is accepted is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::id::PackId;

fuzz_target!(|data: &[u8]| {
    let id = PackId::of(data);
    if let Ok(index) = PackIndex::parse(data, id) {
        assert_eq!(index.to_bytes(), data);
        assert!(index.placed(id).all(|chunk| chunk.range().end <= index.data_len()));
    }
    if let Ok(trailer) = Trailer::parse(data) {
        assert_eq!(trailer.to_bytes(), data);
    }
});
