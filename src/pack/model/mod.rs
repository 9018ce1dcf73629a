//! Models as they lie on disk: folders of files, of which some are safetensors or GGUF.

mod gguf;
mod safetensors;
mod tree;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::format::dtype::{Dtype, Shape};

pub use tree::walk;

/// A folder or file that cannot be packed.
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

/// A file to be packed, opened.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path in the artifact.
    pub path: String,
    /// Where it lies.
    pub location: PathBuf,
    /// The open file; links were followed.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its parts, in order, covering it exactly.
    pub parts: Vec<Part>,
    modified: Option<SystemTime>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in bytes; 0 only for tensors without elements.
    pub len: u64,
    /// What it is.
    pub kind: PartKind,
}

/// What a part of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartKind {
    /// Bytes without further meaning, to be cut by content.
    Content,
    /// A whole tensor.
    Tensor { name: String, dtype: Dtype, shape: Shape },
}

impl SourceFile {
    /// Opens the file at `location`, which the artifact will call `path`, and finds its parts.
    pub fn open(path: String, location: PathBuf) -> Result<Self, ModelError> {
        let file = File::open(&location).map_err(ModelError::io(&location))?;
        let metadata = file.metadata().map_err(ModelError::io(&location))?;
        let size = metadata.len();
        let parts = if path.ends_with(".safetensors") {
            safetensors::parts(&file, size, &location)?
        } else if path.ends_with(".gguf")
            && let Some(parts) = gguf::parts(&file, size).map_err(ModelError::io(&location))?
        {
            parts
        } else if size > 0 {
            vec![Part { offset: 0, len: size, kind: PartKind::Content }]
        } else {
            Vec::new()
        };
        let executable = tree::is_executable(&metadata);
        let modified = metadata.modified().ok();
        Ok(Self { path, location, file, size, executable, parts, modified })
    }

    /// An error if the file is no longer what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<(), ModelError> {
        let metadata = self.file.metadata().map_err(ModelError::io(&self.location))?;
        if metadata.len() == self.size && metadata.modified().ok() == self.modified {
            return Ok(());
        }
        Err(ModelError::Changed { path: self.location.clone() })
    }
}
