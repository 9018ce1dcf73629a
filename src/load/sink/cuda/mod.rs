//! Devices through the CUDA driver, which is looked for when one is opened.
//!
//! A [`Cuda`] is a device with its kernels, compiled by NVRTC for just this device when they are first
//! needed. Nothing falls back to another device on its own.

pub mod delta;
mod kernels;
pub mod nvrtc;
mod pinned;
pub mod planes;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError};

use super::device::DeviceError;
use crate::dequant::Float;
use crate::dequant::kernel::{Family, Program};

pub use delta::CudaDeltaDecoder;
pub use kernels::CudaParts;
pub use planes::CudaDecoder;
pub use upload::{CudaInFlight, CudaStaging};

/// An opened device.
#[derive(Debug, Clone)]
pub struct Cuda(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    architecture: String,
    modules: Mutex<HashMap<Family, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(Program, Float), CudaFunction>>,
    nothing: OnceLock<CudaSlice<u8>>,
}

/// Drivers older than this (CUDA 12.0) lack what is used of them.
const OLDEST_DRIVER: i32 = 12_000;

/// Memory behind every part that kernels may read, and behind every result that they may write.
const SLACK: u64 = 32;

impl Cuda {
    /// Opens the device of that number.
    ///
    /// # Errors
    /// If there is no driver or no such device.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // SAFETY: opens the driver's library by its well-known names, which runs its initialization:
        // it is the system's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver("there is no libcuda".to_owned()));
        }
        let mut version = 0;
        // SAFETY: writes one number, before anything else is asked of the driver.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        if asked != CUresult::CUDA_SUCCESS || version < OLDEST_DRIVER {
            let version =
                format!("the driver is for CUDA {}.{}", version / 1000, version % 1000 / 10);
            return Err(DeviceError::NoDriver(format!("{version}, and 12.0 or newer is needed")));
        }
        let none = |error: DriverError| DeviceError::NoDriver(format!("device {ordinal}: {error}"));
        let context = CudaContext::new(ordinal).map_err(none)?;
        let name = context.name().map_err(none)?;
        let (major, minor) = context.compute_capability().map_err(none)?;
        let stream = context.new_stream().map_err(none)?;
        Ok(Self(Arc::new(Inner {
            context,
            stream,
            name,
            architecture: format!("sm_{major}{minor}"),
            modules: Mutex::default(),
            functions: Mutex::default(),
            nothing: OnceLock::new(),
        })))
    }

    /// The device's name and architecture.
    pub fn name(&self) -> String {
        format!("{} ({})", self.0.name, self.0.architecture)
    }

    /// The stream that copies and kernels run on, in order.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.0.stream
    }

    /// The device's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    /// Device memory for `len` bytes and what a kernel may read or write behind them.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn alloc(&self, len: u64) -> Result<CudaSlice<u8>, DeviceError> {
        let size = usize::try_from(len.next_multiple_of(SLACK) + SLACK).map_err(|_| {
            DeviceError::TooLarge { what: "a tensor", len, limit: usize::MAX as u64 }
        })?;
        // SAFETY: bytes that were never written are read by nobody but kernels, whose results do not
        // depend on them.
        self.done(unsafe { self.0.stream.alloc(size) })
    }

    /// New device memory with `bytes` in it.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>, DeviceError> {
        let mut slice = self.alloc(bytes.len() as u64)?;
        self.done(self.0.stream.memcpy_htod(bytes, &mut slice.slice_mut(..bytes.len())))?;
        Ok(slice)
    }

    /// The first `len` bytes of device memory, back in host memory.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, slice: &CudaSlice<u8>, len: u64) -> Result<Vec<u8>, DeviceError> {
        let len = usize::try_from(len).ok().filter(|len| *len <= slice.len());
        let len = len.ok_or(DeviceError::Internal("a read beyond a tensor".to_owned()))?;
        let mut bytes = vec![0; len];
        self.done(self.0.stream.memcpy_dtoh(&slice.slice(..len), &mut bytes))?;
        self.wait()?;
        Ok(bytes)
    }

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    /// If the device fails.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.done(self.0.stream.synchronize())
    }

    fn done<T>(&self, result: Result<T, DriverError>) -> Result<T, DeviceError> {
        let device = || self.0.name.clone();
        result.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { device: device() },
            _ => DeviceError::Lost { device: device(), reason: error.to_string() },
        })
    }
}
