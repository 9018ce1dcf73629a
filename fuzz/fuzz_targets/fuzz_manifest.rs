//! A manifest: what is accepted can be written, and reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::manifest::Manifest;
use tenpak::format::id::ManifestId;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data, ManifestId::of(data)) {
        // Fields that this release does not know are not written again.
        let bytes = manifest.to_bytes().expect("shorter than what was read");
        let again = Manifest::parse(&bytes, ManifestId::of(&bytes)).expect("it was just written");
        assert_eq!(again, manifest);
        assert_eq!(manifest.table().places().count(), manifest.table().pages.len());
    }
});
