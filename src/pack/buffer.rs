//! Memory that is used again: fresh pages cost the system as much as hashing what they hold.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Buffers of about one size. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Buffers {
    free: Arc<Mutex<Vec<BytesMut>>>,
    capacity: usize,
    keep: usize,
}

impl Buffers {
    /// Buffers with room for `capacity` bytes, of which at most `keep` are kept while unused.
    pub(super) fn new(capacity: usize, keep: usize) -> Self {
        Self { free: Arc::default(), capacity, keep }
    }

    /// An empty buffer with at least the capacity.
    pub(super) fn take(&self) -> BytesMut {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| {
            let mut buffer = BytesMut::zeroed(self.capacity);
            buffer.clear();
            buffer
        })
    }

    /// The buffer's bytes. Their memory is used again once the last reference is dropped.
    pub(super) fn share(&self, buffer: BytesMut) -> Bytes {
        Bytes::from_owner(Shared { buffer, home: self.clone() })
    }
}

struct Shared {
    buffer: BytesMut,
    home: Buffers,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.home.keep {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_reference_goes() {
        let buffers = Buffers::new(1000, 1);
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"x");
        let address = buffer.as_ptr();
        let bytes = buffers.share(buffer);
        let clone = bytes.clone();
        drop(bytes);
        assert_ne!(buffers.take().as_ptr(), address);
        drop(clone);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }
}
