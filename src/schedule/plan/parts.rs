//! What plans consist of: options, chunks, deliveries, requests.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::index::{ChunkIndex, DeliveryIndex, List, RecordIndex, SlotIndex, TensorIndex};
use crate::format::id::{DecodedDigest, PackId};

/// How fetches are formed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Unwanted bytes between two chunks that are fetched rather than asked around: what a round trip
    /// costs ([`Way::round_trip`](super::way::Way::round_trip)).
    pub gap: u64,
    /// Memory for small chunks that are fetched once and delivered several times.
    pub kept: u64,
    /// Bytes of a fetch when a run is divided.
    pub segment: u64,
    /// The largest delivery: longer tensors come in pieces, those cut into bands only if they are
    /// four times as long. `None` never divides a tensor.
    pub piece: Option<u64>,
    /// Where the last known chunk of a pack ends. A pack listed here, of which nine tenths are
    /// wanted, is asked for whole.
    pub pack_ends: HashMap<PackId, u64>,
    /// The bases that whoever loads holds already: neither they nor what they are stored against is
    /// fetched.
    pub held: HashSet<DecodedDigest>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            gap: 64 << 10,
            kept: 8 << 20,
            segment: 16 << 20,
            piece: None,
            pack_ends: HashMap::new(),
            held: HashSet::new(),
        }
    }
}

/// A chunk within a tensor, and the slot of its delivery that it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkUse {
    /// Which of the request's records.
    pub record: RecordIndex,
    /// Which of the delivery's slots; `None` for a base, which others are decoded with.
    pub slot: Option<SlotIndex>,
}

/// What a planned chunk is stored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedBase {
    /// Nothing: it is decoded alone.
    Nothing,
    /// Another of the plan's chunks, of the same delivery.
    Fetched(ChunkIndex),
    /// A chunk of this content, which is held already.
    Held(DecodedDigest),
}

/// A chunk to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedChunk {
    /// The delivery it is for.
    pub delivery: DeliveryIndex,
    /// What it fills.
    pub first: ChunkUse,
    /// What else the same stored bytes fill in this delivery.
    pub more: Vec<ChunkUse>,
    /// Whether its decoded bytes are kept for the echoes of later deliveries.
    pub kept: bool,
    /// What it is stored against.
    pub base: PlannedBase,
    /// 0 if it fills a slot, else how many bases lie between it and a chunk that does, counting
    /// itself.
    pub level: u8,
    /// Offset in the pack.
    pub offset: u32,
    /// Stored bytes.
    pub len: u32,
}

impl PlannedChunk {
    /// All its uses.
    pub fn uses(&self) -> impl Iterator<Item = &ChunkUse> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// A use of a chunk that an earlier delivery fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The chunk, which is kept.
    pub of: ChunkIndex,
    /// What it fills here.
    pub chunk_use: ChunkUse,
}

/// A part of a delivery that is filled on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its bytes, counted from the delivery's start.
    pub range: Range<u64>,
    /// One chunk is exactly this slot's bytes. Otherwise parts of chunks are copied in.
    pub direct: bool,
}

/// What is handed to the consumer at once: a tensor, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which of the plan's tensors.
    pub tensor: TensorIndex,
    /// Its bytes among the wanted ones.
    pub range: Range<u64>,
    /// The parts, which cover it.
    pub slots: List<SlotIndex, Slot>,
    /// Chunks to fetch for it.
    pub chunks: u32,
    /// What earlier deliveries have fetched of it.
    pub echoes: Vec<Echo>,
    /// Those of them that are kept as they are stored until what they are stored against is there
    /// too, or what is stored against them.
    pub linked: Vec<ChunkIndex>,
    /// Stored bytes of those.
    pub linked_bytes: u64,
    /// The record that is delivered as it is stored; `None`: decoded bytes.
    pub stored: Option<RecordIndex>,
}

impl Delivery {
    /// Bytes of the delivery.
    pub const fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether there is nothing to fetch.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFetch {
    /// The pack.
    pub pack: PackId,
    /// The whole pack is asked for, without a range.
    pub whole: bool,
    /// Chunks of the plan, in rising offset.
    pub chunks: Vec<ChunkIndex>,
}
