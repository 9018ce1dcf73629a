//! Why a model was not calibrated.

use crate::quantize::lm::LmError;
use crate::quantize::solve::SolveError;

/// The fewest tokens that say anything.
pub(super) const LEAST: usize = 64;

/// Why a model was not calibrated.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] LmError),
    /// A layer has no solution.
    #[error("{layer}: {error}")]
    Layer { layer: String, error: SolveError },
    /// The text gives too little.
    #[error("the calibration text has {0} tokens; {least} at least are needed: give a longer one", least = LEAST)]
    Short(usize),
    /// AWQ does not fit the model.
    #[error(
        "AWQ of {0}: neither a norm nor a linear layer gives another its input in a way that scales could be folded into; use gptq"
    )]
    NoScale(String),
    /// A tensor that is none of statistics.
    #[error("statistics: tensor {0} is none of calibration's")]
    Foreign(String),
    /// A tensor of statistics with a number that is negative or not finite.
    #[error("statistics: tensor {0} holds what is no mean of magnitudes")]
    NoMean(String),
    /// Statistics of a layer that contradict each other.
    #[error("statistics: {0} has squares and means of unequal length")]
    Lengths(String),
    /// Statistics that lack a layer.
    #[error("statistics: they say nothing of the {columns} inputs of {layer}")]
    NoStatistics { layer: String, columns: usize },
    /// What was solved was not taken.
    #[error(transparent)]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<candle_core::Error> for CalibrateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
