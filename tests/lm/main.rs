//! Language models: what they compute is what transformers recorded, and what calibrated solvers make of
//! them keeps their perplexity.

#![cfg(feature = "cli")]

mod apart;
mod calibrated;
mod eval;
mod families;
mod gradients;
mod models;
mod vectors;

#[path = "../support/run.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod run;

use std::path::PathBuf;

/// A file or folder of the fixtures.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(path)
}

/// A JSON file of the fixtures.
fn json(path: &str) -> serde_json::Value {
    let path = fixture(path);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
