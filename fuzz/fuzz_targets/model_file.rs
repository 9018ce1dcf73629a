//! A file that is taken apart into tensors, or refused: its parts cover it exactly.

use std::path::PathBuf;
use std::sync::OnceLock;

use tenpak::pack::model::{PartKind, SourceFile};

/// Reads `data` as a file of this name.
pub fn check(name: &str, data: &[u8]) {
    // One file per process, written again for every input.
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        std::env::temp_dir().join(format!("tenpak-fuzz-{}-{name}", std::process::id()))
    });
    std::fs::write(file, data).expect("the temporary folder takes files");
    let Ok(file) = SourceFile::open(name.into(), file.clone()) else { return };
    let mut at = 0;
    for part in &file.parts {
        assert_eq!(part.offset, at);
        at += part.len;
        if let PartKind::Tensor { dtype, shape, .. } = &part.kind {
            assert_eq!(shape.byte_len(*dtype), Some(part.len));
        }
    }
    assert_eq!(at, data.len() as u64);
}
