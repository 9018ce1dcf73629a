//! Packing [`Codes`] as AWQ checkpoints have them (GEMM version): `qweight`, `qzeros`, `scales`.

use super::threads::each;
use super::{EncodeError, Encoded, check, words};
use crate::dequant::Float;
use crate::dequant::codes::Codes;
use crate::format::dtype::Dtype;

/// Which of eight neighbouring outputs nibble i of a word holds.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The tensors of an AWQ layer.
///
/// # Errors
/// If AWQ cannot hold the shape or the bits.
pub fn pack(codes: &Codes, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let Codes { rows, columns, bits, group, .. } = *codes;
    if bits != 4 || codes.index.is_some() {
        return Err(EncodeError::AwqCodes);
    }
    if !rows.is_multiple_of(8) || group == 0 || !columns.is_multiple_of(group) {
        return Err(EncodeError::AwqShape {
            rows: rows as u64,
            columns: columns as u64,
            group: group as u64,
        });
    }
    check(codes)?;
    let groups = codes.groups();
    let line = |values: &[u8], stride: usize, at: usize, words: &mut [u32]| {
        for (number, word) in words.iter_mut().enumerate() {
            let nibble = |place: usize| {
                let row = number * 8 + place;
                u32::from(values.get(row * stride + at).copied().unwrap_or_default())
            };
            *word = ORDER.iter().rev().fold(0, |word, place| word << 4 | nibble(*place));
        }
    };
    let width = rows / 8;
    let mut weight = vec![0_u32; columns * width];
    each(threads, weight.chunks_mut(width.max(1)).enumerate(), |(column, words)| {
        line(&codes.codes, columns, column, words);
    });
    let mut zeros = vec![0_u32; groups * width];
    for (group, words) in zeros.chunks_mut(width.max(1)).enumerate() {
        line(&codes.zeros, groups, group, words);
    }
    let mut scales = Vec::with_capacity(groups * rows * 2);
    for group in 0..groups {
        for row in 0..rows {
            let scale = codes.scales.get(row * groups + group).copied().unwrap_or_default();
            Float::F16.push(scale, &mut scales);
        }
    }
    let [rows, columns, groups, width] = [rows, columns, groups, width].map(|n| n as u64);
    let tensor = |end, dtype, dims, bytes| Encoded { end, dtype, dims, bytes };
    Ok(vec![
        tensor("qweight", Dtype::I32, vec![columns, width], words(&weight)),
        tensor("qzeros", Dtype::I32, vec![groups, width], words(&zeros)),
        tensor("scales", Dtype::F16, vec![groups, rows], scales),
    ])
}
