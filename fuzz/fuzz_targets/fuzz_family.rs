//! A configuration of a language model, with a description of its own or of a known family: an error, or a model of
//! the shape that it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::quantize::lm::LmConfig;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    if let Ok(found) = LmConfig::parse(&config) {
        assert!(found.heads.is_multiple_of(found.kv_heads) && found.positions > 0);
        assert_eq!(found.windows.len(), found.layers);
        let _ = found.beyond_llama();
    }
});
