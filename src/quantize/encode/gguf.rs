//! GGUF blocks as llama.cpp's reference quantizes them.

use half::f16;

use super::threads::each;
use super::{EncodeError, Matrix, iq4, kquants};
use crate::dequant::gguf::Block;

/// The types that are written.
pub const WRITTEN: [Block; 9] = [
    Block::Q4_0,
    Block::Q8_0,
    Block::Q2K,
    Block::Q3K,
    Block::Q4K,
    Block::Q5K,
    Block::Q6K,
    Block::Iq4Nl,
    Block::Iq4Xs,
];
/// Blocks that one job encodes.
const JOB: usize = 256;

/// The blocks of a weight, row by row.
///
/// # Errors
/// If an element is not finite, a row is no whole number of blocks, or such blocks are not written.
pub fn blocks(weight: &Matrix<'_>, block: Block, threads: usize) -> Result<Vec<u8>, EncodeError> {
    let (elements, bytes) = (block.elements(), block.bytes());
    let columns = weight.columns();
    if !WRITTEN.contains(&block) {
        return Err(EncodeError::NotWritten(block.name()));
    }
    if !columns.is_multiple_of(elements) {
        return Err(EncodeError::Blocks { columns: columns as u64, block: elements as u64 });
    }
    weight.check_finite(threads)?;
    let mut out = vec![0; weight.elements() / elements * bytes];
    each(threads, out.chunks_mut(JOB * bytes).enumerate(), |(job, out)| {
        let mut values = vec![0.0; out.len() / bytes * elements];
        weight.read(job * JOB * elements, &mut values);
        for (values, out) in values.chunks(elements).zip(out.chunks_mut(bytes)) {
            match block {
                Block::Q4_0 => q4_0(values, out),
                Block::Q8_0 => q8_0(values, out),
                Block::Q2K => kquants::q2_k(values, out),
                Block::Q3K => kquants::q3_k(values, out),
                Block::Q4K => kquants::q4_k(values, out),
                Block::Q5K => kquants::q5_k(values, out),
                Block::Q6K => kquants::q6_k(values, out),
                Block::Iq4Nl => iq4::iq4_nl(values, out),
                Block::Iq4Xs => iq4::iq4_xs(values, out),
                // Refused above.
                _ => {}
            }
        }
    });
    Ok(out)
}

fn put_half(value: f32, out: &mut [u8]) {
    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// What a scale is divided by; 0 where there is none.
fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn q4_0(values: &[f32], out: &mut [u8]) {
    let mut largest = 0.0_f32;
    for value in values {
        if value.abs() > largest.abs() {
            largest = *value;
        }
    }
    let scale = largest / -8.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    let code = |value: &f32| (value * inverse + 8.5).min(15.0) as u8;
    let (low, high) = values.split_at(values.len() / 2);
    for ((out, low), high) in codes.iter_mut().zip(low).zip(high) {
        *out = code(low) | code(high) << 4;
    }
}

fn q8_0(values: &[f32], out: &mut [u8]) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    for (out, value) in codes.iter_mut().zip(values) {
        *out = ((value * inverse).round() as i8).cast_unsigned();
    }
}
