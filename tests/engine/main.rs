//! The embedded engine beside the slow reference (`quantize::lm`, held to transformers elsewhere): the same
//! probabilities, whatever else runs, while weights arrive, and never from weights that were not verified.

#[path = "../support/library.rs"]
#[allow(dead_code)]
mod library;
#[path = "../support/run.rs"]
#[allow(dead_code)]
mod run;

mod adapters;
mod batches;
mod faults;
mod held;
mod served;
mod values;
mod world;
