//! [`Codes`] as compressed-tensors has them: `pack-quantized` (1 to 8 bits, a stream of bits along each
//! row) and `int-quantized` (a byte each).

use super::threads::each;
use super::{EncodeError, Encoded, check, words};
use crate::dequant::Float;
use crate::dequant::codes::Codes;
use crate::format::dtype::Dtype;

/// The tensors of a `pack-quantized` layer; `scale` is the type of its scales, the model's own.
///
/// # Errors
/// If there are other than 1 to 8 bits, or the codes are not those of the shape.
pub fn pack(codes: &Codes, scale: Float, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let Codes { rows, columns, bits, .. } = *codes;
    if !(1..=8).contains(&bits) {
        return Err(EncodeError::Bits { layout: "compressed-tensors", has: "1 to 8", bits });
    }
    check(codes)?;
    let groups = codes.groups();
    let width = (columns * bits as usize).div_ceil(32);
    let mut weight = vec![0_u32; rows * width];
    let lines = weight.chunks_mut(width.max(1)).zip(codes.codes.chunks(columns.max(1)));
    each(threads, lines, |(words, codes)| stream(codes.iter().copied(), bits, words));
    let shape = [rows, columns].map(|n| n as u64);
    let mut tensors = vec![Encoded {
        end: "weight_packed",
        dtype: Dtype::I32,
        dims: vec![shape[0], width as u64],
        bytes: words(&weight),
    }];
    tensors.push(scales(codes, scale));
    let shape_bytes = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    tensors.push(Encoded {
        end: "weight_shape",
        dtype: Dtype::I64,
        dims: vec![2],
        bytes: shape_bytes,
    });
    if !codes.symmetric {
        // Packed along the outputs: a stream per group, its words one below the other.
        let height = (rows * bits as usize).div_ceil(32);
        let mut zeros = vec![0_u32; height * groups];
        let mut column = vec![0_u32; height];
        for group in 0..groups {
            column.fill(0);
            stream(codes.zeros.iter().copied().skip(group).step_by(groups), bits, &mut column);
            for (row, word) in column.iter().enumerate() {
                if let Some(place) = zeros.get_mut(row * groups + group) {
                    *place = *word;
                }
            }
        }
        let dims = vec![height as u64, groups as u64];
        let bytes = words(&zeros);
        tensors.push(Encoded { end: "weight_zero_point", dtype: Dtype::I32, dims, bytes });
    }
    if let Some(index) = &codes.index {
        let dims = vec![columns as u64];
        let bytes = words(index);
        tensors.push(Encoded { end: "weight_g_idx", dtype: Dtype::I32, dims, bytes });
    }
    Ok(tensors)
}

/// The tensors of an `int-quantized` layer: 8 bits, symmetric.
///
/// # Errors
/// If the codes are not symmetric ones of 8 bits.
pub fn int8(codes: &Codes, scale: Float) -> Result<Vec<Encoded>, EncodeError> {
    if codes.bits != 8 || !codes.symmetric || codes.index.is_some() {
        return Err(EncodeError::Int8Codes);
    }
    let bytes = codes.codes.iter().map(|code| code ^ 0x80).collect();
    let dims = vec![codes.rows as u64, codes.columns as u64];
    Ok(vec![Encoded { end: "weight", dtype: Dtype::I8, dims, bytes }, scales(codes, scale)])
}

fn scales(codes: &Codes, scale: Float) -> Encoded {
    let mut bytes = Vec::with_capacity(codes.scales.len() * scale.size() as usize);
    codes.scales.iter().for_each(|value| scale.push(*value, &mut bytes));
    let dims = vec![codes.rows as u64, codes.groups() as u64];
    Encoded { end: "weight_scale", dtype: scale.dtype(), dims, bytes }
}

/// Values of `bits` bits as one little-endian stream.
fn stream(values: impl Iterator<Item = u8>, bits: u32, words: &mut [u32]) {
    let (mut held, mut filled) = (0_u64, 0);
    let mut words = words.iter_mut();
    for value in values {
        held |= u64::from(value) << filled;
        filled += bits;
        if filled >= 32 {
            if let Some(word) = words.next() {
                *word = held as u32;
            }
            held >>= 32;
            filled -= 32;
        }
    }
    if filled > 0
        && let Some(word) = words.next()
    {
        *word = held as u32;
    }
}
