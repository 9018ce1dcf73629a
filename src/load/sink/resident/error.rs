//! Why a tensor is not on the device: it does not exist, does not fit, or does not come.

use std::sync::Arc;

use super::super::device::DeviceError;

/// Why a tensor is not on the device.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResidentError {
    /// There is no such tensor.
    #[error("{0:?} is no tensor of this model")]
    Unknown(String),
    /// The tensor alone is larger than the budget.
    #[error(
        "{name} has {need} bytes, and the budget is {budget}: raise the budget, or load a shard"
    )]
    TooLarge {
        /// Its name.
        name: String,
        /// Its bytes.
        need: u64,
        /// The budget.
        budget: u64,
    },
    /// Everything that could leave is pinned or used.
    #[error(
        "no room for {name}, {need} bytes: of a budget of {budget}, {alive} are taken by {pinned} pinned \
         tensors and {used} that are held; drop some, or raise the budget"
    )]
    Full {
        /// The tensor that was touched.
        name: String,
        /// Its bytes.
        need: u64,
        /// The budget.
        budget: u64,
        /// Bytes that are taken.
        alive: u64,
        /// Tensors that are pinned.
        pinned: usize,
        /// Tensors that are held, and not pinned.
        used: usize,
    },
    /// It could not be loaded.
    #[error("{name}: {error}")]
    Device {
        /// Its name.
        name: String,
        /// Why; those who waited for the same tensor share it.
        #[source]
        error: Arc<DeviceError>,
    },
}
