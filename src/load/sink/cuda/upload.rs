//! Tensors through CUDA: pinned buffers, copied by the device in the order of its stream.

use std::sync::Arc;

use bytes::Bytes;
use cudarc::driver::{CudaEvent, CudaSlice, DevicePtrMut, PinnedHostSlice};
use rayon::prelude::*;

use super::super::dequant::Dequantize;
use super::super::device::DeviceError;
use super::super::upload::{Device, Staging};
use super::pinned::PinnedMemory;
use super::{Cuda, CudaParts};
use crate::dequant::{Float, Weight};
use crate::memory::slot::SlotProvider;

/// What one thread copies at a time: one alone copies a fifth of what the device takes.
const PART: usize = 512 << 10;

/// A pinned buffer.
#[derive(Debug)]
pub struct CudaStaging(PinnedHostSlice<u8>);

impl Staging for CudaStaging {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let whole = self.0.as_mut_slice();
        let whole = whole.map_err(|error| DeviceError::Internal(error.to_string()))?;
        let to = whole.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        let to = to.ok_or_else(DeviceError::beyond)?;
        let parts = to.par_chunks_mut(PART).zip(bytes.par_chunks(PART));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    }
}

/// Memory that the device reads, until the event.
#[derive(Debug)]
pub struct CudaInFlight {
    from: From,
    read: CudaEvent,
}

#[derive(Debug)]
enum From {
    Staging(PinnedHostSlice<u8>),
    /// Held until the device has read it.
    Lent {
        _bytes: Bytes,
    },
}

impl Cuda {
    /// Begins to copy `bytes` to `at` in `to`; they have been read when the event has passed.
    ///
    /// # Safety
    ///
    /// Until then they must be neither written nor freed.
    unsafe fn copy_bytes(
        &self,
        bytes: &[u8],
        to: &mut CudaSlice<u8>,
        at: u64,
    ) -> Result<CudaEvent, DeviceError> {
        let start = usize::try_from(at).ok();
        let range = start.and_then(|at| Some(at..at.checked_add(bytes.len())?));
        let range = range.filter(|range| range.end <= to.len()).ok_or_else(DeviceError::beyond)?;
        let stream = self.stream();
        {
            let mut target = to.slice_mut(range);
            let (pointer, _write) = target.device_ptr_mut(stream);
            // SAFETY: the target has room for the bytes, which stay as they are, as the caller says.
            let begun = unsafe {
                cudarc::driver::result::memcpy_htod_async(pointer, bytes, stream.cu_stream())
            };
            self.done(begun)?;
        }
        self.done(stream.record_event(None))
    }
}

impl Device for Cuda {
    type Memory = CudaSlice<u8>;
    type Staging = CudaStaging;
    type InFlight = CudaInFlight;

    fn name(&self) -> String {
        Self::name(self)
    }

    fn allocate(&self, len: u64) -> Result<CudaSlice<u8>, DeviceError> {
        self.alloc(len)
    }

    fn staging(&self, len: usize) -> Result<CudaStaging, DeviceError> {
        // SAFETY: the bytes are written before anybody reads them: a copy takes what was filled.
        // Not write-combined, so that whoever reads them here is not slow either.
        let pinned = unsafe { self.context().alloc_pinned_with_flags::<u8>(len, 0) };
        let mut pinned = self.done(pinned)?;
        self.done(pinned.as_mut_slice())?.fill(0);
        Ok(CudaStaging(pinned))
    }

    fn copy(
        &self,
        from: CudaStaging,
        len: usize,
        to: &mut CudaSlice<u8>,
        at: u64,
    ) -> Result<CudaInFlight, DeviceError> {
        let bytes = self.done(from.0.as_slice())?;
        let bytes = bytes.get(..len).ok_or_else(DeviceError::beyond)?;
        // SAFETY: the bytes are pinned, belong to the value returned, and are neither written nor freed
        // before `read` has passed.
        let read = unsafe { self.copy_bytes(bytes, to, at)? };
        Ok(CudaInFlight { from: From::Staging(from.0), read })
    }

    fn lender(&self) -> Option<Arc<dyn SlotProvider>> {
        Some(Arc::new(PinnedMemory::new(self.context().clone())))
    }

    fn copy_lent(
        &self,
        from: Bytes,
        to: &mut CudaSlice<u8>,
        at: u64,
    ) -> Result<CudaInFlight, DeviceError> {
        // SAFETY: the bytes belong to the value returned, and are not freed before `read` has passed;
        // nobody writes what is shared.
        let read = unsafe { self.copy_bytes(&from, to, at)? };
        Ok(CudaInFlight { from: From::Lent { _bytes: from }, read })
    }

    fn complete(&self, flying: CudaInFlight) -> Result<Option<CudaStaging>, DeviceError> {
        self.done(flying.read.synchronize())?;
        Ok(match flying.from {
            From::Staging(buffer) => Some(CudaStaging(buffer)),
            From::Lent { .. } => None,
        })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Self::wait(self)
    }

    fn read_back(
        &self,
        memory: &CudaSlice<u8>,
        len: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        const STEP: u64 = 16 << 20;
        let mut bytes = vec![0; len.min(STEP) as usize];
        let mut at = 0;
        while at < len {
            let part = (len - at).min(STEP) as usize;
            let view = memory.try_slice(at as usize..at as usize + part);
            let view = view.ok_or(DeviceError::Internal("a read beyond a tensor".to_owned()))?;
            let bytes = bytes.get_mut(..part).unwrap_or_default();
            self.done(self.stream().memcpy_dtoh(&view, bytes))?;
            self.done(self.stream().synchronize())?;
            take(bytes);
            at += part as u64;
        }
        Ok(())
    }
}

impl Dequantize for Cuda {
    fn dequantize_parts(
        &self,
        weight: &Weight,
        parts: [Option<CudaSlice<u8>>; 5],
        out: Float,
    ) -> Result<CudaSlice<u8>, DeviceError> {
        self.dequantize(weight, &CudaParts(parts), out)
    }

    fn convert(
        &self,
        memory: CudaSlice<u8>,
        elements: u64,
        from: Float,
        to: Float,
    ) -> Result<CudaSlice<u8>, DeviceError> {
        Self::convert(self, &memory, elements, from, to)
    }
}
