//! Devices: every kernel against the reference, in WGSL on whatever adapter there is (Mesa's in
//! software, which `tests/setup.sh` installs), in CUDA compiled by NVRTC for every architecture, run as
//! C++ on the host, and run on a device where there is one.

#[path = "../support/mod.rs"]
mod support;

mod compare;
mod cuda_kernels;
mod sinks;
mod wgpu_kernels;
