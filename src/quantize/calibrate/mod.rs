//! Calibration: a model is run block by block over a little text, each linear layer is solved from the
//! inputs it saw, and what the quantized block gives is what the next one is calibrated with.
//!
//! In memory are one block in f32, one Hessian, and at most a fifth of both: a layer is held twice while it is
//! copied, and codes lie beside it while they are made. Layers that share an input have one Hessian, of which the
//! widest input's counts; it is factored and inverted in its own place. Beside these are what the tokens that go
//! through a block together make there (`states`: about a thousand), their hidden states up to a budget, beyond
//! which they lie in a file, and buffers of products, which do not grow with the model. Of the embedding, the
//! rows of the text's tokens are held; the head that statistics need behind the last block lies in a file, too.
//!
//! The same text and numbers give the same codes at any number of threads.

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
mod states;

pub use allocate::{Allocation, Sensitivity, allocate};
pub use corpus::{BUILT_IN, CalibrationSamples};
pub use driver::{CalibrateOptions, Calibrated, Layer, Solver, calibrate};
pub use measure::{LayerStatistics, Statistics, measure};
pub use sensitivity::sensitivities;

use crate::quantize::lm::LmError;
use crate::quantize::solve::SolveError;

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
    /// What was solved was not taken.
    #[error(transparent)]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<candle_core::Error> for CalibrateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
