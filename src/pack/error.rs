//! Why a model was not packed.

use super::model::ModelError;
use super::pool::WorkerFailed;
use crate::format::FormatError;
use crate::store::StoreError;

/// A model that was not packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model is beyond a limit of the format.
    #[error("this model does not fit the format: {0}")]
    Format(#[from] FormatError),
    /// A thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
    /// A part was not made; its maker says why.
    #[error("a part of a file was not made")]
    NotGenerated,
    /// A part was made shorter than it was announced.
    #[error(
        "a part of a file is shorter than announced; this is a defect of tenpak, please report it"
    )]
    Short,
    /// A file that was to be taken over from another artifact is not all there, or is to be deleted.
    #[error("{0}: it is no longer there as the artifact that it is of says; pack again")]
    Gone(String),
    /// The ref may not move.
    #[error("not published: {0}")]
    Refused(String),
}

impl From<crate::transport::TransportError> for PackError {
    fn from(error: crate::transport::TransportError) -> Self {
        Self::Store(error.into())
    }
}
