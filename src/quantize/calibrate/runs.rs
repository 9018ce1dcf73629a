//! A tensor for each run of tokens, in a file that no name leads to: for what waits until a model has been run
//! to its end.

use candle_core::Tensor;

use super::CalibrateError;
use crate::quantize::lm::{LmError, Spool};

/// Tensors by run.
pub(super) struct Runs {
    file: Spool,
    /// Offset and shape of each.
    places: Vec<(u64, (usize, usize))>,
}

impl Runs {
    /// Puts away what `runs` gives, f32 `[tokens, hidden]` each.
    pub(super) fn new(
        runs: impl Iterator<Item = Result<Tensor, CalibrateError>>,
    ) -> Result<Self, CalibrateError> {
        let (mut this, mut end) = (Self { file: Spool::new()?, places: Vec::new() }, 0);
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
        Ok(self.file.read(offset, shape)?)
    }

    /// Replaces the tensor of a run by another of the same shape.
    pub(super) fn put(&mut self, run: usize, tensor: &Tensor) -> Result<(), CalibrateError> {
        let (offset, shape) = self.place(run)?;
        if tensor.dims2()? != shape {
            return Err(LmError::Defect("a run changes its shape").into());
        }
        Ok(self.file.write(offset, tensor)?)
    }

    fn place(&self, run: usize) -> Result<(u64, (usize, usize)), CalibrateError> {
        self.places.get(run).copied().ok_or(LmError::Defect("there is no such run").into())
    }
}
