//! A safetensors file: refused, or cut into parts that cover it exactly.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod model_file;

fuzz_target!(|data: &[u8]| model_file::check("m.safetensors", data));
