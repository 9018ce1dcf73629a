//! Pinned memory as the destination of a load: what arrives is verified where the device copies it from.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, PinnedHostSlice};

use crate::memory::buffers::Buffers;
use crate::memory::slot::{HostMemory, NoMemory, Slot, SlotProvider};

/// The most that is kept of memory that nobody uses, and the largest part that is pinned: to pin memory
/// costs more than to copy it once, if it is not used again.
const KEPT: usize = 64 << 20;
/// Memory is pinned in multiples of this, so that it fits what is about as large.
const STEP: usize = 1 << 20;

type Kept = Arc<Mutex<Vec<PinnedHostSlice<u8>>>>;

/// Lends pinned memory, and heap memory to what is too large for it.
#[derive(Debug)]
pub(super) struct PinnedMemory {
    context: Arc<CudaContext>,
    kept: Kept,
    heap: Buffers,
}

impl PinnedMemory {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self { context, kept: Kept::default(), heap: Buffers::new(0) }
    }
}

impl SlotProvider for PinnedMemory {
    fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
        if len > KEPT {
            return Ok(self.heap.take(len));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |pinned: &PinnedHostSlice<u8>| pinned.len() >= len && pinned.len() / 2 <= len;
        let found = kept.iter().position(fits).map(|at| kept.remove(at));
        drop(kept);
        let failed = |error: &dyn ToString| NoMemory { len, why: error.to_string() };
        let pinned = match found {
            Some(pinned) => pinned,
            None => {
                let room = len.max(1).next_multiple_of(STEP);
                // SAFETY: the bytes are set below, before anybody reads them. Not write-combined: what is
                // verified is read here.
                let pinned = unsafe { self.context.alloc_pinned_with_flags::<u8>(room, 0) };
                let mut pinned = pinned.map_err(|error| failed(&error))?;
                pinned.as_mut_slice().map_err(|error| failed(&error))?.fill(0);
                pinned
            }
        };
        let lent = Lent::new(pinned, self.kept.clone()).map_err(|error| failed(&error))?;
        let mut slot = Slot::new(lent);
        drop(slot.split_off(len));
        Ok(slot)
    }
}

/// Pinned memory while slots of it are about.
struct Lent {
    bytes: NonNull<[u8]>,
    pinned: Option<PinnedHostSlice<u8>>,
    home: Kept,
}

impl Lent {
    fn new(
        mut pinned: PinnedHostSlice<u8>,
        home: Kept,
    ) -> Result<Self, cudarc::driver::DriverError> {
        let bytes = NonNull::from(pinned.as_mut_slice()?);
        Ok(Self { bytes, pinned: Some(pinned), home })
    }
}

// SAFETY: the pointer is into the pinned memory, which is not looked at before the drop.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}
// SAFETY: pinned memory is initialized, and does not move with its owner; nobody else has it.
unsafe impl HostMemory for Lent {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(pinned) = self.pinned.take() else { return };
        let mut kept = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(pinned);
        let mut total: usize = kept.iter().map(PinnedHostSlice::len).sum();
        while total > KEPT && !kept.is_empty() {
            total -= kept.remove(0).len();
        }
    }
}
