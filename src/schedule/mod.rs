//! What to load, in which order, and what to do when a request fails. No I/O.

#![warn(clippy::indexing_slicing)]

pub mod plan;
mod random;
pub mod scheduler;
pub mod shard;
pub mod tensor_parallel;
