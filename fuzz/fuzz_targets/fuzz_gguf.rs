//! A GGUF file: plain bytes, or cut into parts that cover it exactly.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tenpak::model::{PartKind, SourceFile};

// One file per process, written again for every input.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("tenpak-fuzz-{}.gguf", std::process::id()))
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*FILE, data).expect("the temporary folder takes files");
    let Ok(file) = SourceFile::open("m.gguf".into(), FILE.clone()) else { return };
    let mut at = 0;
    for part in &file.parts {
        assert_eq!(part.offset, at);
        at += part.len;
        if let PartKind::Tensor { dtype, shape, .. } = &part.kind {
            assert_eq!(shape.byte_len(*dtype), Some(part.len));
        }
    }
    assert_eq!(at, data.len() as u64);
});
