//! Chunks of one delivery that are stored against each other: verified, they are kept as they are
//! stored until all that one of them needs is there; then it is decoded, bases first.
//!
//! The delivery's permit covers what is kept. Whoever brings the last missing chunk decodes, so that
//! a delivery whose chunks were all reported is complete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::bases::KnownBases;
use super::buffer::{Taken, Target, lock};
use crate::chunk::codec::{self, DecodeError};
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::DecodedDigest;
use crate::format::record::CodecId;
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;
use crate::schedule::plan::{ChunkIndex, Plan, PlannedBase};

/// The linked chunks of a delivery.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<ChunkIndex, Link>>);

#[derive(Debug)]
struct Link {
    base: PlannedBase,
    /// The chunks that fill something and need this one; it may be one of them.
    needed_by: Vec<ChunkIndex>,
    /// How many of them are still to be decoded.
    pending: usize,
    arrived: Option<Arc<VerifiedChunk<Slot>>>,
    target: Option<Target>,
}

/// A chunk that can be decoded now.
pub(super) struct Ready {
    pub(super) chunk: ChunkIndex,
    /// It, its base, the base of that, and so on.
    chain: Vec<Arc<VerifiedChunk<Slot>>>,
    /// The content of what the last of them is stored against.
    bottom: Option<DecodedDigest>,
    pub(super) target: Target,
}

impl Links {
    /// What waits for each other in a delivery; `None` if nothing does.
    pub(super) fn new(plan: &Plan, linked: &[ChunkIndex]) -> Option<Arc<Self>> {
        if linked.is_empty() {
            return None;
        }
        let link = |&index: &ChunkIndex| {
            let base = plan.chunks.get(index).map_or(PlannedBase::Nothing, |chunk| chunk.base);
            let (needed_by, pending) = (Vec::new(), 0);
            (index, Link { base, needed_by, pending, arrived: None, target: None })
        };
        let mut links: HashMap<ChunkIndex, Link> = linked.iter().map(link).collect();
        for &top in linked {
            let planned = plan.chunks.get(top);
            let fills = planned.is_some_and(|chunk| chunk.uses().any(|u| u.slot.is_some()));
            let mut next = fills.then_some(top);
            while let Some(link) = next.and_then(|index| links.get_mut(&index)) {
                link.needed_by.push(top);
                link.pending += 1;
                next = match link.base {
                    PlannedBase::Fetched(below) => Some(below),
                    PlannedBase::Nothing | PlannedBase::Held(_) => None,
                };
            }
        }
        Some(Arc::new(Self(Mutex::new(links))))
    }

    /// The first of the chunks that fill something and are decoded with this one.
    pub(super) fn needs(&self, index: ChunkIndex) -> Option<ChunkIndex> {
        lock(&self.0).get(&index)?.needed_by.first().copied()
    }

    /// Keeps a verified chunk and, if it fills something, what it fills. Returns what can be decoded
    /// now that it is there.
    pub(super) fn arrived(
        &self,
        index: ChunkIndex,
        chunk: VerifiedChunk<Slot>,
        target: Option<Target>,
    ) -> Vec<Ready> {
        let mut links = lock(&self.0);
        let Some(link) = links.get_mut(&index) else { return Vec::new() };
        (link.arrived, link.target) = (Some(Arc::new(chunk)), target);
        let tops = link.needed_by.clone();
        tops.into_iter().filter_map(|top| ready(&mut links, top)).collect()
    }
}

/// Takes what fills something, if all that it needs is there.
fn ready(links: &mut HashMap<ChunkIndex, Link>, top: ChunkIndex) -> Option<Ready> {
    let (mut chain, mut members) = (Vec::new(), Vec::new());
    let (mut next, mut bottom) = (Some(top), None);
    while let Some(index) = next {
        let link = links.get(&index)?;
        chain.push(link.arrived.clone()?);
        members.push(index);
        (next, bottom) = match link.base {
            PlannedBase::Fetched(below) => (Some(below), None),
            PlannedBase::Held(held) => (None, Some(held)),
            PlannedBase::Nothing => (None, None),
        };
    }
    let target = links.get_mut(&top)?.target.take()?;
    for index in members {
        let Some(link) = links.get_mut(&index) else { continue };
        link.pending -= 1;
        if link.pending == 0 {
            link.arrived = None;
        }
    }
    Some(Ready { chunk: top, chain, bottom, target })
}

/// The decoded bytes of a base.
enum Decoded<'a> {
    Stored(&'a [u8]),
    Held(&'a Bytes),
    Scratch(Slot),
}

impl Decoded<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Held(bytes) => bytes,
            Self::Scratch(bytes) => bytes,
        }
    }
}

impl Ready {
    /// Decodes it into its target, with one chunk of scratch for the base and one for the base's
    /// base. `Ok(false)`: the plan and the bytes disagree.
    pub(super) fn place(
        &mut self,
        known: &KnownBases,
        scratch: &Buffers,
    ) -> Result<bool, DecodeError> {
        let mut below = self.bottom.and_then(|digest| known.get(&digest)).map(Decoded::Held);
        let Some((top, bases)) = self.chain.split_first() else { return Ok(false) };
        for base in bases.iter().rev() {
            let decoded = if base.record().codec == CodecId::RAW {
                Decoded::Stored(base.stored())
            } else {
                let mut out = scratch.take(base.record().decoded_len as usize);
                codec::decode(base, below.as_ref().map(Decoded::bytes), &mut out)?;
                Decoded::Scratch(out)
            };
            known.offer(base.record(), decoded.bytes());
            below = Some(decoded);
        }
        let taken = Taken { known, kept: None };
        self.target.fill(top, below.as_ref().map(Decoded::bytes), scratch, taken)
    }
}
