//! A layout: what is accepted is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::layout::Layout;
use tenpak::format::id::ManifestId;

fuzz_target!(|data: &[u8]| {
    let Some(Ok(id)) = data.get(16..48).map(<[u8; 32]>::try_from) else { return };
    if let Ok(layout) = Layout::parse(data, ManifestId::from_bytes(id)) {
        assert_eq!(layout.to_bytes(), data);
    }
});
