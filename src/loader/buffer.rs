//! The memory of deliveries: one allocation each, lent out in parts that are joined again without a
//! copy, and used again when the consumer lets go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedSender;

use crate::format::grid::Rect;
use crate::memory;
use crate::plan::Slot;
use crate::shard::Cut;

/// Larger buffers go back to the system: the budget may need their bytes in another size.
const MAX_KEPT: usize = 64 << 20;

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

/// Buffers that nobody uses.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    kept: Arc<Mutex<Vec<BytesMut>>>,
    limit: usize,
    /// Whether buffers come back at all, which is when huge pages pay: a hypervisor takes back free
    /// memory in just such blocks, and the first touch of one is slow.
    reuse: bool,
}

impl Pool {
    /// Keeps at most `limit` bytes, if the consumer lets go of what it gets.
    pub(super) fn new(limit: usize, reuse: bool) -> Self {
        Self { kept: Arc::default(), limit, reuse }
    }

    /// A buffer of `len` initialized bytes, whatever they are.
    pub(super) fn take(&self, len: usize) -> BytesMut {
        let fits = |buffer: &BytesMut| {
            let capacity = buffer.capacity();
            capacity >= len && capacity / 2 <= len
        };
        let mut kept = lock(&self.kept);
        let best = kept.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let best = best.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
        if let Some(at) = best {
            let mut buffer = kept.swap_remove(at);
            drop(kept);
            buffer.resize(len, 0);
            return buffer;
        }
        drop(kept);
        // Zeroed by the system, page by page when it is first touched.
        let mut buffer = BytesMut::zeroed(len);
        if self.reuse {
            memory::advise_huge_pages(&mut buffer);
        }
        buffer
    }

    /// Whether buffers have been touched before, mostly.
    pub(super) fn is_warm(&self) -> bool {
        self.reuse
    }

    /// Takes a buffer back; the oldest ones make room.
    pub(super) fn give(&self, buffer: BytesMut) {
        if buffer.capacity() > MAX_KEPT || buffer.capacity() == 0 {
            return;
        }
        let mut kept = lock(&self.kept);
        kept.push(buffer);
        let mut total: usize = kept.iter().map(BytesMut::capacity).sum();
        while total > self.limit && !kept.is_empty() {
            total -= kept.remove(0).capacity();
        }
    }
}

/// Where the bytes of a chunk go.
#[derive(Debug)]
pub(super) enum Target {
    /// All of them into this buffer, which is exactly as large and has no other owner.
    Direct { slot: u32, piece: BytesMut },
    /// Parts of them into slots that other chunks fill too.
    Scatter(Vec<Scatter>),
}

/// One use of a chunk whose bytes are copied.
#[derive(Debug)]
pub(super) struct Scatter {
    pub(super) slot: Arc<Mutex<BytesMut>>,
    /// Where the slot begins in the wanted tensor.
    pub(super) start: u64,
    pub(super) cut: Cut,
    pub(super) rect: Rect,
}

impl Scatter {
    /// Copies what is wanted of the decoded chunk. False if the plan and the bytes disagree.
    pub(super) fn fill(&self, decoded: &[u8]) -> bool {
        let mut slot = lock(&self.slot);
        for copy in self.cut.copies(self.rect) {
            let (from, to, len) =
                (copy.from as usize, (copy.to - self.start) as usize, copy.len as usize);
            let (Some(source), Some(place)) =
                (decoded.get(from..from + len), slot.get_mut(to..to + len))
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
pub(super) struct Filling {
    slots: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// The buffer of a slot that one chunk fills; away while a fetch has it.
    Direct(Option<BytesMut>),
    Shared(Arc<Mutex<BytesMut>>),
}

impl Filling {
    /// Divides `buffer`, which has exactly the bytes of the delivery.
    pub(super) fn new(mut buffer: BytesMut, slots: &[Slot]) -> Self {
        let mut parts: Vec<_> = Vec::with_capacity(slots.len());
        for slot in slots.iter().rev() {
            // Slots lie back to back in the buffer.
            let part = buffer.split_off((slot.range.start as usize).min(buffer.len()));
            parts.push(if slot.direct {
                Part::Direct(Some(part))
            } else {
                Part::Shared(Arc::new(Mutex::new(part)))
            });
        }
        parts.reverse();
        Self { slots: parts }
    }

    /// The buffer of a slot for the one fetch that fills it.
    pub(super) fn lend(&mut self, slot: u32) -> Option<BytesMut> {
        match self.slots.get_mut(slot as usize) {
            Some(Part::Direct(part)) => part.take(),
            _ => None,
        }
    }

    /// The slot that several chunks fill.
    pub(super) fn share(&self, slot: u32) -> Option<Arc<Mutex<BytesMut>>> {
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

    /// The whole again; `None` if a part is missing.
    pub(super) fn join(self) -> Option<BytesMut> {
        let mut parts = self.slots.into_iter().map(|part| match part {
            Part::Direct(part) => part,
            Part::Shared(part) => Some(std::mem::take(&mut *lock(&part))),
        });
        let Some(first) = parts.next() else { return Some(BytesMut::new()) };
        let mut whole = first?;
        for part in parts {
            whole.unsplit(part?);
        }
        Some(whole)
    }
}

/// A delivered buffer: back to the pool when the last `Bytes` of it is dropped.
struct Held {
    delivery: u32,
    buffer: BytesMut,
    pool: Pool,
    feedback: UnboundedSender<Feedback>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
        // Without a driver nobody counts any more.
        drop(self.feedback.send(Feedback::Released(self.delivery)));
    }
}

/// The delivery's bytes; dropping the last reference to them returns their memory to the load.
pub(super) fn hold(
    delivery: u32,
    buffer: BytesMut,
    pool: Pool,
    feedback: UnboundedSender<Feedback>,
) -> Bytes {
    Bytes::from_owner(Held { delivery, buffer, pool, feedback })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_in_place_and_buffers_come_back() {
        let pool = Pool::new(1000, true);
        let buffer = pool.take(100);
        let address = buffer.as_ptr();
        let slot = |range, direct| Slot { range, direct };
        let slots = [slot(0..30, true), slot(30..60, false), slot(60..100, true)];
        let mut filling = Filling::new(buffer, &slots);
        let mut piece = filling.lend(2).unwrap();
        assert!(filling.lend(2).is_none(), "a slot has one owner");
        piece.clear();
        piece.extend_from_slice(&[3; 40]);
        filling.restore(2, piece);
        let scatter = Scatter {
            slot: filling.share(1).unwrap(),
            start: 30,
            cut: Cut::whole(100),
            rect: Rect { start: 30, rows: 1, width: 30, stride: 100 },
        };
        assert!(scatter.fill(&[2; 30]) && !scatter.fill(&[2; 29]));
        let whole = filling.join().unwrap();
        assert_eq!(whole.as_ptr(), address, "joined without a copy");
        assert_eq!(&whole[28..62], [&[0; 2][..], &[2; 30], &[3; 2]].concat());

        let (feedback, mut told) = tokio::sync::mpsc::unbounded_channel();
        let bytes = hold(7, whole, pool.clone(), feedback);
        drop(bytes.clone());
        assert!(told.try_recv().is_err());
        drop(bytes);
        assert!(matches!(told.try_recv(), Ok(Feedback::Released(7))));
        assert_eq!(pool.take(90).as_ptr(), address, "used again");
        pool.give(BytesMut::zeroed(600));
        pool.give(BytesMut::zeroed(600));
        assert_eq!(lock(&pool.kept).len(), 1);
    }
}
