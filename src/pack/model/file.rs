//! One file on disk, open, with its parts.

use std::fs::{File, Metadata};
use std::path::PathBuf;
use std::time::SystemTime;

use super::error::ModelError;
use super::part::{Part, PartKind};
use super::{gguf, safetensors};

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

impl SourceFile {
    /// Opens the file at `location`, which the artifact will call `path`, and finds its parts.
    ///
    /// # Errors
    /// If it cannot be read, or is malformed.
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
        let executable = is_executable(&metadata);
        let modified = metadata.modified().ok();
        Ok(Self { path, location, file, size, executable, parts, modified })
    }

    /// Checks that the file is still what it was when it was opened.
    ///
    /// # Errors
    /// If it is not, or cannot be looked at.
    pub fn check_unchanged(&self) -> Result<(), ModelError> {
        let metadata = self.file.metadata().map_err(ModelError::io(&self.location))?;
        if metadata.len() == self.size && metadata.modified().ok() == self.modified {
            return Ok(());
        }
        Err(ModelError::Changed { path: self.location.clone() })
    }
}

/// Whether the owner may execute the file.
fn is_executable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o100 != 0
}
