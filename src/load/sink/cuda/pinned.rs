//! Pinned memory as the destination of a load: what arrives is verified where the device copies it from.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, PinnedHostSlice};

use crate::memory::buffers::{Buffers, Spare};
use crate::memory::slot::{HostMemory, NoMemory, Slot, SlotProvider};

/// The most that is kept of memory that nobody uses, and the largest part that is pinned: to pin memory
/// costs more than to copy it once, if it is not used again.
const KEPT: usize = 64 << 20;
/// Memory is pinned in multiples of this, so that it fits what is about as large.
const STEP: usize = 1 << 20;

/// Lends pinned memory, and heap memory to what is too large for it.
#[derive(Debug)]
pub(super) struct PinnedMemory {
    context: Arc<CudaContext>,
    spare: Spare<Pinned>,
    heap: Buffers,
}

impl PinnedMemory {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self { context, spare: Spare::new(KEPT), heap: Buffers::new(0) }
    }
}

impl SlotProvider for PinnedMemory {
    fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
        if len > KEPT {
            return Ok(self.heap.take(len));
        }
        let pinned = self.spare.take(len, len).map_or_else(|| Pinned::new(&self.context, len), Ok);
        let pinned = pinned.map_err(|error| NoMemory { len, why: error.to_string() })?;
        let mut slot = Slot::new(self.spare.lent(pinned));
        drop(slot.split_off(len));
        Ok(slot)
    }
}

/// Pinned memory that is reached through its pointer alone.
struct Pinned {
    bytes: NonNull<[u8]>,
    _memory: PinnedHostSlice<u8>,
}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DriverError> {
        let room = len.max(1).next_multiple_of(STEP);
        // SAFETY: the bytes are set below, before anybody reads them. Not write-combined: what is
        // verified is read here.
        let mut memory = unsafe { context.alloc_pinned_with_flags::<u8>(room, 0) }?;
        let bytes = memory.as_mut_slice()?;
        bytes.fill(0);
        Ok(Self { bytes: NonNull::from(bytes), _memory: memory })
    }
}

// SAFETY: the pointer is into the pinned memory, which goes with it and is not looked at.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}
// SAFETY: pinned memory is initialized, and does not move with its owner; nobody else has it.
unsafe impl HostMemory for Pinned {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }
}
