//! Packing [`Codes`] as GPTQ checkpoints have them: `qweight`, `qzeros`, `scales`, `g_idx`.

use super::threads::each;
use super::{EncodeError, Encoded, check, words};
use crate::dequant::Float;
use crate::dequant::codes::Codes;
use crate::format::dtype::Dtype;

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `gptq`: zero points are stored less one, so none may be 0.
    V1,
    /// `gptq_v2`: as they are.
    V2,
}

/// The tensors of a GPTQ layer. Inputs and outputs come in whole words: multiples of 32.
///
/// # Errors
/// If GPTQ cannot hold the shape, the bits or a zero point.
pub fn pack(codes: &Codes, version: Version, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let Codes { rows, columns, bits, .. } = *codes;
    if ![2, 3, 4, 8].contains(&bits) {
        return Err(EncodeError::Bits { layout: "GPTQ", has: "2, 3, 4 or 8", bits });
    }
    if !rows.is_multiple_of(32) || !columns.is_multiple_of(32) || codes.group == 0 {
        return Err(EncodeError::GptqShape { rows: rows as u64, columns: columns as u64 });
    }
    check(codes)?;
    let groups = codes.groups();
    let less = match version {
        Version::V1 => 1,
        Version::V2 => 0,
    };
    if version == Version::V1
        && let Some(at) = codes.zeros.iter().position(|zero| *zero == 0)
    {
        return Err(EncodeError::GptqZero { row: at / groups, group: at % groups });
    }
    let width = bits as usize;
    // 32 codes of a column make `bits` words, one below the other.
    let mut weight = vec![0_u32; columns / 32 * width * rows];
    each(threads, weight.chunks_mut((width * rows).max(1)).enumerate(), |(block, words)| {
        for row in 0..rows {
            let first = row * columns + block * 32;
            let own = codes.codes.get(first..first + 32).unwrap_or_default();
            for (number, word) in stream(own, width, 0).into_iter().take(width).enumerate() {
                if let Some(place) = words.get_mut(number * rows + row) {
                    *place = word;
                }
            }
        }
    });
    let (mut zeros, mut scales) = (Vec::new(), Vec::new());
    let mut line = vec![0; rows];
    for group in 0..groups {
        for (row, zero) in line.iter_mut().enumerate() {
            let at = row * groups + group;
            *zero = codes.zeros.get(at).copied().unwrap_or_default();
            Float::F16.push(codes.scales.get(at).copied().unwrap_or_default(), &mut scales);
        }
        for part in line.chunks(32) {
            zeros.extend(stream(part, width, less).into_iter().take(width));
        }
    }
    let index: Vec<u32> = match &codes.index {
        Some(index) => index.clone(),
        None => (0..columns).map(|column| (column / codes.group) as u32).collect(),
    };
    let [row_words, lines, rows, columns, groups] =
        [columns / 32 * width, rows / 32 * width, rows, columns, groups].map(|n| n as u64);
    let tensor = |end, dtype, dims, bytes| Encoded { end, dtype, dims, bytes };
    Ok(vec![
        tensor("g_idx", Dtype::I32, vec![columns], words(&index)),
        tensor("qweight", Dtype::I32, vec![row_words, rows], words(&weight)),
        tensor("qzeros", Dtype::I32, vec![groups, lines], words(&zeros)),
        tensor("scales", Dtype::F16, vec![groups, rows], scales),
    ])
}

/// 32 values less `less` as one little-endian stream of bits: `width` words.
fn stream(values: &[u8], width: usize, less: u8) -> [u32; 8] {
    let mut words = [0_u32; 8];
    for (at, value) in values.iter().enumerate() {
        let bit = at * width;
        let shifted = u64::from(value - less) << (bit % 32);
        if let [low, rest @ ..] = words.get_mut(bit / 32..).unwrap_or_default() {
            *low |= shifted as u32;
            if let [high, ..] = rest {
                *high |= (shifted >> 32) as u32;
            }
        }
    }
    words
}
