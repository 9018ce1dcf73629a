//! Memory that is used again: fresh pages cost the system as much as hashing what they hold.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::memory::pages;

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

    /// Whether buffers have been touched before, mostly.
    pub(crate) fn are_reused(&self) -> bool {
        self.limit > 0
    }

    /// A buffer of at least `len` initialized bytes, whatever they are, which begin at a block. The
    /// one that was used last is taken first.
    pub(crate) fn take(&self, len: usize) -> BytesMut {
        let room = match self.are_reused() && (ROUNDED..=MAX_KEPT).contains(&len) {
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
        found.unwrap_or_else(|| {
            let mut fresh = pages::aligned(room);
            if self.are_reused() {
                pages::populate(&mut fresh[..len]);
            }
            fresh
        })
    }

    /// Room of exactly `len` bytes, and what its buffer has beyond them.
    pub(crate) fn take_exact(&self, len: usize) -> (BytesMut, BytesMut) {
        let mut bytes = self.take(len);
        let rest = bytes.split_off(len);
        (bytes, rest)
    }

    /// Bytes that [`Self::take_exact`] gave room for, with the rest of their buffer. It comes back
    /// once the last reference is dropped.
    pub(crate) fn share_exact(&self, mut bytes: BytesMut, rest: BytesMut) -> Bytes {
        let len = bytes.len();
        bytes.unsplit(rest);
        self.share(bytes, len)
    }

    /// Takes a buffer back, whole; the oldest ones make room.
    pub(crate) fn give(&self, buffer: BytesMut) {
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

    /// The first `len` bytes of a whole buffer. It comes back once the last reference is dropped.
    pub(crate) fn share(&self, buffer: BytesMut, len: usize) -> Bytes {
        Bytes::from_owner(Shared { buffer, len, home: self.clone() })
    }
}

struct Shared {
    buffer: BytesMut,
    len: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_reference_goes() {
        let buffers = Buffers::new(700 << 10);
        let buffer = buffers.take(400_000);
        assert_eq!(buffer.len(), 448 << 10, "rounded");
        let address = buffer.as_ptr();
        assert_eq!(address.align_offset(pages::BLOCK), 0);
        let bytes = buffers.share(buffer, 3);
        assert_eq!(bytes.len(), 3);
        let clone = bytes.clone();
        drop(bytes);
        assert_ne!(buffers.take(400_000).as_ptr(), address);
        drop(clone);
        let again = buffers.take(430_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 448 << 10));
        buffers.give(again);
        let (exact, rest) = buffers.take_exact(420_000);
        assert_eq!((exact.as_ptr(), exact.len()), (address, 420_000));
        drop(buffers.share_exact(exact, rest));
        assert_eq!(buffers.take(448 << 10).as_ptr(), address, "whole again");
    }

    #[test]
    fn the_oldest_make_room_and_nothing_is_kept_without_a_limit() {
        let buffers = Buffers::new(1000);
        buffers.give(BytesMut::zeroed(600));
        buffers.give(BytesMut::zeroed(500));
        assert_eq!(buffers.kept.lock().unwrap().len(), 1);
        let none = Buffers::new(0);
        none.give(BytesMut::zeroed(600));
        assert!(none.kept.lock().unwrap().is_empty() && !none.are_reused());
        assert_eq!(none.take(400_000).len(), 400_000);
    }
}
