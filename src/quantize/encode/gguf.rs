//! GGUF blocks as llama.cpp's reference quantizes them.

use half::f16;

use super::threads::each;
use super::{EncodeError, Matrix, iq4, kquants};
use crate::dequant::gguf::Block;

/// The types that are written.
pub const WRITTEN: [Block; 11] = [
    Block::Q4_0,
    Block::Q5_0,
    Block::Q5_1,
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
                Block::Q5_0 => q5_0(values, out),
                Block::Q5_1 => q5_1(values, out),
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

/// The value of the largest magnitude.
fn extreme(values: &[f32]) -> f32 {
    let larger = |best: f32, value: &f32| if value.abs() > best.abs() { *value } else { best };
    values.iter().fold(0.0, larger)
}

fn q4_0(values: &[f32], out: &mut [u8]) {
    let scale = extreme(values) / -8.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    let code = |value: &f32| (value * inverse + 8.5).min(15.0) as u8;
    let (low, high) = values.split_at(values.len() / 2);
    for ((out, low), high) in codes.iter_mut().zip(low).zip(high) {
        *out = code(low) | code(high) << 4;
    }
}

fn q5_0(values: &[f32], out: &mut [u8]) {
    let scale = extreme(values) / -16.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    five(values, codes, |value| ((value * inverse + 16.5) as i8).min(31).cast_unsigned());
}

fn q5_1(values: &[f32], out: &mut [u8]) {
    let (mut low, mut high) = (f32::MAX, f32::MIN);
    for value in values {
        low = if *value < low { *value } else { low };
        high = if *value > high { *value } else { high };
    }
    let scale = (high - low) / 31.0;
    let inverse = reciprocal(scale);
    let (halves, codes) = out.split_at_mut(4);
    put_half(scale, &mut halves[..2]);
    put_half(low, &mut halves[2..]);
    five(values, codes, |value| ((value - low) * inverse + 0.5) as u8);
}

/// Codes of five bits: the fifth of all in one word, then the others, those of the first half in the low half of bytes.
fn five(values: &[f32], out: &mut [u8], code: impl Fn(f32) -> u8) {
    let (fifth, codes) = out.split_at_mut(4);
    let (low, high) = values.split_at(values.len() / 2);
    let mut bits = 0_u32;
    for (at, ((out, low), high)) in codes.iter_mut().zip(low).zip(high).enumerate() {
        let (low, high) = (code(*low), code(*high));
        *out = low & 15 | high << 4;
        bits |= u32::from(low >> 4 & 1) << at | u32::from(high >> 4 & 1) << (at + 16);
    }
    fifth.copy_from_slice(&bits.to_le_bytes());
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
