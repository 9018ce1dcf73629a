//! What is too large to be held, in a file that no name leads to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use candle_core::Tensor;

use super::LmError;
use super::checkpoint::floats;
use crate::dequant::Float;

/// The file. What lies where in it is its user's business.
#[derive(Debug)]
pub(crate) struct Spool(File);

impl Spool {
    pub(crate) fn new() -> Result<Self, LmError> {
        Ok(Self(unnamed().map_err(failed)?))
    }

    /// Writes the elements of an f32 tensor, in little-endian order.
    pub(crate) fn write(&self, offset: u64, tensor: &Tensor) -> Result<(), LmError> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write_bytes(offset, &bytes)
    }

    pub(crate) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), LmError> {
        self.0.write_all_at(bytes, offset).map_err(failed)
    }

    /// Reads what [`write`](Self::write) wrote there.
    pub(crate) fn read(&self, offset: u64, shape: (usize, usize)) -> Result<Tensor, LmError> {
        let bytes = self.read_bytes(offset, shape.0 * shape.1 * 4)?;
        floats(&bytes, Float::F32, &[shape.0, shape.1])
    }

    pub(crate) fn read_bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>, LmError> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes)
    }
}

fn failed(source: io::Error) -> LmError {
    LmError::Spool { source }
}

/// A file that no name leads to: it goes when it is closed, however the process ends.
fn unnamed() -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!("tenpak-{:016x}", u64::from_le_bytes(random));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
