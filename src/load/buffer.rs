//! The memory of deliveries: one allocation each, lent out in parts that are joined again without a
//! copy, and used again when the consumer lets go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedSender;

use super::links::{Kept, Links};
use crate::chunk::codec::{self, DecodeError};
use crate::chunk::verified::VerifiedChunk;
use crate::format::grid::Rect;
use crate::format::limits::MAX_CHUNK;
use crate::format::record::CodecId;
use crate::memory::pages;
use crate::schedule::plan::Slot;
use crate::schedule::shard::ShardSlice;

/// What the consumer tells the driver.
#[derive(Debug)]
pub(super) enum Feedback {
    Taken(u32),
    Released(u32),
}

/// A lock whose holder cannot panic halfway: copying bytes only.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the bytes of a chunk go.
#[derive(Debug)]
pub(super) enum Target {
    /// All of them into this buffer, which is exactly as large and has no other owner.
    Direct { slot: u32, piece: BytesMut },
    /// Parts of them into slots that other chunks fill too.
    Scatter(Vec<Scatter>),
    /// Kept until all that it is decoded with is there, then where it belongs; bases belong nowhere.
    Linked { links: Arc<Links>, fills: Option<Box<Target>> },
}

impl Target {
    /// Decodes a chunk into its place. `Ok(false)`: the plan and the bytes disagree.
    pub(super) fn fill(
        &mut self,
        chunk: &VerifiedChunk,
        base: Option<&[u8]>,
        scratch: &Scratch,
        kept: &Kept,
    ) -> Result<bool, DecodeError> {
        let keep = |decoded: &[u8]| kept.offer(chunk.record(), decoded);
        match self {
            Self::Direct { piece, .. } => {
                piece.clear();
                codec::decode(chunk, base, piece)?;
                keep(piece);
                Ok(true)
            }
            Self::Scatter(uses) if chunk.record().codec == CodecId::RAW => {
                keep(chunk.stored());
                Ok(uses.iter().all(|to| to.fill(chunk.stored())))
            }
            Self::Scatter(uses) => {
                let mut decoded = scratch.take();
                let placed = codec::decode(chunk, base, &mut decoded).map(|()| {
                    keep(&decoded);
                    uses.iter().all(|to| to.fill(&decoded))
                });
                scratch.give(decoded);
                placed
            }
            Self::Linked { .. } => Ok(false),
        }
    }
}

/// A slot that several chunks fill.
#[derive(Debug)]
pub(super) struct SharedSlot {
    bytes: BytesMut,
    /// Whether its pages are there, mostly.
    warm: bool,
}

/// One use of a chunk whose bytes are copied.
#[derive(Debug)]
pub(super) struct Scatter {
    pub(super) slot: Arc<Mutex<SharedSlot>>,
    /// Where the slot begins in the wanted tensor.
    pub(super) start: u64,
    pub(super) cut: ShardSlice,
    pub(super) rect: Rect,
}

impl Scatter {
    /// Copies what is wanted of the decoded chunk. False if the plan and the bytes disagree.
    pub(super) fn fill(&self, decoded: &[u8]) -> bool {
        let mut slot = lock(&self.slot);
        let SharedSlot { bytes, warm } = &mut *slot;
        if !std::mem::replace(warm, true) {
            pages::populate(bytes);
        }
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

/// Room for chunks that are not read where they belong.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch(Arc<Mutex<Vec<BytesMut>>>);

impl Scratch {
    /// An empty buffer with room for any chunk.
    pub(super) fn take(&self) -> BytesMut {
        lock(&self.0).pop().unwrap_or_else(|| BytesMut::with_capacity(MAX_CHUNK as usize))
    }

    /// Takes a buffer back; there are never more than were in use at a time.
    pub(super) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.capacity() >= MAX_CHUNK as usize {
            lock(&self.0).push(buffer);
        }
    }
}

/// A delivery that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    slots: Vec<Part>,
    /// The buffer's room beyond the delivery.
    rest: BytesMut,
}

#[derive(Debug)]
enum Part {
    /// The buffer of a slot that one chunk fills; away while a fetch has it.
    Direct(Option<BytesMut>),
    Shared(Arc<Mutex<SharedSlot>>),
}

