//! A tensor for each run of tokens, in a file that no name leads to: for what waits until a model has been run
//! to its end.

use std::fs::File;
use std::os::unix::fs::FileExt;

use candle_core::{Device, Tensor};

use super::{CalibrateError, unnamed};
use crate::lm::LmError;

/// Tensors by run.
pub(super) struct Runs {
    file: File,
    /// Offset and shape of each.
    places: Vec<(u64, (usize, usize))>,
}

impl Runs {
    /// Puts away what `runs` gives, f32 `[tokens, hidden]` each.
    pub(super) fn new(
        runs: impl Iterator<Item = Result<Tensor, CalibrateError>>,
    ) -> Result<Self, CalibrateError> {
        let file = unnamed().map_err(|source| CalibrateError::Spool { source })?;
        let (mut this, mut end) = (Self { file, places: Vec::new() }, 0);
        for run in runs {
            let run = run?;
            let shape = run.dims2()?;
            this.places.push((end, shape));
            end += (shape.0 * shape.1 * 4) as u64;
            this.put(this.places.len() - 1, &run)?;
        }
        Ok(this)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, run: usize) -> Result<Tensor, CalibrateError> {
        let (offset, shape) = self.place(run)?;
        let mut bytes = vec![0; shape.0 * shape.1 * 4];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| CalibrateError::Spool { source })?;
        let words = bytes.as_chunks::<4>().0.iter();
        let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Replaces the tensor of a run by another of the same shape.
    pub(super) fn put(&mut self, run: usize, tensor: &Tensor) -> Result<(), CalibrateError> {
        let (offset, shape) = self.place(run)?;
        if tensor.dims2()? != shape {
            return Err(LmError::Config(format!("run {run} changes its shape")).into());
        }
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let written = self.file.write_all_at(&bytes, offset);
        written.map_err(|source| CalibrateError::Spool { source })
    }

    fn place(&self, run: usize) -> Result<(u64, (usize, usize)), CalibrateError> {
        let place = self.places.get(run).copied();
        place.ok_or_else(|| LmError::Config(format!("there is no run {run}")).into())
    }
}
