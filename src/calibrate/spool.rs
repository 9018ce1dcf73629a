//! Tensors in a file that no name leads to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use candle_core::{Device, Tensor};

use super::CalibrateError;

/// The file. Where a tensor lies in it, and its shape, is its user's business.
pub(super) struct Spool(File);

impl Spool {
    pub(super) fn new() -> Result<Self, CalibrateError> {
        Ok(Self(unnamed().map_err(failed)?))
    }

    /// Writes the elements of an f32 tensor, in little-endian order.
    pub(super) fn write(&self, offset: u64, tensor: &Tensor) -> Result<(), CalibrateError> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.write_all_at(&bytes, offset).map_err(failed)
    }

    /// Reads what [`write`](Self::write) wrote there.
    pub(super) fn read(
        &self,
        offset: u64,
        shape: (usize, usize),
    ) -> Result<Tensor, CalibrateError> {
        let mut bytes = vec![0; shape.0 * shape.1 * 4];
        self.0.read_exact_at(&mut bytes, offset).map_err(failed)?;
        let words = bytes.as_chunks::<4>().0.iter();
        let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

fn failed(source: io::Error) -> CalibrateError {
    CalibrateError::Spool { source }
}

/// A file that no name leads to: it goes when it is closed, however the process ends.
pub(crate) fn unnamed() -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!("tenpak-states-{:016x}", u64::from_le_bytes(random));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
