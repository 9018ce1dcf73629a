//! Why a model was not calibrated.

use crate::quantize::lm::LmError;
use crate::quantize::solve::SolveError;

/// The fewest tokens that say anything.
pub(super) const LEAST: usize = 64;

/// Why a model was not calibrated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] LmError),
    /// A layer has no solution.
    #[error("{layer}: {error}")]
    Layer {
        /// The layer.
        layer: String,
        /// What is wrong.
        error: SolveError,
    },
    /// The text gives too little.
    #[error("the calibration text has {0} tokens; {least} at least are needed: give a longer one", least = LEAST)]
    Short(usize),
    /// The method does not fit the model.
    #[error("{0}")]
    Method(String),
    /// Statistics that are not ones.
    #[error("statistics: {0}")]
    Statistics(String),
    /// What was solved was not taken.
    #[error(transparent)]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<candle_core::Error> for CalibrateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
