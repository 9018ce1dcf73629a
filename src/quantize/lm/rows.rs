//! A matrix of which some rows at a time are read, again and again: it lies in a file.

use candle_core::Tensor;

use super::checkpoint::finite;
use super::{Checkpoint, LmError, Spool};
use crate::dequant::Float;

/// Rows that are multiplied at a time: as many as states that they are multiplied with, within these. So they
/// take no more room than the states, and a product is worth its packing.
const LEAST: usize = 256;
const MOST: usize = 8192;

/// The matrix, as it is stored; a quantized one dequantized.
#[derive(Debug)]
pub(super) struct Rows {
    name: String,
    file: Spool,
    float: Float,
    rows: usize,
    columns: usize,
}

impl Rows {
    pub(super) fn put_aside(
        from: &Checkpoint,
        name: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Self, LmError> {
        let mut this =
            Self { name: name.to_owned(), file: Spool::new()?, float: Float::F32, rows, columns };
        let mut written = Ok(());
        this.float = from.stream(name, &[rows, columns], &mut |begin, part| {
            if written.is_ok() {
                written = this.file.write_bytes(begin, part);
            }
        })?;
        written.map(|()| this)
    }

    /// First and count of the rows that are to be read together, to be multiplied with so many states.
    pub(super) fn slices(&self, states: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, most) = (self.rows, states.clamp(LEAST, MOST));
        (0..rows).step_by(most).map(move |first| (first, most.min(rows - first)))
    }

    /// Rows `first` to `first + count`, f32 `[count, columns]`, which must be finite.
    pub(super) fn slice(&self, first: usize, count: usize) -> Result<Tensor, LmError> {
        let len = self.place(count) as usize;
        let bytes = self.file.read_bytes(self.place(first), len)?;
        finite(&self.name, &bytes, self.float, &[count, self.columns])
    }

    /// Where a row begins in the file.
    fn place(&self, row: usize) -> u64 {
        (row * self.columns) as u64 * self.float.size()
    }
}
