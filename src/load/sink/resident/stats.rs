//! How much memory a resident set may take, and what it has done with it.

use super::super::stream::StreamOptions;

/// How a resident set uses memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResidentOptions {
    /// The most bytes of device memory that tensors take.
    pub budget: u64,
    /// The ring that they pass through.
    pub streaming: StreamOptions,
}

impl ResidentOptions {
    /// With so much device memory.
    pub fn new(budget: u64) -> Self {
        Self { budget, streaming: StreamOptions::default() }
    }
}

/// What a resident set has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResidentStats {
    /// Tensors that were there when touched.
    pub hits: u64,
    /// Touches that found their tensor on its way.
    pub waits: u64,
    /// Tensors fetched because they were touched.
    pub fetches: u64,
    /// Tensors fetched ahead.
    pub prefetches: u64,
    /// Tensors that were to be fetched ahead, for which there was no room.
    pub skipped: u64,
    /// Tensors that left.
    pub evictions: u64,
    /// Tensors resident now.
    pub resident: usize,
    /// Bytes alive now: resident, arriving, or evicted and still held.
    pub alive: u64,
    /// The most bytes that were ever alive.
    pub peak: u64,
}
