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
mod error;
mod fisher;
mod gptq;
mod inputs;
mod layer;
mod measure;
mod runs;
mod sensitivity;
mod states;
mod statistics;

pub use allocate::{Allocation, Sensitivity, allocate, least_errors};
pub use corpus::{BUILT_IN, CalibrationSamples};
pub use driver::{CalibrateOptions, Solver, calibrate};
pub use error::CalibrateError;
pub use layer::{Calibrated, Layer};
pub use measure::measure;
pub use sensitivity::sensitivities;
pub use statistics::{LayerStatistics, Statistics};
