//! What devices have in common: their errors.

use crate::chunk::codec::DecodeError;
use crate::dequant::{Part, QuantError};
use crate::load::LoadError;

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no device, or none of that name.
    #[error(
        "no device for wgpu{}; there {}; install a Vulkan driver (for one in software, Debian's \
         mesa-vulkan-drivers)",
        wanted.as_ref().map(|name| format!(" named {name:?}")).unwrap_or_default(),
        if found.is_empty() { "is none".to_owned() } else { format!("are {}", found.join(", ")) }
    )]
    NoAdapter {
        /// The name that was asked for.
        wanted: Option<String>,
        /// The names of those there are.
        found: Vec<String>,
    },
    /// There is no driver, or it has no device.
    #[error("no CUDA device: {0}")]
    NoDriver(String),
    /// There is no compiler for kernels.
    #[error(
        "no compiler for CUDA kernels: {0}; install NVRTC (pip's nvidia-cuda-nvrtc, or the CUDA toolkit) \
         and name it in TENPAK_NVRTC"
    )]
    NoCompiler(String),
    /// A device does not open.
    #[error("{device} does not open: {error}")]
    Open {
        /// The device.
        device: String,
        /// What its driver says.
        error: String,
    },
    /// A device was lost.
    #[error("{device} was lost: {reason}")]
    Lost {
        /// The device.
        device: String,
        /// What its driver says.
        reason: String,
    },
    /// Device memory is full.
    #[error("{device}: out of device memory; load fewer tensors at a time, or a shard")]
    OutOfMemory {
        /// The device.
        device: String,
    },
    /// Something is larger than the device allows.
    #[error("{what} of {len} bytes, and {limit} are allowed here; load a shard")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// A kernel does not compile on this device.
    #[error("kernel {kernel} does not compile on this device: {log}")]
    Compile {
        /// The kernel.
        kernel: &'static str,
        /// What the compiler says.
        log: String,
    },
    /// A part of a weight is not on the device.
    #[error("{0} of the weight are not on the device")]
    Missing(Part),
    /// A weight of a checkpoint is not what its config says.
    #[error("{name}: {error}; it can be loaded as it is stored")]
    Weight {
        /// Its name.
        name: String,
        /// What is wrong.
        error: QuantError,
    },
    /// A chunk that was verified and still does not decode on the device: whoever signed it wrote it so.
    #[error("{name}: verified, but does not decode on the device: {error}; it was packed so")]
    Decode {
        /// The tensor.
        name: String,
        /// What is wrong.
        #[source]
        error: DecodeError,
    },
    /// A rank's part of a quantized weight is to be dequantized.
    #[error(
        "{name} is quantized, and a rank's part of it is not dequantized: load it whole, or as \
         it is stored"
    )]
    Part {
        /// The weight.
        name: String,
    },
    /// A weight is not what it is said to be.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// The load failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A driver, or this library, contradicts itself.
    #[error("{0}")]
    Internal(String),
}

impl DeviceError {
    /// A write or a copy that goes beyond a buffer: a defect.
    pub(crate) fn beyond() -> Self {
        Self::Internal("a copy that a buffer does not hold".to_owned())
    }
}
