//! Why a folder or a file cannot be packed.

use std::io;
use std::path::{Path, PathBuf};

/// A folder or file that cannot be packed.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The system failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// There is nothing there.
    #[error("{}: no such file or folder", path.display())]
    NotFound { path: PathBuf },
    /// A file name that the format cannot hold.
    #[error("{}: {why}", path.display())]
    Name { path: PathBuf, why: &'static str },
    /// Neither file nor folder, or a link that leads back to a folder above it.
    #[error("{}: {why}", path.display())]
    Special { path: PathBuf, why: &'static str },
    /// A file that claims to be safetensors and is not.
    #[error(
        "{}: not valid safetensors: {why}; repair it, or rename it to keep it as plain bytes",
        path.display()
    )]
    Safetensors { path: PathBuf, why: String },
    /// The file is not what it was when packing began.
    #[error("{}: changed while it was packed; pack again when nothing writes to it", path.display())]
    Changed { path: PathBuf },
}

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Io { path, source },
        }
    }
}
