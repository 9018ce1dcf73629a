//! Why an artifact could not be opened or read.

use crate::format::FormatError;
use crate::format::id::ManifestId;
use crate::load::{ErrorKind, LoadError};
use crate::transport::TransportError;
use crate::trust::TrustError;

/// Why an artifact could not be opened or read.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// There is no such artifact or tensor.
    #[error("{what} is not in {location}")]
    NotFound { what: String, location: String },
    /// What a ref names is missing.
    #[error(
        "{what}, which {by} names, is missing from {location}; restore it from a mirror, or pack again"
    )]
    Incomplete { what: String, by: String, location: String },
    /// A prefix of an id fits several artifacts.
    #[error("@{prefix} is ambiguous: {first} and {second} begin so; give more digits")]
    Ambiguous { prefix: String, first: ManifestId, second: ManifestId },
    /// A pattern that cannot be understood.
    #[error("{pattern:?} is no pattern for tensor names: {why}")]
    Pattern { pattern: String, why: String },
    /// A file is not one that is read whole.
    #[error("{path}: {why}")]
    File { path: String, why: String },
    /// A file could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store could not be read.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An object is not what the format, or the digest that names it, says.
    #[error("{location}: {object}: {error}")]
    Format {
        location: String,
        object: String,
        #[source]
        error: FormatError,
    },
    /// Nobody who is trusted vouches for it.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl ArtifactError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } | Self::Pattern { .. } | Self::File { .. } => ErrorKind::Other,
            Self::Load(error) => error.kind(),
            Self::Transport(error) => ErrorKind::of_transport(error),
            Self::Format { .. } | Self::Trust(_) | Self::Incomplete { .. } => {
                ErrorKind::Verification
            }
        }
    }
}
