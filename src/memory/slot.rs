//! Memory that a destination lends for bytes to arrive in: exclusive, divided and joined without a copy.
//!
//! A slot is the only way to its bytes, whatever the memory is: the heap's, pinned for a device, or the
//! caller's own. The memory is let go when the last slot of it is. The one place with `unsafe` for it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::pages;
use crate::chunk::verified::{Divisible, OwnedBytes};

/// Memory that can be lent.
///
/// # Safety
///
/// `bytes` gives the same initialized bytes at every call until the value is dropped, and from the moment
/// when a slot was made of the value, nobody reads or writes them but through slots.
pub unsafe trait HostMemory: Send + Sync + 'static {
    /// Where it is.
    fn bytes(&self) -> NonNull<[u8]>;
}

/// A part of lent memory, and nobody else's.
pub struct Slot {
    /// `None` only where there are no bytes.
    memory: Option<Arc<dyn HostMemory>>,
    start: NonNull<u8>,
    len: usize,
    /// Whether its pages were never touched.
    fresh: bool,
}

// SAFETY: a slot's bytes are reached through it alone, as a `Vec`'s are.
unsafe impl Send for Slot {}
// SAFETY: `&Slot` gives nothing but `&[u8]`.
unsafe impl Sync for Slot {}
// SAFETY: its bytes are written through `&mut` alone.
unsafe impl OwnedBytes for Slot {}

impl Slot {
    /// All of `memory`.
    pub fn new(memory: impl HostMemory) -> Self {
        let bytes = memory.bytes();
        Self { start: bytes.cast(), len: bytes.len(), memory: Some(Arc::new(memory)), fresh: false }
    }

    /// The same, whose pages were never touched.
    pub(super) fn fresh(memory: impl HostMemory) -> Self {
        Self { fresh: true, ..Self::new(memory) }
    }

    /// Takes the bytes from `at` on, or none where there are no more.
    pub fn split_off(&mut self, at: usize) -> Self {
        let at = at.min(self.len);
        // SAFETY: `at` is within the slot's bytes, or right behind them.
        let start = unsafe { self.start.add(at) };
        let len = self.len - at;
        self.len = at;
        Self { memory: self.memory.clone(), start, len, fresh: self.fresh }
    }

    /// Takes the first `at` bytes.
    pub fn split_to(&mut self, at: usize) -> Self {
        let rest = self.split_off(at);
        std::mem::replace(self, rest)
    }

    /// Joins the slot with the one that lies right behind it, which is given back if it does not.
    ///
    /// # Errors
    /// If it does not: the next one, as it was.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if next.len == 0 {
            return Ok(());
        }
        if self.len == 0 {
            *self = next;
            return Ok(());
        }
        let same = match (&self.memory, &next.memory) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        // SAFETY: the end of a slot is within its memory, or right behind it.
        if !same || unsafe { self.start.add(self.len) } != next.start {
            return Err(next);
        }
        self.len += next.len;
        self.fresh &= next.fresh;
        Ok(())
    }

    /// Makes the pages, if they were never touched, in one call.
    pub(crate) fn touch(&mut self) {
        if self.take_fresh() {
            pages::populate(self);
        }
    }

    /// Whether its pages were never touched; whoever asks makes them.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }
}

/// A destination, which lends the memory that tensors arrive in: what is raw comes from the socket straight
/// into it, what is encoded is decoded into it, and what is delivered lies in it.
pub trait SlotProvider: Send + Sync + fmt::Debug {
    /// Memory of exactly `len` bytes, for one delivery. It is the load's until it is delivered, and then
    /// the consumer's; the last reference that is dropped lets it go.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn lend(&self, len: usize) -> Result<Slot, NoMemory>;
}

/// A destination has no memory for a delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no memory for {len} bytes: {why}")]
pub struct NoMemory {
    /// Bytes that were asked for.
    pub len: usize,
    /// What the destination says.
    pub why: String,
}

impl Default for Slot {
    /// No bytes.
    fn default() -> Self {
        Self { memory: None, start: NonNull::dangling(), len: 0, fresh: false }
    }
}

impl AsMut<[u8]> for Slot {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Divisible for Slot {
    fn divide(&mut self, at: usize) -> Self {
        self.split_to(at)
    }

    fn rejoin(&mut self, next: Self) {
        // What is not behind it is let go.
        drop(self.join(next));
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialized, alive as long as `memory`, and written only through `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialized, alive as long as `memory`, and in no other slot.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Slot> for Bytes {
    fn from(slot: Slot) -> Self {
        Bytes::from_owner(slot)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::buffers::Buffers;

    #[test]
    fn parts_are_joined_where_they_lay() {
        let buffers = Buffers::new(1 << 20);
        let mut whole = buffers.take(100);
        let address = whole.as_ptr();
        let mut tail = whole.split_off(60);
        let mut middle = whole.split_off(30);
        whole.fill(1);
        middle.fill(2);
        tail.fill(3);
        let middle = whole.join(tail).map_or_else(|tail| (tail, middle), |()| unreachable!());
        let (tail, middle) = middle;
        whole.join(middle).unwrap();
        whole.join(tail).unwrap();
        assert_eq!((whole.as_ptr(), whole.len()), (address, 100));
        assert_eq!(whole[28..62], [&[1; 2][..], &[2; 30], &[3; 2]].concat());
        let other = buffers.take(10);
        assert_eq!(whole.join(other).unwrap_err().len(), 10, "of other memory");
        let first = whole.split_to(7);
        assert_eq!((first.len(), whole.len()), (7, 93));
        let mut none = Slot::default();
        none.join(first).unwrap();
        assert!(none.len() == 7 && whole.split_off(200).is_empty());
    }
}
