//! New artifacts from old ones: quantized checkpoints and fine-tune deltas.
//!
//! [`encode`] and [`solve`] are pure: weights to codes and bytes. [`source`] reads a model, wherever it
//! lies; [`lm`] runs language models block by block, [`eval`] measures them, [`calibrate`] collects what
//! solvers need, and [`produce`] writes.

pub mod calibrate;
pub mod encode;
pub mod eval;
pub mod lm;
#[cfg(feature = "produce")]
pub mod produce;
pub mod solve;
pub mod source;
