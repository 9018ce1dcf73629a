//! Canonical JSON: what is accepted is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::json;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = json::parse::<serde_json::Value>(data, 1 << 20) {
        assert_eq!(json::to_bytes(&value).ok().as_deref(), Some(data));
    }
});
