//! Weights of a block that would not fit in memory together: each is read when it is used. What was changed lies in a
//! file that no name leads to.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::LmError;
use super::checkpoint::Checkpoint;
use super::spool::Spool;

/// Where the weights are.
#[derive(Debug)]
pub(super) struct Shelf {
    checkpoint: Checkpoint,
    /// With where it ends.
    file: Mutex<Option<(Spool, u64)>>,
}

impl Shelf {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        Self { checkpoint: checkpoint.clone(), file: Mutex::default() }
    }

    /// A weight as the model has it.
    pub(super) fn original(&self, name: &str, shape: [usize; 2]) -> Result<Tensor, LmError> {
        self.checkpoint.tensor(name, &shape)
    }

    /// A weight that was [put](Self::put) away.
    pub(super) fn changed(&self, place: u64, shape: [usize; 2]) -> Result<Tensor, LmError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, _) = file.as_ref().ok_or(LmError::Defect("nothing was put away"))?;
        file.read(place, (shape[0], shape[1]))
    }

    /// Puts a weight away, in the place of an earlier one of the same layer, and says where.
    pub(super) fn put(&self, place: Option<u64>, weight: &Tensor) -> Result<u64, LmError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (spool, end) = match &mut *file {
            Some(file) => file,
            none => none.insert((Spool::new()?, 0)),
        };
        let at = place.unwrap_or(*end);
        spool.write(at, weight)?;
        if place.is_none() {
            *end += weight.elem_count() as u64 * 4;
        }
        Ok(at)
    }
}
