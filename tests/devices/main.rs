//! Devices: every kernel against the reference, in WGSL on whatever adapter there is (Mesa's in
//! software, which `tests/setup.sh` installs), in CUDA compiled by NVRTC for every architecture, run as
//! C++ on the host, and run on a device where there is one.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/model.rs"]
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/run.rs"]
mod run;
#[path = "../support/mod.rs"]
mod support;

mod based;
mod cli;
mod compare;
mod cuda_kernels;
mod decode;
mod delta;
mod dequant;
mod dtype;
mod examples;
mod sinks;
mod survive;
mod wgpu_kernels;
