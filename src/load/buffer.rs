//! The memory of deliveries: one slot each, lent out in parts that are joined again without a copy, and
//! let go when the consumer does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use super::bases::KnownBases;
use crate::chunk::codec::{self, DecodeError};
use crate::chunk::verified::{OwnedBytes, VerifiedChunk};
use crate::format::grid::Rect;
use crate::format::record::{ChunkRecord, CodecId};
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;
use crate::schedule::plan::{self, ChunkIndex, DeliveryIndex, List, ListIndex, SlotIndex};
use crate::schedule::scheduler::Event;
use crate::schedule::shard::ShardSlice;

/// What the consumer tells the driver.
#[derive(Debug)]
pub(super) enum Feedback {
    Taken(DeliveryIndex),
    Released(DeliveryIndex),
}

impl From<Feedback> for Event {
    fn from(feedback: Feedback) -> Self {
        match feedback {
            Feedback::Taken(delivery) => Self::Taken { delivery },
            Feedback::Released(delivery) => Self::Released { delivery },
        }
    }
}

/// A lock whose holder cannot panic halfway: copying bytes only.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the bytes of a chunk go.
#[derive(Debug)]
pub(super) enum Target {
    /// All of them into this buffer, which is exactly as large and has no other owner.
    Direct { slot: SlotIndex, piece: Slot },
    /// Parts of them into slots that other chunks fill too.
    Scatter(Vec<Scatter>),
    /// As they are stored, into all of the delivery's memory.
    Stored(Slot),
}

impl Target {
    /// Decodes a chunk into its place. `Ok(false)`: the plan and the bytes disagree.
    pub(super) fn fill<B: OwnedBytes>(
        &mut self,
        chunk: &VerifiedChunk<B>,
        base: Option<&[u8]>,
        scratch: &Buffers,
        taken: Taken<'_>,
    ) -> Result<bool, DecodeError> {
        let keep = |decoded: &[u8]| taken.offer(chunk.record(), decoded);
        match self {
            Self::Direct { piece, .. } => {
                piece.touch();
                codec::decode(chunk, base, piece)?;
                keep(piece);
                Ok(true)
            }
            Self::Scatter(uses) if chunk.record().codec == CodecId::RAW => {
                keep(chunk.stored());
                Ok(uses.iter().all(|to| to.fill(chunk.stored())))
            }
            Self::Scatter(uses) => {
                let mut decoded = scratch.take(chunk.record().decoded_len as usize);
                codec::decode(chunk, base, &mut decoded)?;
                keep(&decoded);
                Ok(uses.iter().all(|to| to.fill(&decoded)))
            }
            Self::Stored(_) => Ok(false),
        }
    }

    /// Puts what was decoded before into its place. False if the plan and the bytes disagree.
    pub(super) fn repeat(&mut self, decoded: &[u8]) -> bool {
        match self {
            Self::Direct { piece, .. } => {
                piece.touch();
                let fits = piece.len() == decoded.len();
                if fits {
                    piece.copy_from_slice(decoded);
                }
                fits
            }
            Self::Scatter(uses) => uses.iter().all(|to| to.fill(decoded)),
            Self::Stored(_) => false,
        }
    }
}

/// Who else takes what a chunk was decoded to.
#[derive(Clone, Copy)]
pub(super) struct Taken<'a> {
    pub(super) known: &'a KnownBases,
    /// If later deliveries hold the same chunk: where it is kept for them.
    pub(super) kept: Option<(&'a Kept, ChunkIndex)>,
}

impl Taken<'_> {
    pub(super) fn offer(&self, record: &ChunkRecord, decoded: &[u8]) {
        self.known.offer(record, decoded);
        if let Some((kept, chunk)) = self.kept {
            lock(&kept.0).insert(chunk, Bytes::copy_from_slice(decoded));
        }
    }
}

/// Decoded chunks that later deliveries hold too; the plan bounds their bytes.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<ChunkIndex, Bytes>>);

impl Kept {
    pub(super) fn get(&self, chunk: ChunkIndex) -> Option<Bytes> {
        lock(&self.0).get(&chunk).cloned()
    }
}

/// One use of a chunk whose bytes are copied.
#[derive(Debug)]
pub(super) struct Scatter {
    pub(super) slot: Arc<Mutex<Slot>>,
    /// Where the slot begins in the wanted tensor.
    pub(super) start: u64,
    pub(super) cut: ShardSlice,
    pub(super) rect: Rect,
}

impl Scatter {
    /// Copies what is wanted of the decoded chunk. False if the plan and the bytes disagree.
    pub(super) fn fill(&self, decoded: &[u8]) -> bool {
        let mut bytes = lock(&self.slot);
        bytes.touch();
        for copy in self.cut.copies(self.rect) {
            let (from, to, len) =
                (copy.from as usize, (copy.to - self.start) as usize, copy.len as usize);
            let (Some(source), Some(place)) =
                (decoded.get(from..from + len), bytes.get_mut(to..to + len))
            else {
                return false;
            };
            place.copy_from_slice(source);
        }
        true
    }
}

/// A delivery that is being filled.
#[derive(Debug)]
pub(super) enum Filling {
    /// Most small tensors are one part.
    One(Part),
    Many(List<SlotIndex, Part>),
}

