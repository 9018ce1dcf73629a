//! The mount: the right bytes for whoever opens, maps and copies files, each chunk fetched once; damage and origins
//! that are gone are errors, and nothing hangs.
//!
//! Needs /dev/fuse, `fusermount3`, util-linux, and tests/setup.sh; without them tests fail and say so.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/model.rs"]
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/packing.rs"]
mod packing;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/run.rs"]
mod run;

mod command;
mod decoded;
mod faults;
mod files;
mod loaders;
mod names;
mod reads;
mod users;
mod world;
