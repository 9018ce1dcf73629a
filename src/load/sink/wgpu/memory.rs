//! Tensors and weights in a device's memory.

/// A tensor in device memory: buffers that follow each other, all but the last of the same size.
#[derive(Debug, Clone)]
pub struct GpuMemory {
    pub(super) buffers: Vec<wgpu::Buffer>,
    /// Bytes of each buffer but the last.
    pub(super) segment: u64,
}

impl GpuMemory {
    /// The buffers, and how many bytes of the tensor each but the last has.
    pub fn buffers(&self) -> (&[wgpu::Buffer], u64) {
        (&self.buffers, self.segment)
    }

    /// The one buffer of a tensor that has no more.
    pub fn whole(&self) -> Option<&wgpu::Buffer> {
        match self.buffers.as_slice() {
            [buffer] => Some(buffer),
            _ => None,
        }
    }
}

impl From<wgpu::Buffer> for GpuMemory {
    fn from(buffer: wgpu::Buffer) -> Self {
        Self { buffers: vec![buffer], segment: u64::MAX }
    }
}

/// The stored tensors of a weight in device memory, in the order of [`Part::ALL`](crate::dequant::Part::ALL).
#[derive(Debug, Clone)]
pub struct GpuParts(pub [Option<wgpu::Buffer>; 5]);
