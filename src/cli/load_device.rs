//! `tenpak load --device`: tensors into device memory, one by one.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::runtime::Handle;

use super::error::Failure;
use super::progress::Bar;
use crate::id::to_hex;
use crate::loader::{Loader, Tensor};
use crate::sink::device::DeviceError;
use crate::sink::drain;
use crate::sink::stream::{DeviceSink, StreamOptions, UploadStats};
use crate::sink::upload::Device;

/// What was delivered.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) tensors: u64,
    pub(super) raw_bytes: u64,
    pub(super) first_tensor: Option<f64>,
    pub(super) digests: BTreeMap<String, String>,
    /// The device's name, and what went there.
    pub(super) device: Option<(String, UploadStats)>,
    /// What is kept in host memory until all is said.
    pub(super) kept: Vec<Tensor>,
}

impl Delivered {
    /// Names a digest: by the file too if another has a tensor of that name.
    pub(super) fn digest(&mut self, name: &str, file: u32, digest: &blake3::Hash) {
        let mut name = name.to_owned();
        if self.digests.contains_key(&name) {
            name = format!("{name}@{file}");
        }
        self.digests.insert(name, to_hex(digest.as_bytes()));
    }
}

/// How to deliver.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) start: Instant,
    pub(super) keep: bool,
    pub(super) digest: bool,
}

#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(dead_code, reason = "no device"))]
/// Streams a load into `device`. A digest is of what the device holds, read back.
pub(super) fn stream<D: Device + Clone>(
    device: &D,
    loader: &mut Loader,
    runtime: &Handle,
    bar: &Bar,
    how: How,
) -> Result<Delivered, Failure> {
    let mut sink = DeviceSink::new(device.clone(), &StreamOptions::default());
    let mut delivered = Delivered::default();
    let mut kept = Vec::new();
    let mut unread = Ok(());
    runtime.block_on(drain(loader, &mut sink, |tensor| {
        let len = tensor.want.cut.len();
        delivered.tensors += 1;
        delivered.raw_bytes += len;
        bar.advance(len);
        delivered.first_tensor.get_or_insert_with(|| how.start.elapsed().as_secs_f64());
        if how.digest && unread.is_ok() {
            let mut hasher = blake3::Hasher::new();
            unread = device.read_back(&tensor.memory, len, &mut |part| {
                hasher.update(part);
            });
            let entry = &tensor.want.entry;
            delivered.digest(&entry.name, entry.file, &hasher.finalize());
        }
        if how.keep {
            kept.push(tensor);
        }
    }))?;
    unread?;
    device.wait()?;
    delivered.device = Some((device.name(), sink.stats()));
    Ok(delivered)
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Load(error) => error.into(),
            error => Self::failed(error),
        }
    }
}
