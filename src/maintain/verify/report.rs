//! What verifying says: all that is damaged, each with the place where it lies.

use std::fmt;

use serde::Serialize;

use crate::format::id::{ManifestId, PackId};

/// Bytes of chunks on their way, stored and decoded, at a time.
pub(super) const BUDGET: u32 = 160 << 20;

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ManifestId>,
    /// The file that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The tensor that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Which chunk of the tensor, or of the file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// The pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackId>,
    /// The chunk's offset in the pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub error: String,
}

impl Damage {
    pub(super) fn new(artifact: Option<ManifestId>, error: impl fmt::Display) -> Self {
        let error = error.to_string();
        Self { artifact, file: None, tensor: None, chunk: None, pack: None, offset: None, error }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(artifact) = &self.artifact {
            write!(f, "@{}: ", &artifact.to_hex()[..16])?;
        }
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor}: ")?;
        }
        if let Some(chunk) = self.chunk {
            write!(f, "chunk {chunk}: ")?;
        }
        f.write_str(&self.error)
    }
}

/// What verifying found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The artifacts verified.
    pub artifacts: Vec<ManifestId>,
    /// Chunks that are right, each artifact's counted by themselves.
    pub chunks: u64,
    /// Their decoded bytes.
    pub bytes: u64,
    /// Packs looked into.
    pub packs: u64,
    /// All that is damaged.
    pub damaged: Vec<Damage>,
}

impl VerifyReport {
    /// Whether everything is right.
    pub fn is_ok(&self) -> bool {
        self.damaged.is_empty()
    }
}
