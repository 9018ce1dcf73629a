//! Why files are not unpacked.

use std::io;
use std::path::PathBuf;

use crate::load::LoadError;

/// Why unpacking failed. Files that were complete by then stay.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The bytes could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The folder could not be written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A link or file stands where a folder is needed.
    #[error("{}: this is no folder (links are not followed); remove it, or unpack elsewhere", path.display())]
    NotAFolder { path: PathBuf },
    /// The folder holds something else than files of the artifact.
    #[error("{}: this folder holds something else: {what}", path.display())]
    Occupied { path: PathBuf, what: String },
}
