//! Tensors through wgpu: mapped buffers, copied by the device. A tensor larger than the device's
//! largest buffer is several.
//!
//! Mapped memory is not lent to loads: it may only be written, and what is verified must be read. A tensor
//! is copied into it once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::dequant::Dequantize;
use super::super::device::DeviceError;
use super::super::upload::{Device, Staging};
use super::{Gpu, GpuMemory, GpuParts};
use crate::dequant::{Float, Part, QuantError, Weight};

/// A buffer that is mapped.
#[derive(Debug)]
pub struct GpuStaging {
    buffer: wgpu::Buffer,
    len: usize,
}

impl Staging for GpuStaging {
    fn len(&self) -> usize {
        self.len
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return Err(DeviceError::beyond());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        // Mapped ranges begin and end on multiples of 8 and 4.
        let (start, end) = (at / 8 * 8, (at + bytes.len()).next_multiple_of(4));
        let mut view = self
            .buffer
            .get_mapped_range_mut(start as u64..end as u64)
            .map_err(|error| DeviceError::Internal(error.to_string()))?;
        view.slice(at - start..at - start + bytes.len()).copy_from_slice(bytes);
        Ok(())
    }
}

/// A buffer that the device reads, and that is mapped again when it has.
#[derive(Debug)]
pub struct GpuInFlight {
    buffer: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: Arc<AtomicBool>,
}

impl Device for Gpu {
    type Memory = GpuMemory;
    type Staging = GpuStaging;
    type InFlight = GpuInFlight;

    fn name(&self) -> String {
        Self::name(self)
    }

    fn allocate(&self, len: u64) -> Result<GpuMemory, DeviceError> {
        let segment = self.segment();
        if segment == 0 {
            return Err(DeviceError::TooLarge { what: "a tensor", len, limit: segment });
        }
        let mut buffers = Vec::new();
        let mut at = 0;
        loop {
            let size = (len - at).min(segment);
            buffers.push(self.alloc(size)?);
            at += size;
            if at >= len {
                return Ok(GpuMemory { buffers, segment });
            }
        }
    }

    fn staging(&self, len: usize) -> Result<GpuStaging, DeviceError> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        Ok(GpuStaging { buffer: self.buffer(len as u64, usage, true)?, len })
    }

    fn copy(
        &self,
        from: GpuStaging,
        len: usize,
        to: &mut GpuMemory,
        at: u64,
    ) -> Result<GpuInFlight, DeviceError> {
        if len > from.len || !at.is_multiple_of(256) {
            return Err(DeviceError::Internal("a copy that a buffer does not hold".to_owned()));
        }
        let mapped = Arc::<AtomicBool>::default();
        let flag = mapped.clone();
        let buffer = from.buffer;
        let submission = self.scoped(|| {
            buffer.unmap();
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            let (mut done, len) = (0, len as u64);
            while done < len {
                let (number, within) = ((at + done) / to.segment, (at + done) % to.segment);
                let part = (len - done).min(to.segment - within);
                let Some(target) = to.buffers.get(number as usize) else { break };
                // Buffers have room behind the tensor's end.
                let size = part.next_multiple_of(4);
                encoder.copy_buffer_to_buffer(&buffer, done, target, within, size);
                done += part;
            }
            let submission = self.0.queue.submit([encoder.finish()]);
            buffer.slice(..).map_async(wgpu::MapMode::Write, move |result| {
                flag.store(result.is_ok(), Ordering::Release);
            });
            submission
        })?;
        Ok(GpuInFlight { buffer, submission, mapped })
    }

    fn complete(&self, flying: GpuInFlight) -> Result<Option<GpuStaging>, DeviceError> {
        let wait =
            wgpu::PollType::Wait { submission_index: Some(flying.submission), timeout: None };
        let polled = self.0.device.poll(wait);
        self.alive()?;
        polled.map_err(|error| DeviceError::Internal(error.to_string()))?;
        if !flying.mapped.load(Ordering::Acquire) {
            return Err(DeviceError::Internal("a buffer is not mapped again".to_owned()));
        }
        let len = flying.buffer.size() as usize;
        Ok(Some(GpuStaging { buffer: flying.buffer, len }))
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Self::wait(self)
    }

    fn read_back(
        &self,
        memory: &GpuMemory,
        len: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let mut left = len;
        for buffer in &memory.buffers {
            let part = left.min(memory.segment);
            self.read_parts(buffer, part, take)?;
            left -= part;
        }
        if left > 0 {
            return Err(DeviceError::Internal("a read beyond a tensor".to_owned()));
        }
        Ok(())
    }
}

impl Dequantize for Gpu {
    fn dequantize_parts(
        &self,
        weight: &Weight,
        parts: [Option<GpuMemory>; 5],
        out: Float,
    ) -> Result<GpuMemory, DeviceError> {
        let mut bound = [const { None }; 5];
        for ((to, memory), part) in bound.iter_mut().zip(parts).zip(Part::ALL) {
            let Some(memory) = memory else { continue };
            let whole = memory.whole().cloned();
            let (len, limit) = (weight.part_len(part), self.buffer_limit());
            *to = Some(whole.ok_or(QuantError::TooLarge { part, len, limit })?);
        }
        self.dequantize(weight, &GpuParts(bound), out).map(GpuMemory::from)
    }

    fn convert(
        &self,
        memory: GpuMemory,
        elements: u64,
        from: Float,
        to: Float,
    ) -> Result<GpuMemory, DeviceError> {
        Self::convert(self, &memory, elements, from, to)
    }
}
