//! What can go wrong with a store.

use crate::chunk::codec::DecodeError;
use crate::chunk::verified::DigestMismatch;
use crate::dequant::QuantError;
use crate::format::FormatError;
use crate::format::glob::GlobError;
use crate::format::id::ManifestId;
use crate::gguf::GgufError;
use crate::transport::{TransportError, TransportErrorKind};
use crate::trust::TrustError;

/// A failed operation on a store.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The transport failed, or an object is missing.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An object is not what the format, or its own name, says.
    #[error(
        "{location}: {object} is damaged: {source}; restore it from a mirror, or delete it and pack again"
    )]
    Damaged { location: String, object: String, source: Box<FormatError> },
    /// An object that a manifest or ref names is missing.
    #[error(
        "{location}: {object} is missing, though {by} names it; restore it from a mirror, or pack again"
    )]
    Incomplete { location: String, object: String, by: String },
    /// A chunk is not the one that its record names.
    #[error(
        "{location}: packs/{pack} at offset {offset}: {source}; restore the pack from a mirror, or delete it and pack again"
    )]
    Chunk { location: String, pack: String, offset: u32, source: Box<DigestMismatch> },
    /// A verified chunk does not decode.
    #[error("{location}: packs/{pack} at offset {offset}: {source}")]
    Decode { location: String, pack: String, offset: u32, source: DecodeError },
    /// A signature, key or trust rule refused.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Others kept changing the same object.
    #[error("{location}: {object}: others changed it {tries} times meanwhile; try again")]
    Contended { location: String, object: String, tries: u32 },
    /// Nothing there says that it is a store.
    #[error("no store at {location}: there is no tenpak.json")]
    NoStore { location: String },
    /// No artifact of that name or id.
    #[error("{location}: no artifact {artifact}")]
    NoArtifact { location: String, artifact: String },
    /// No tensor matches a pattern.
    #[error("a {what} called {pattern:?} of artifact {artifact} is not in {location}")]
    NoTensor { location: String, what: &'static str, artifact: ManifestId, pattern: String },
    /// A pattern that cannot be understood.
    #[error("{pattern:?} is no pattern for tensor names: {why}")]
    Pattern { pattern: String, why: GlobError },
    /// A file is not one that is read whole.
    #[error("{path}: {error}")]
    File { path: String, error: FileError },
    /// An id prefix that fits several artifacts.
    #[error("{location}: @{prefix} fits {count} artifacts; give more digits")]
    Ambiguous { location: String, prefix: String, count: usize },
    /// A writer that has given its lease back.
    #[error("{location}: {lease} was given back, and nothing more is written under it")]
    LeaseEnded { location: String, lease: String },
    /// This machine's clock is behind or ahead.
    #[error("{location}: this machine's clock says that it is {now}, but {whose} {then}: {harm}")]
    Clock { location: String, now: String, whose: &'static str, then: String, harm: &'static str },
    /// The system gave no random bytes.
    #[error("no random bytes from the system: {0}")]
    Random(getrandom::Error),
}

/// Why a file of an artifact is of no use.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is longer than whoever asked will read.
    #[error("it has {size} bytes, and {limit} are read")]
    Large { size: u64, limit: u64 },
    /// Tensors are read by their names.
    #[error("it holds tensors")]
    Tensors,
    /// It is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It names a quantization that is not known.
    #[error(transparent)]
    Quantization(#[from] QuantError),
    /// It is a GGUF file of which no model is made.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl StoreError {
    /// The same error, where a missing object means that the store is damaged.
    pub fn named_by(self, by: impl ToString) -> Self {
        match self {
            Self::Transport(error) if error.kind == TransportErrorKind::NotFound => {
                Self::Incomplete {
                    location: error.location,
                    object: error.object,
                    by: by.to_string(),
                }
            }
            other => other,
        }
    }

    /// Whether trying again may help: the store could not be asked, rather than that it said something.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Transport(error) if error.is_transient())
    }

    /// Whether the object is missing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Transport(error) if error.kind == TransportErrorKind::NotFound)
    }
}
