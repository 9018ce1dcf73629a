//! `tenpak quantize`, by what it leaves in a store.

#[path = "../support/run.rs"]
mod run;

mod backend;
mod calibrated;
mod checkpoint;
mod gguf;
mod memo;
mod model;
mod survive;
