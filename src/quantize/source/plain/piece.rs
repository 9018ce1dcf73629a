//! A part of a tensor that becomes a tensor of its own: an expert's weight in a stack of them, or a weight that is
//! stored by columns.

use bytes::Bytes;

use super::super::{ModelSource, SourceError};
use crate::format::dtype::Dtype;

/// A part of a tensor: rows of one of the matrices, or vectors, that it has along its leading dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::quantize) struct Piece {
    /// What it is called.
    pub(in crate::quantize) name: String,
    /// Rows and columns that it has then, or rows alone.
    pub(in crate::quantize) dims: Vec<u64>,
    /// Which of the matrices it is of, and how many there are.
    pub(in crate::quantize) of: (u64, u64),
    /// Whether they are stored by columns.
    pub(in crate::quantize) transposed: bool,
    /// The first of its rows in the matrix, and from one to the next.
    pub(in crate::quantize) rows: (u64, u64),
    /// Whether it has outputs by inputs, as the weight of a linear layer, whatever the model stores.
    pub(in crate::quantize) linear: bool,
}

impl Piece {
    /// Its bytes, out of the tensor `at`; no other piece is read if the tensor is stored as it is.
    pub(super) fn make(
        &self,
        inner: &ModelSource,
        at: usize,
        dtype: Dtype,
    ) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(self.name.clone());
        let tensor = inner.tensors.get(at).ok_or_else(defect)?;
        let small = |n: u64| usize::try_from(n).map_err(|_| defect());
        let size = small(dtype.bits() / 8)?;
        let rows = small(self.dims.first().copied().unwrap_or(0))?;
        let columns = small(self.dims.get(1).copied().unwrap_or(1))?;
        let (first, step) = (small(self.rows.0)?, small(self.rows.1)?);
        let len = tensor.len.checked_div(self.of.1).ok_or_else(defect)?;
        let begin = tensor.offset + self.of.0 * len;
        let row = columns.checked_mul(size).filter(|row| *row > 0).ok_or_else(defect)?;
        let stored = small(len)? / row;
        let last = rows.checked_sub(1).map(|more| first + more * step).ok_or_else(defect)?;
        if stored * row != small(len)? || last >= stored {
            return Err(defect());
        }
        if !self.transposed && step == 1 {
            let begin = begin + (first * row) as u64;
            return inner.read(tensor.file, begin..begin + (rows * row) as u64);
        }
        let whole = inner.read(tensor.file, begin..begin + len)?;
        let mut bytes = Vec::with_capacity(rows * row);
        for own in (first..=last).step_by(step) {
            if self.transposed {
                for column in 0..columns {
                    let at = (column * stored + own) * size;
                    bytes.extend_from_slice(whole.get(at..at + size).ok_or_else(defect)?);
                }
            } else {
                bytes.extend_from_slice(whole.get(own * row..(own + 1) * row).ok_or_else(defect)?);
            }
        }
        Ok(bytes.into())
    }
}
