//! `tenpak quantize` and `tenpak delta`, by what they leave in a store.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/library.rs"]
mod library;
#[path = "../support/run.rs"]
mod run;

mod again;
mod backend;
mod calibrated;
mod checkpoint;
mod delta;
mod engines;
mod foreign;
mod gguf;
mod memo;
mod mixed;
mod model;
mod perplexity;
mod survive;

use std::path::Path;

use run::{Run, tenpak, text};

/// `tenpak quantize`, however it ends.
fn quantize(store: &Path, source: &str, name: &str, more: &[&str]) -> Run {
    let all = ["quantize", source, "--store", text(store), "--name", name];
    tenpak(&[&all[..], more].concat())
}

/// The same, which must succeed.
#[track_caller]
fn quantized(store: &Path, source: &str, name: &str, more: &[&str]) -> Run {
    let run = quantize(store, source, name, more);
    assert_eq!(run.status, Some(0), "{source} {more:?}: {}", run.error);
    run
}
