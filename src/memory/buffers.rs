//! Memory that is used again: fresh pages cost the system as much as hashing what they hold.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pages::Block;
use super::slot::{HostMemory, NoMemory, Slot, SlotProvider};

/// Larger buffers go back to the system: their bytes may be needed in another size.
const MAX_KEPT: usize = 64 << 20;
/// Buffers from this size on have somewhat more room than asked, so that runs of about one size take
/// turns in them. Memory that nobody touches costs nothing.
const ROUNDED: usize = 256 << 10;

/// Smaller buffers are the allocator's: it uses them again itself, and among thousands of them nobody would
/// look for one.
const SMALL: usize = 64 << 10;

/// Memory of one kind that nobody uses at the moment. Clones share it.
pub(crate) struct Spare<M> {
    kept: Arc<Mutex<Vec<M>>>,
    limit: usize,
}

impl<M: HostMemory> Spare<M> {
    /// Keeps at most `limit` bytes; with 0, none is ever used again.
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: Arc::default(), limit }
    }

    /// The smallest that has `len` bytes, and at most about twice `room`; of several the one that was used last.
    pub(crate) fn take(&self, len: usize, room: usize) -> Option<M> {
        let fits = |size: usize| size >= len && size / 2 <= room;
        let mut kept = self.lock();
        let sizes = kept.iter().map(|memory| memory.bytes().len()).enumerate().rev();
        let best = sizes.filter(|(_, size)| fits(*size)).min_by_key(|(_, size)| *size);
        best.map(|(at, _)| kept.remove(at))
    }

    /// The same memory, which comes back once the last slot of it is dropped.
    pub(crate) fn lent(&self, memory: M) -> impl HostMemory + use<M> {
        Lent { memory: Some(memory), home: self.clone() }
    }

    /// Takes memory back; the oldest makes room.
    fn give(&self, memory: M) {
        let size = |memory: &M| memory.bytes().len();
        if size(&memory) == 0 || size(&memory) > MAX_KEPT {
            return;
        }
        let mut kept = self.lock();
        kept.push(memory);
        let mut total: usize = kept.iter().map(size).sum();
        while total > self.limit && !kept.is_empty() {
            total -= size(&kept.remove(0));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<M>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Clone for Spare<M> {
    fn clone(&self) -> Self {
        Self { kept: self.kept.clone(), limit: self.limit }
    }
}

impl<M> fmt::Debug for Spare<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Memory while slots of it are about.
struct Lent<M: HostMemory> {
    /// `None` only while it is dropped.
    memory: Option<M>,
    home: Spare<M>,
}

// SAFETY: the bytes are those of the memory, which stays until the drop, when no slot of it is left.
unsafe impl<M: HostMemory> HostMemory for Lent<M> {
    fn bytes(&self) -> NonNull<[u8]> {
        self.memory.as_ref().map_or_else(|| NonNull::from(&mut []), M::bytes)
    }
}

impl<M: HostMemory> Drop for Lent<M> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.home.give(memory);
        }
    }
}

/// Buffers of the heap that nobody uses at the moment. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers(Spare<Block>);

impl Buffers {
    /// Keeps at most `limit` bytes while they are unused; with 0, buffers are never used again.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Spare::new(limit))
    }

    /// A slot of `len` bytes, whatever they hold; its pages are there. From 64 KiB on it begins at a block, and its
    /// memory comes back once the last slot of it is dropped; the buffer that was used last is taken first.
    pub(crate) fn take(&self, len: usize) -> Slot {
        let mut slot = self.lend(len);
        slot.touch();
        slot
    }

    /// The same, whose pages may be missing: whoever fills a part of it makes them
    /// ([`Slot::touch`]).
    pub(crate) fn lend(&self, len: usize) -> Slot {
        if len < SMALL {
            return Slot::new(Block::small(len));
        }
        let room = match self.0.limit > 0 && (ROUNDED..=MAX_KEPT).contains(&len) {
            // A quarter more at most.
            true => len.next_multiple_of(len.next_power_of_two() / 8),
            false => len,
        };
        let mut slot = match self.0.take(len, room) {
            Some(block) => Slot::new(self.0.lent(block)),
            None => Slot::fresh(self.0.lent(Block::new(room))),
        };
        drop(slot.split_off(len));
        slot
    }
}

impl SlotProvider for Buffers {
    fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
        Ok(Self::lend(self, len))
    }
}

// SAFETY: a block's bytes are initialized and do not move with it; nobody else has it.
unsafe impl HostMemory for Block {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::pages::BLOCK;
    use bytes::Bytes;

    #[test]
    fn memory_comes_back_when_the_last_reference_goes() {
        let buffers = Buffers::new(700 << 10);
        let mut slot = buffers.take(400_000);
        assert_eq!(slot.len(), 400_000);
        let address = slot.as_ptr();
        assert_eq!(address.align_offset(BLOCK), 0);
        let rest = slot.split_off(3);
        let bytes = Bytes::from(slot);
        assert_eq!(bytes.len(), 3);
        drop(rest);
        let clone = bytes.clone();
        drop(bytes);
        assert_ne!(buffers.take(400_000).as_ptr(), address);
        drop(clone);
        let again = buffers.take(430_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 430_000));
        drop(again);
        assert_eq!(buffers.take(448 << 10).as_ptr(), address, "rounded, and whole again");
    }

    #[test]
    fn small_buffers_take_no_room_beside_their_bytes() {
        let buffers = Buffers::new(64 << 20);
        drop(buffers.take(SMALL - 1));
        assert!(buffers.0.lock().is_empty(), "it is the allocator's");
        drop(buffers.take(SMALL));
        assert_eq!(buffers.0.lock().len(), 1);
        assert_eq!(buffers.take(0).len(), 0);
    }

    #[test]
    fn the_oldest_make_room_and_nothing_is_kept_without_a_limit() {
        let buffers = Buffers::new(1000);
        buffers.0.give(Block::new(600));
        buffers.0.give(Block::new(500));
        assert_eq!(buffers.0.lock().len(), 1);
        let none = Buffers::new(0);
        drop(none.take(600));
        assert!(none.0.lock().is_empty());
        assert_eq!(none.take(400_000).len(), 400_000);
    }
}
