//! What is packed: files that lie on disk, that are made meanwhile, or that the store holds already.

use std::sync::Arc;

use super::error::PackError;
use super::held::Held;
use super::known::KnownFile;
use super::model::{Part, SourceFile};

/// A file whose parts are made while it is packed.
#[derive(Debug, Clone)]
pub struct GeneratedFile {
    /// Its path in the artifact.
    pub path: String,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its parts, in order, covering it exactly.
    pub parts: Vec<Part>,
}

/// A file to be packed.
#[derive(Debug, Clone)]
pub enum Input {
    /// That lies on disk.
    File(Arc<SourceFile>),
    /// That is made.
    Made(GeneratedFile),
    /// That the store holds already.
    Known(KnownFile),
}

impl Input {
    /// Its path in the artifact.
    pub fn path(&self) -> &str {
        match self {
            Self::File(file) => &file.path,
            Self::Made(file) => &file.path,
            Self::Known(file) => file.path(),
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Made(file) => file.parts.iter().map(|part| part.len).sum(),
            Self::Known(file) => file.size(),
        }
    }

    /// The parts that are read or made.
    pub(super) fn parts(&self) -> &[Part] {
        match self {
            Self::File(file) => &file.parts,
            Self::Made(file) => &file.parts,
            Self::Known(_) => &[],
        }
    }

    pub(super) fn executable(&self) -> bool {
        match self {
            Self::File(file) => file.executable,
            Self::Made(file) => file.executable,
            Self::Known(file) => file.executable(),
        }
    }
}

/// Makes the parts of files, one after the other in the order of files and parts.
pub trait PartSource {
    /// The bytes of a part, of the length that was announced.
    ///
    /// # Errors
    /// [`PackError::NotGenerated`] if it cannot be made: the maker knows why.
    fn make(&mut self, file: usize, part: usize) -> Result<Held, PackError>;

    /// Whether the failure to make a part may pass, so that what was stored so far is worth keeping for the
    /// next try.
    fn may_pass(&self) -> bool {
        false
    }

    /// Everything is made and stored, and nothing published: the last chance to say no.
    ///
    /// # Errors
    /// If nothing is to be published.
    fn finish(&mut self) -> Result<(), PackError> {
        Ok(())
    }
}

/// Where every file lies on disk.
impl PartSource for () {
    fn make(&mut self, _: usize, _: usize) -> Result<Held, PackError> {
        Err(PackError::NotGenerated)
    }
}
