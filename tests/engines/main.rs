//! `tenpak serve` with engines of others: stand-ins on PATH note how they are started, fetch the model from the edge,
//! and end as they are told. For TGI, which is archived and cannot be installed, this is a check of the contract, and
//! no run.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/safetensors.rs"]
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/run.rs"]
mod run;

mod commands;
mod deploy;
mod ends;
mod refused;
mod speed;
mod world;
