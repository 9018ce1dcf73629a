//! A small model that lies in this program, so that there is one to try everything with: a Llama of 0.26 million
//! parameters that was trained on Jane Austen's novels (`fixtures/lm/README.md`).

use super::listing::{Check, Listing, RemoteFile};

/// What stands behind `sample://`.
pub(super) const NAME: &str = "austen";
const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../../fixtures/lm/sample/config.json")),
    ("model.safetensors", include_bytes!("../../../fixtures/lm/sample/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../fixtures/lm/sample/tokenizer.json")),
];

/// What it is made of.
pub(super) fn listing() -> Listing {
    let file = |(path, bytes): &(&str, &[u8])| RemoteFile {
        path: (*path).to_owned(),
        size: Some(bytes.len() as u64),
        check: Check::Nothing,
        version: blake3::hash(bytes).to_hex().to_string(),
    };
    let files = FILES.iter().map(file).collect();
    Listing { files, pinned: format!("sample://{NAME}") }
}

/// A file's bytes from `at` on; none of a file that it does not have.
pub(super) fn rest(path: &str, at: u64) -> &'static [u8] {
    let found = FILES.iter().find(|(own, _)| *own == path);
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    found.and_then(|(_, bytes)| bytes.get(at..)).unwrap_or_default()
}
