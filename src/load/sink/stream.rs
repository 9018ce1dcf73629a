//! Tensors into device memory: what arrives is verified, gathered in a buffer of the ring, and on its
//! way to the device while more is fetched.
//!
//! Only pieces that the loader delivers come here, and it delivers none of a tensor before all its
//! chunks have passed: [`UploadStats`] lets a test count.

use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use super::device::DeviceError;
use super::upload::{Device, Ring, Staging};
use crate::load::Tensor;
use crate::schedule::plan::TensorRequest;

/// What copies begin at multiples of.
const ALIGN: u64 = 256;

/// How a stream uses memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamOptions {
    /// Buffers of the ring.
    pub buffers: usize,
    /// Bytes of each.
    pub buffer_size: usize,
    /// The most device memory that one tensor may take.
    pub budget: u64,
    /// Whether the load was given the device's [`Device::lender`]: then pieces are copied to the device from
    /// where they were verified.
    pub lent: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { buffers: 4, buffer_size: 4 << 20, budget: u64::MAX, lent: false }
    }
}

/// What went to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadStats {
    /// Copies begun.
    pub uploads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tensors that are whole on the device.
    pub tensors: u64,
}

/// A tensor in device memory.
#[derive(Debug)]
pub struct DeviceTensor<M> {
    /// What was wanted: name, type, shape of the part.
    pub request: Arc<TensorRequest>,
    /// Its bytes, row-major. Copies may be under way: what the device is told next comes after them.
    pub memory: M,
}

/// A tensor under way.
struct Begun<D: Device> {
    memory: D::Memory,
    buffer: Option<D::Staging>,
    /// Bytes in `buffer`.
    filled: usize,
    /// Where the buffer's bytes belong.
    at: u64,
}

/// Streams tensors into device memory.
pub struct DeviceSink<D: Device> {
    ring: Ring<D>,
    /// Whether pieces lie in memory that the device copies from.
    lends: bool,
    begun: Option<Begun<D>>,
    budget: u64,
    stats: UploadStats,
}

impl<D: Device> DeviceSink<D> {
    /// A sink for a device.
    pub fn new(device: D, options: &StreamOptions) -> Self {
        let lends = options.lent;
        let ring = Ring::new(device, options.buffers, options.buffer_size);
        Self { ring, lends, begun: None, budget: options.budget, stats: UploadStats::default() }
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.ring.device()
    }

    /// What went to the device so far.
    pub fn stats(&self) -> UploadStats {
        self.stats
    }

    pub(super) fn ring(&mut self) -> &mut Ring<D> {
        &mut self.ring
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.stats.uploads += 1;
        self.stats.bytes += bytes as u64;
    }

    /// Notes that a tensor is whole on the device.
    pub(super) fn whole(&mut self) {
        self.stats.tensors += 1;
    }

    /// Device memory for a tensor, within the budget.
    pub(super) fn room(&self, request: &TensorRequest) -> Result<D::Memory, DeviceError> {
        let len = request.cut.len();
        if len > self.budget {
            return Err(DeviceError::TooLarge { what: "a tensor", len, limit: self.budget });
        }
        self.device().allocate(len)
    }

    /// Copies what the tensor's buffer holds.
    fn flush(&mut self) -> Result<(), DeviceError> {
        let Some(begun) = &mut self.begun else { return Ok(()) };
        let Some(buffer) = begun.buffer.take() else { return Ok(()) };
        if begun.filled == 0 {
            self.ring.give(buffer);
            return Ok(());
        }
        self.ring.copy(buffer, begun.filled, &mut begun.memory, begun.at)?;
        self.stats.uploads += 1;
        self.stats.bytes += begun.filled as u64;
        begun.at += begun.filled as u64;
        begun.filled = 0;
        Ok(())
    }

    fn add(&mut self, mut bytes: &[u8]) -> Result<(), DeviceError> {
        while !bytes.is_empty() {
            let Some(begun) = &mut self.begun else {
                return Err(DeviceError::Internal("a piece of no tensor".to_owned()));
            };
            let buffer = match &mut begun.buffer {
                Some(buffer) => buffer,
                none => none.insert(self.ring.take()?),
            };
            let room = buffer.len().saturating_sub(begun.filled).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            buffer.write(begun.filled, now)?;
            begun.filled += room;
            bytes = later;
            if begun.filled == buffer.len() {
                self.flush()?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl<D: Device> Sink for DeviceSink<D> {
    type Output = DeviceTensor<D::Memory>;
    type Error = DeviceError;

    async fn begin(&mut self, request: &Arc<TensorRequest>) -> Result<(), DeviceError> {
        // What a tensor that failed left in a buffer is overwritten.
        if let Some(buffer) = self.begun.take().and_then(|begun| begun.buffer) {
            self.ring.give(buffer);
        }
        let memory = self.room(request)?;
        self.begun = Some(Begun { memory, buffer: None, filled: 0, at: 0 });
        Ok(())
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), DeviceError> {
        let Some(begun) = &mut self.begun else {
            return Err(DeviceError::Internal("a piece of no tensor".to_owned()));
        };
        if !self.lends || begun.filled > 0 || !begun.at.is_multiple_of(ALIGN) {
            return self.add(&piece.data);
        }
        let len = piece.data.len();
        self.ring.copy_lent(piece.data, &mut begun.memory, begun.at)?;
        begun.at += len as u64;
        self.count(len);
        Ok(())
    }

    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, DeviceError> {
        self.flush()?;
        let begun = self.begun.take();
        let begun = begun.ok_or(DeviceError::Internal("the end of no tensor".to_owned()))?;
        if begun.at != request.cut.len() {
            return Err(DeviceError::Internal("a tensor that ends early".to_owned()));
        }
        self.whole();
        Ok(DeviceTensor { request: request.clone(), memory: begun.memory })
    }
}
