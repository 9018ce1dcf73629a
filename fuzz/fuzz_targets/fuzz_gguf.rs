//! A GGUF file: plain bytes, or cut into parts that cover it exactly; a model's configuration and tokenizer out of its
//! header, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::gguf::{Header, Value, config, tokenizer};

mod model_file;

fuzz_target!(|data: &[u8]| {
    model_file::check("m.gguf", data);
    let Ok(header) = Header::parse(data) else { return };
    for (_, value) in &header.values {
        if let Value::Array(array) = value {
            assert_eq!(array.values().count() as u64, array.len());
        }
    }
    let _ = tokenizer::files(&header);
    let _ = config::config(&[header], &|_| Some(vec![1.0; 4]));
});
