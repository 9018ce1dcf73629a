//! Fine-tunes as what they add to their base: exactly, or near enough in fewer bits.
//!
//! A lossy method first defines the weights that the result has, near the fine-tune's, and those are
//! stored exactly, chunk against chunk of the base: loading knows of no loss, and `unpack` gives a
//! whole checkpoint.

mod approximate;
mod estimate;
mod method;
mod run;

pub use approximate::{Approximated, Deviation, NotFinite, approximate};
pub use estimate::{Estimate, estimate};
pub use method::DeltaMethod;
pub use run::{DeltaOptions, DeltaReport, TensorReport, delta};
