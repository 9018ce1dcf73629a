//! Why a folder or a file cannot be packed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::fault::Fault;
use crate::format::glob::GlobError;

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
    /// Files that claim to be safetensors and are not.
    #[error("{}", listed(.0))]
    Safetensors(Vec<Malformed>),
    /// Files that no loader would take for a whole model.
    #[error("{}: {}", path.display(), listed(faults))]
    Incomplete { path: PathBuf, faults: Vec<Fault> },
    /// A pattern for files that cannot be understood.
    #[error("{pattern:?} is no pattern for files: {why}")]
    Pattern { pattern: String, why: GlobError },
    /// A pattern that is for no file.
    #[error("no file of {} is {pattern:?}", path.display())]
    NoneOpaque { path: PathBuf, pattern: String },
    /// The file is not what it was when packing began.
    #[error("{}: changed while it was packed; pack again when nothing writes to it", path.display())]
    Changed { path: PathBuf },
}

/// A file that claims to be safetensors and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Where it lies.
    pub location: PathBuf,
    /// Its path in the artifact.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not valid safetensors: {}", self.location.display(), self.why)
    }
}

/// Faults that are told one by one.
const TOLD: usize = 8;

/// The first faults, and how many there are besides.
fn listed(faults: &[impl fmt::Display]) -> String {
    let first: Vec<_> = faults.iter().take(TOLD).map(ToString::to_string).collect();
    let more = faults.len().saturating_sub(TOLD);
    let more = if more > 0 { format!("; and {more} more faults") } else { String::new() };
    first.join("; ") + &more
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
