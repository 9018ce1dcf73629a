//! From host memory into a device's, through a ring of buffers that are used again.
//!
//! A buffer is either ours to write ([`Device::Staging`]) or the device's to read
//! ([`Device::InFlight`]): [`Device::copy`] takes the one and gives the other, and only
//! [`Device::complete`], which waits for the device, gives the first back. To write what the device still
//! reads does not compile:
//!
//! ```compile_fail,E0382
//! use tenpak::load::sink::upload::{Device, Staging};
//!
//! fn corrupt<D: Device>(device: &D, mut buffer: D::Staging, memory: &mut D::Memory) {
//!     buffer.write(0, b"first").unwrap();
//!     let flying = device.copy(buffer, 5, memory, 0);
//!     buffer.write(0, b"second").unwrap();
//! }
//! ```
//!
//! while this does:
//!
//! ```
//! use tenpak::load::sink::device::DeviceError;
//! use tenpak::load::sink::upload::{Device, Staging};
//!
//! fn reuse<D: Device>(
//!     device: &D,
//!     mut buffer: D::Staging,
//!     memory: &mut D::Memory,
//! ) -> Result<Option<D::Staging>, DeviceError> {
//!     buffer.write(0, b"first")?;
//!     let flying = device.copy(buffer, 5, memory, 0)?;
//!     let mut buffer = device.complete(flying)?;
//!     if let Some(buffer) = &mut buffer {
//!         buffer.write(0, b"second")?;
//!     }
//!     Ok(buffer)
//! }
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::device::DeviceError;
use crate::memory::slot::SlotProvider;

/// Host memory that a device reads from, while it is ours.
pub trait Staging: Send {
    /// Its bytes.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    ///
    /// If they would go beyond the end, or the memory cannot be written; nothing of it counts then.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DeviceError>;
}

/// A device that tensors are streamed into.
pub trait Device: Send + Sync {
    /// Device memory of one tensor.
    type Memory: Send;
    /// A buffer that is ours to write.
    type Staging: Staging;
    /// A buffer that the device reads.
    type InFlight: Send;

    /// The device's name.
    fn name(&self) -> String;

    /// Device memory for a tensor.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    fn allocate(&self, len: u64) -> Result<Self::Memory, DeviceError>;

    /// A new buffer of `len` bytes, a multiple of 256.
    ///
    /// # Errors
    /// If there is no memory for it, or the device fails.
    fn staging(&self, len: usize) -> Result<Self::Staging, DeviceError>;

    /// Begins to copy the first `len` bytes of `from` to `at` in `to`: a multiple of 256.
    ///
    /// # Errors
    /// If it goes beyond one of them, or the device fails.
    fn copy(
        &self,
        from: Self::Staging,
        len: usize,
        to: &mut Self::Memory,
        at: u64,
    ) -> Result<Self::InFlight, DeviceError>;

    /// The destination that loads are given, so that what they deliver is copied to the device from where it
    /// was verified ([`Self::copy_lent`]); `None` where it is gathered in buffers first.
    fn lender(&self) -> Option<Arc<dyn SlotProvider>> {
        None
    }

    /// Begins to copy all of `from` to `at` in `to`: a multiple of 256. What flies owns the bytes, so that
    /// their memory is not used again before it has landed.
    ///
    /// # Errors
    ///
    /// If the device has no [`Self::lender`], or fails.
    fn copy_lent(
        &self,
        _from: Bytes,
        _to: &mut Self::Memory,
        _at: u64,
    ) -> Result<Self::InFlight, DeviceError> {
        Err(DeviceError::Internal("a device that lends no memory".to_owned()))
    }

    /// Waits until the device has read what flies, and gives the buffer back, if it was one of the device's.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn complete(&self, flying: Self::InFlight) -> Result<Option<Self::Staging>, DeviceError>;

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    /// If the device fails.
    fn wait(&self) -> Result<(), DeviceError>;

    /// Gives the first `len` bytes of a tensor to `take`, in order, in parts.
    ///
    /// # Errors
    /// If the device fails.
    fn read_back(
        &self,
        memory: &Self::Memory,
        len: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError>;
}

/// The buffers of a stream of tensors: at most `count`, made when they are first needed.
#[derive(Debug)]
pub struct Ring<D: Device> {
    device: D,
    size: usize,
    most: usize,
    left: usize,
    free: Vec<D::Staging>,
    flying: VecDeque<D::InFlight>,
}

impl<D: Device> Ring<D> {
    /// `count` buffers of `size` bytes, rounded up to a multiple of 256.
    pub fn new(device: D, count: usize, size: usize) -> Self {
        let size = size.max(1).next_multiple_of(256);
        let most = count.max(1);
        Self { device, size, most, left: most, free: Vec::new(), flying: VecDeque::new() }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Bytes of a buffer.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A buffer to write: a free one, a new one, or the first that the device lets go.
    ///
    /// # Errors
    /// If there is no memory for it, or the device fails.
    pub fn take(&mut self) -> Result<D::Staging, DeviceError> {
        if let Some(staging) = self.free.pop() {
            return Ok(staging);
        }
        if self.left > 0 {
            self.left -= 1;
            return self.device.staging(self.size);
        }
        while let Some(flying) = self.flying.pop_front() {
            if let Some(staging) = self.device.complete(flying)? {
                return Ok(staging);
            }
        }
        Err(DeviceError::Internal("every buffer of the ring was taken".to_owned()))
    }

    /// Begins to copy memory that the device lent; as many copies as buffers may be under way.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn copy_lent(
        &mut self,
        from: Bytes,
        to: &mut D::Memory,
        at: u64,
    ) -> Result<(), DeviceError> {
        if self.flying.len() >= self.most
            && let Some(first) = self.flying.pop_front()
        {
            self.free.extend(self.device.complete(first)?);
        }
        self.flying.push_back(self.device.copy_lent(from, to, at)?);
        Ok(())
    }

    /// Begins to copy a buffer; the ring gets it back.
    ///
    /// # Errors
    /// If it goes beyond the memory, or the device fails.
    pub fn copy(
        &mut self,
        from: D::Staging,
        len: usize,
        to: &mut D::Memory,
        at: u64,
    ) -> Result<(), DeviceError> {
        self.flying.push_back(self.device.copy(from, len, to, at)?);
        Ok(())
    }

    /// Gives back a buffer that was not copied.
    pub fn give(&mut self, staging: D::Staging) {
        self.free.push(staging);
    }
}
