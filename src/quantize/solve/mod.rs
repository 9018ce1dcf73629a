//! From weights to codes: what rounding, GPTQ, AWQ and HQQ decide. Pure.
//!
//! Matrices are f32, row-major, one row per output of a layer; a Hessian is `X^T X` of the layer's inputs,
//! up to a factor, `[columns, columns]`. The same input gives the same codes at any number of threads.

pub mod awq;
mod error;
pub mod gptq;
pub mod grid;
pub mod hqq;
mod linalg;

pub use error::SolveError;
pub use grid::{Scheme, round_to_nearest};
pub use linalg::{add_gram, mirror, quadratic};
