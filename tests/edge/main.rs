//! The edge: the right bytes and headers over every backend, from a cache that nothing enters
//! unverified, to loaders and to
//! the clients of the Hub and of S3.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/safetensors.rs"]
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/packing.rs"]
mod packing;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/run.rs"]
mod run;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/web.rs"]
mod web;

mod access;
mod between;
mod caching;
mod cold;
mod command;
mod deploy;
mod files;
mod flips;
mod fronts;
mod hostile;
mod hub;
mod kills;
mod mirrors;
mod names;
mod objects;
mod operations;
mod parts;
mod restart;
mod s3;
mod serving;
mod silent;
mod slow;
mod status;
mod sync;
mod verified;
mod world;
