//! Sixteen f32 side by side: in plain Rust, in AVX2 and in AVX-512, chosen when the program runs.
//!
//! Every kernel is written once over [`Lanes`] and takes its sums in the same order whatever runs it, so that
//! the instruction sets differ only where a fused product rounds once and a plain one twice.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod portable;
mod traits;

pub(super) use isa::Isa;
pub(super) use traits::{E4M3, Kernel, LANES, Lanes};
