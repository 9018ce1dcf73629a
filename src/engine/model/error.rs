//! Why a model cannot be run.

use std::sync::Arc;

use crate::dequant::QuantError;
use crate::load::{ArtifactError, LoadError};
use crate::quantize::lm::LmError;
use crate::store::StoreError;

/// Why a model cannot be run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Its configuration or its tokenizer is not one that we run.
    #[error(transparent)]
    Config(Arc<LmError>),
    /// The store failed, or it is not what was signed.
    #[error(transparent)]
    Artifact(Arc<ArtifactError>),
    /// A weight is not what its layout says.
    #[error("tensor {name}: {error}")]
    Weight {
        /// Which.
        name: String,
        /// What is wrong with it.
        error: QuantError,
    },
    /// A tensor that the model needs is not there.
    #[error("tensor {0} is missing: is this the whole model?")]
    Missing(String),
    /// A tensor has another shape.
    #[error("tensor {name} has the shape {got:?} where the configuration needs {want:?}")]
    Shape {
        /// Which.
        name: String,
        /// What it has.
        got: Vec<usize>,
        /// What is needed.
        want: Vec<usize>,
    },
    /// A tensor is of a type that is not run.
    #[error("tensor {name} is of type {dtype}, which is not run")]
    Dtype {
        /// Which.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// An adapter is not one that we apply.
    #[error("{0}")]
    Adapter(String),
    /// There is not enough memory.
    #[error("{need} MiB are needed for {what}, and {have} MiB are allowed")]
    Memory {
        /// What for.
        what: &'static str,
        /// How many.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// It was told to stop.
    #[error("it was stopped before its weights had arrived")]
    Stopped,
    /// What computes it ended early: a defect.
    #[error("the thread that loads the weights ended early")]
    Ended,
}

impl From<LmError> for ModelError {
    fn from(error: LmError) -> Self {
        Self::Config(Arc::new(error))
    }
}

impl From<ArtifactError> for ModelError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(Arc::new(error))
    }
}

impl From<StoreError> for ModelError {
    fn from(error: StoreError) -> Self {
        Self::Artifact(Arc::new(error.into()))
    }
}

impl From<LoadError> for ModelError {
    fn from(error: LoadError) -> Self {
        Self::Artifact(Arc::new(error.into()))
    }
}
