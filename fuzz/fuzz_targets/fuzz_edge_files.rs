//! What operators write for an edge: token files, secrets of URLs, addresses. A URL that was signed
//! lets its path in, and no other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::edge::{Access, TraceTarget, UrlKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        match Access::default().with_tokens(text) {
            // More lines that say nothing change nothing.
            Ok(_) => assert!(Access::default().with_tokens(&format!("# x\n\n{text}\n")).is_ok()),
            Err(why) => assert!(why.to_string().starts_with("line "), "{why}"),
        }
        if let Ok(target) = TraceTarget::new(text) {
            drop(target);
        }
        let key = UrlKey::new(&[7; 32]).expect("a secret");
        if let Ok(url) = key.sign(text, 17) {
            let (place, query) = url.split_once('?').expect("a query");
            assert!(place.starts_with("http") && query.starts_with("expires=17&signature="));
            assert!(key.sign(&url, 17).is_err(), "signed twice");
        }
    }
    if let Ok(key) = UrlKey::new(data) {
        assert!(data.trim_ascii().len() >= 32);
        assert!(key.sign("http://x/a", 1).is_ok());
    }
});
