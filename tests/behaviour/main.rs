//! What users rely on, from outside: what is packed is given back exactly, costs what it must and
//! no more, survives interruption, failure and company, and is never given back damaged. One file
//! per behaviour.

#![cfg(feature = "cli")]

#[path = "../support/library.rs"]
mod library;
#[path = "../support/model.rs"]
mod model;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/s3.rs"]
mod s3;
#[path = "../support/web.rs"]
mod web;

mod absent;
mod clock;
mod company;
mod dedupe;
mod deltas;
mod exact;
mod failure;
mod gguf;
mod interrupted;
mod limits;
mod matrix;
mod mirrors;
mod opaque;
mod same;
mod small;
mod trust;
mod unpacked;
mod whole;
