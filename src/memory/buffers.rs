//! Memory that is used again: fresh pages cost the system as much as hashing what they hold.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

use super::pages;
use super::slot::{HostMemory, NoMemory, Slot, SlotProvider};

/// Larger buffers go back to the system: their bytes may be needed in another size.
const MAX_KEPT: usize = 64 << 20;
/// Buffers from this size on have somewhat more room than asked, so that runs of about one size take
/// turns in them. Memory that nobody touches costs nothing.
const ROUNDED: usize = 256 << 10;

/// Buffers that nobody uses at the moment. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    kept: Arc<Mutex<Vec<BytesMut>>>,
    limit: usize,
}

impl Buffers {
    /// Keeps at most `limit` bytes while they are unused; with 0, buffers are never used again.
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: Arc::default(), limit }
    }

    /// A slot of `len` bytes, whatever they hold, which begins at a block; its pages are there. Its memory
    /// comes back once the last slot of it is dropped; the buffer that was used last is taken first.
    pub(crate) fn take(&self, len: usize) -> Slot {
        let mut slot = self.lend(len);
        slot.touch();
        slot
    }

    /// The same, whose pages may be missing: whoever fills a part of it makes them
    /// ([`Slot::touch`]).
    pub(crate) fn lend(&self, len: usize) -> Slot {
        let reused = self.limit > 0;
        let room = match reused && (ROUNDED..=MAX_KEPT).contains(&len) {
            // A quarter more at most.
            true => len.next_multiple_of(len.next_power_of_two() / 8),
            false => len,
        };
        let fits = |buffer: &BytesMut| buffer.len() >= len && buffer.len() / 2 <= room;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let best = kept.iter().enumerate().rev().filter(|(_, buffer)| fits(buffer));
        let best = best.min_by_key(|(_, buffer)| buffer.len()).map(|(at, _)| at);
        let found = best.map(|at| kept.remove(at));
        drop(kept);
        let mut slot = match found {
            Some(buffer) => Slot::new(Lent::new(buffer, self)),
            None => Slot::fresh(Lent::new(pages::aligned(room), self)),
        };
        drop(slot.split_off(len));
        slot
    }

    /// Takes a buffer back, whole; the oldest ones make room.
    fn give(&self, buffer: BytesMut) {
        if buffer.is_empty() || buffer.len() > MAX_KEPT {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(buffer);
        let mut total: usize = kept.iter().map(BytesMut::len).sum();
        while total > self.limit && !kept.is_empty() {
            total -= kept.remove(0).len();
        }
    }
}

impl SlotProvider for Buffers {
    fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
        Ok(Self::lend(self, len))
    }
}

/// A buffer while slots of it are about.
struct Lent {
    bytes: NonNull<[u8]>,
    buffer: BytesMut,
    home: Buffers,
}

impl Lent {
    fn new(mut buffer: BytesMut, home: &Buffers) -> Self {
        Self { bytes: NonNull::from(&mut buffer[..]), buffer, home: home.clone() }
    }
}

// SAFETY: the pointer is into the buffer, which is not looked at before the drop.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}
// SAFETY: the buffer's bytes are initialized and do not move with it; nobody else has it.
unsafe impl HostMemory for Lent {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn memory_comes_back_when_the_last_reference_goes() {
        let buffers = Buffers::new(700 << 10);
        let mut slot = buffers.take(400_000);
        assert_eq!(slot.len(), 400_000);
        let address = slot.as_ptr();
        assert_eq!(address.align_offset(pages::BLOCK), 0);
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
    fn the_oldest_make_room_and_nothing_is_kept_without_a_limit() {
        let buffers = Buffers::new(1000);
        buffers.give(BytesMut::zeroed(600));
        buffers.give(BytesMut::zeroed(500));
        assert_eq!(buffers.kept.lock().unwrap().len(), 1);
        let none = Buffers::new(0);
        drop(none.take(600));
        assert!(none.kept.lock().unwrap().is_empty());
        assert_eq!(none.take(400_000).len(), 400_000);
    }
}