impl Filling {
    /// Divides `buffer`, which has at least the bytes of the delivery; `warm` if its pages are there.
    pub(super) fn new(mut buffer: BytesMut, slots: &[Slot], warm: bool) -> Self {
        let len = slots.last().map_or(0, |slot| slot.range.end as usize);
        let rest = buffer.split_off(len.min(buffer.len()));
        let mut parts: Vec<_> = Vec::with_capacity(slots.len());
        for slot in slots.iter().rev() {
            // Slots lie back to back in the buffer.
            let part = buffer.split_off((slot.range.start as usize).min(buffer.len()));
            parts.push(if slot.direct {
                Part::Direct(Some(part))
            } else {
                Part::Shared(Arc::new(Mutex::new(SharedSlot { bytes: part, warm })))
            });
        }
        parts.reverse();
        Self { slots: parts, rest }
    }

    /// The buffer of a slot for the one fetch that fills it.
    pub(super) fn lend(&mut self, slot: u32) -> Option<BytesMut> {
        match self.slots.get_mut(slot as usize) {
            Some(Part::Direct(part)) => part.take(),
            _ => None,
        }
    }

    /// The slot that several chunks fill.
    pub(super) fn share(&self, slot: u32) -> Option<Arc<Mutex<SharedSlot>>> {
        match self.slots.get(slot as usize) {
            Some(Part::Shared(part)) => Some(part.clone()),
            _ => None,
        }
    }

    /// Takes back what [`Self::lend`] gave.
    pub(super) fn restore(&mut self, slot: u32, buffer: BytesMut) {
        if let Some(Part::Direct(part)) = self.slots.get_mut(slot as usize) {
            *part = Some(buffer);
        }
    }

    /// The whole again, with the room beyond the delivery; `None` if a part is missing.
    pub(super) fn join(self) -> Option<BytesMut> {
        let mut whole = BytesMut::new();
        for part in self.slots {
            let part = match part {
                Part::Direct(part) => part?,
                Part::Shared(part) => std::mem::take(&mut lock(&part).bytes),
            };
            whole.unsplit(part);
        }
        whole.unsplit(self.rest);
        Some(whole)
    }
}

/// What was delivered: back to its buffers, and told, when the last `Bytes` of it is dropped.
struct Held {
    delivery: u32,
    data: Bytes,
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

/// The delivery's bytes, shared from the load's buffers; dropping the last reference to them returns their
/// memory to the load.
pub(super) fn hold(delivery: u32, data: Bytes, feedback: UnboundedSender<Feedback>) -> Bytes {
    Bytes::from_owner(Held { delivery, data, feedback })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::buffers::Buffers;

    #[test]
    fn parts_join_in_place_and_buffers_come_back() {
        let pool = Buffers::new(700 << 10);
        let buffer = pool.take(400_000);
        let address = buffer.as_ptr();
        let slot = |range, direct| Slot { range, direct };
        let slots = [slot(0..30, true), slot(30..60, false), slot(60..100, true)];
        let mut filling = Filling::new(buffer, &slots, false);
        let mut piece = filling.lend(2).unwrap();
        assert!(filling.lend(2).is_none(), "a slot has one owner");
        piece.clear();
        piece.extend_from_slice(&[3; 40]);
        filling.restore(2, piece);
        let scatter = Scatter {
            slot: filling.share(1).unwrap(),
            start: 30,
            cut: ShardSlice::whole(100),
            rect: Rect { start: 30, rows: 1, width: 30, stride: 100 },
        };
        assert!(scatter.fill(&[2; 30]) && !scatter.fill(&[2; 29]));
        let whole = filling.join().unwrap();
        assert_eq!(whole.as_ptr(), address, "joined without a copy");
        assert_eq!(&whole[28..62], [&[0; 2][..], &[2; 30], &[3; 2]].concat());

        let (feedback, mut told) = tokio::sync::mpsc::unbounded_channel();
        let bytes = hold(7, pool.share(whole, 100), feedback);
        assert_eq!(bytes.len(), 100);
        drop(bytes.clone());
        assert!(told.try_recv().is_err());
        drop(bytes);
        assert!(matches!(told.try_recv(), Ok(Feedback::Released(7))));
        assert_eq!(pool.take(400_000).as_ptr(), address, "used again");
    }
}