#[derive(Debug)]
pub(super) enum Part {
    /// A slot that one chunk fills; away while a fetch has it.
    Direct(Option<Slot>),
    Shared(Arc<Mutex<Slot>>),
}

impl Part {
    fn new(memory: Slot, direct: bool) -> Self {
        match direct {
            true => Self::Direct(Some(memory)),
            false => Self::Shared(Arc::new(Mutex::new(memory))),
        }
    }

    fn take(&mut self) -> Option<Slot> {
        match self {
            Self::Direct(part) => part.take(),
            Self::Shared(part) => Some(std::mem::take(&mut *lock(part))),
        }
    }
}

impl Filling {
    /// Divides the memory of a delivery.
    pub(super) fn new(mut memory: Slot, slots: &List<SlotIndex, plan::Slot>) -> Self {
        if let [slot] = &slots[..] {
            return Self::One(Part::new(memory, slot.direct));
        }
        let mut parts: Vec<_> = Vec::with_capacity(slots.len());
        for slot in slots.iter().rev() {
            // They lie back to back.
            parts.push(Part::new(memory.split_off(slot.range.start as usize), slot.direct));
        }
        Self::Many(parts.into_iter().rev().collect())
    }

    fn get(&self, slot: SlotIndex) -> Option<&Part> {
        match self {
            Self::One(part) => (slot == SlotIndex::FIRST).then_some(part),
            Self::Many(parts) => parts.get(slot),
        }
    }

    fn get_mut(&mut self, slot: SlotIndex) -> Option<&mut Part> {
        match self {
            Self::One(part) => (slot == SlotIndex::FIRST).then_some(part),
            Self::Many(parts) => parts.get_mut(slot),
        }
    }

    /// The slot for the one fetch that fills it.
    pub(super) fn lend(&mut self, slot: SlotIndex) -> Option<Slot> {
        match self.get_mut(slot) {
            Some(Part::Direct(part)) => part.take(),
            _ => None,
        }
    }

    /// The slot that several chunks fill.
    pub(super) fn share(&self, slot: SlotIndex) -> Option<Arc<Mutex<Slot>>> {
        match self.get(slot) {
            Some(Part::Shared(part)) => Some(part.clone()),
            _ => None,
        }
    }

    /// Takes back what [`Self::lend`] gave.
    pub(super) fn restore(&mut self, slot: SlotIndex, memory: Slot) {
        if let Some(Part::Direct(part)) = self.get_mut(slot) {
            *part = Some(memory);
        }
    }

    /// The whole again; `None` if a part is missing.
    pub(super) fn join(self) -> Option<Slot> {
        let mut parts = match self {
            Self::One(mut part) => return part.take(),
            Self::Many(parts) => parts,
        };
        let mut whole = Slot::default();
        for part in parts.iter_mut() {
            whole.join(part.take()?).ok()?;
        }
        Some(whole)
    }
}

/// What was delivered: let go, and told, when the last `Bytes` of it is dropped.
struct Held {
    delivery: DeliveryIndex,
    data: Slot,
    feedback: UnboundedSender<Feedback>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The memory is free before that is told.
        drop(std::mem::take(&mut self.data));
        // Without a driver nobody counts any more.
        drop(self.feedback.send(Feedback::Released(self.delivery)));
    }
}

/// The delivery's bytes; dropping the last reference to them lets their memory go.
pub(super) fn hold(
    delivery: DeliveryIndex,
    data: Slot,
    feedback: UnboundedSender<Feedback>,
) -> Bytes {
    Bytes::from_owner(Held { delivery, data, feedback })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_in_place_and_buffers_come_back() {
        let pool = Buffers::new(700 << 10);
        let memory = pool.take(100_000);
        let address = memory.as_ptr();
        let slot = |range, direct| plan::Slot { range, direct };
        let slots = [slot(0..30, true), slot(30..60, false), slot(60..100_000, true)];
        let slots = slots.into_iter().collect();
        let mut filling = Filling::new(memory, &slots);
        let last = SlotIndex::at(2);
        let mut piece = filling.lend(last).unwrap();
        assert!(filling.lend(last).is_none(), "a slot has one owner");
        piece.fill(3);
        filling.restore(last, piece);
        let scatter = Scatter {
            slot: filling.share(SlotIndex::at(1)).unwrap(),
            start: 30,
            cut: ShardSlice::whole(100_000),
            rect: Rect { start: 30, rows: 1, width: 30, stride: 100_000 },
        };
        assert!(scatter.fill(&[2; 30]) && !scatter.fill(&[2; 29]));
        let whole = filling.join().unwrap();
        assert_eq!(whole.as_ptr(), address, "joined without a copy");
        assert_eq!(&whole[28..62], [&[0; 2][..], &[2; 30], &[3; 2]].concat());

        let (feedback, mut told) = tokio::sync::mpsc::unbounded_channel();
        let delivery = DeliveryIndex::at(7);
        let bytes = hold(delivery, whole, feedback);
        assert_eq!(bytes.len(), 100_000);
        drop(bytes.clone());
        assert!(told.try_recv().is_err());
        drop(bytes);
        assert!(matches!(told.try_recv(), Ok(Feedback::Released(told)) if told == delivery));
        assert_eq!(pool.take(100_000).as_ptr(), address, "used again");
    }
}
