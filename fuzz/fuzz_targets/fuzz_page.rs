//! A page of a table: never a panic, and its records parse again from their bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::page::{Page, PageKind};
use tenpak::format::record::ChunkRecord;
use tenpak::format::id::PageDigest;

fuzz_target!(|data: &[u8]| {
    for kind in [PageKind::Tensors, PageKind::Files] {
        if let Ok(page) = Page::parse(data, kind, PageDigest::of(data)) {
            for record in page.records() {
                assert_eq!(ChunkRecord::parse(&record.to_bytes()).ok(), Some(*record));
            }
        }
    }
});
