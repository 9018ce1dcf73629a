//! What can go wrong while a store is maintained.

use crate::format::id::ManifestId;
use crate::store::StoreError;
use crate::transport::TransportError;

/// A failed operation of maintenance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaintainError {
    /// A store failed, or holds something damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is to be written is beyond a limit of the format.
    #[error("this does not fit the format: {0}")]
    Format(#[from] crate::format::FormatError),
    /// A thread of this program failed.
    #[error("a worker thread failed; this is a defect of tenpak, please report it")]
    Worker,
    /// Nothing may be deleted, because what is needed cannot be told.
    #[error("nothing was deleted, because it cannot be told what {by} needs: {source}")]
    Unmarkable {
        /// The ref, artifact or lease.
        by: String,
        /// What is wrong with it.
        source: Box<StoreError>,
    },
    /// A chunk that the artifact needs is in none of the packs that it should lie in.
    #[error(
        "artifact {artifact}: chunk {stored} is in no pack that its layout names; restore the layout from a mirror, or pack again"
    )]
    Nowhere {
        /// The artifact.
        artifact: ManifestId,
        /// The chunk.
        stored: crate::format::id::StoredDigest,
    },
}

impl From<TransportError> for MaintainError {
    fn from(error: TransportError) -> Self {
        Self::Store(error.into())
    }
}

/// Whether the error says that something in the store is not what it should be, rather than that
/// the store could not be asked.
pub(super) fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged { .. }
        | StoreError::Incomplete { .. }
        | StoreError::Chunk { .. }
        | StoreError::Decode { .. } => true,
        StoreError::Transport(error) => error.is_absent(),
        StoreError::Trust(error) => {
            error.is_refusal() || matches!(error, crate::trust::TrustError::Malformed { .. })
        }
        _ => false,
    }
}
