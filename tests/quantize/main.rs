//! `tenpak quantize` and `tenpak delta`, by what they leave in a store.

#[path = "../support/run.rs"]
mod run;

mod backend;
mod calibrated;
mod checkpoint;
mod delta;
mod gguf;
mod memo;
mod model;
mod survive;
