//! Work on the rows of a tensor, on all threads.

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::LmError;

/// Rows that one task changes.
const ROWS: usize = 32;

/// A tensor with each run along its last dimension changed, given with its number. The rows do not
/// depend on each other, and so not on the number of threads.
pub(super) fn by_rows(
    x: &Tensor,
    change: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Tensor, LmError> {
    let width = x.dim(D::Minus1)?.max(1);
    let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    values.par_chunks_mut(ROWS * width).enumerate().for_each(|(part, rows)| {
        for (row, values) in rows.chunks_mut(width).enumerate() {
            change(part * ROWS + row, values);
        }
    });
    Ok(Tensor::from_vec(values, x.dims(), &Device::Cpu)?)
}
