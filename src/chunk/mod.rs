//! Chunks: bytes that arrived, bytes that are known to be right, and what they decode to.
//!
//! A [`VerifiedChunk`](verified::VerifiedChunk) comes of nothing but hashing; [`codec`] takes nothing else.

#![warn(clippy::indexing_slicing)]

pub mod codec;
pub(crate) mod simd;
pub mod verified;
