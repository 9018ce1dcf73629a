//! Calibration: a model is run block by block over a little text, each linear layer is solved from the
//! inputs it saw, and what the quantized block gives is what the next one is calibrated with.
//!
//! In memory are one block, one Hessian, and the hidden states of the text up to a budget, beyond which they
//! lie in a file. The same text and numbers give the same codes at any number of threads.

mod allocate;
mod awq;
mod corpus;
mod cost;
mod driver;
mod fisher;
mod gptq;
mod inputs;
mod measure;
mod runs;
mod sensitivity;
mod spool;
mod states;

pub use allocate::{Allocation, Sensitivity, allocate};
pub use corpus::{BUILT_IN, Draws};
pub use driver::{CalibrateOptions, Calibrated, Layer, Solver, calibrate};
pub use measure::{LayerStatistics, Statistics, measure};
pub use sensitivity::sensitivities;
pub(crate) use spool::unnamed;

use crate::lm::LmError;
use crate::solve::SolveError;

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
    #[error("the calibration text has {0} tokens; {least} at least are needed: give a longer one", least = corpus::LEAST)]
    Short(usize),
    /// The method does not fit the model.
    #[error("{0}")]
    Method(String),
    /// Statistics that are not ones.
    #[error("statistics: {0}")]
    Statistics(String),
    /// Hidden states could not be put aside.
    #[error("hidden states in {}: {source}", std::env::temp_dir().display())]
    Spool {
        /// What the system says.
        source: std::io::Error,
    },
    /// What was solved was not taken.
    #[error(transparent)]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<candle_core::Error> for CalibrateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
