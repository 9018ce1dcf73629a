//! A trust file: any bytes are read or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::trust::TrustFile;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = TrustFile::parse(data) {
        let lines = data.split(|&byte| byte == b'\n').count();
        assert!(file.lines.len() <= lines);
    }
});
