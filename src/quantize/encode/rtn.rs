//! Round to nearest: each family's own rule for scales and zero points, to [`Codes`].
//!
//! | rule | scale | zero point | code | computed in |
//! |---|---|---|---|---|
//! | GPTQ | (max - min) / (2^b - 1), 0 included; symmetric: max = max(abs min, max), min = -max if min < 0 | round(-min / s), or 2^(b-1) | round(w / s) + z | f32 |
//! | AWQ | max(max - min, 1e-5) / 15 | -round(min / s) | round((w' + z s) / s) of the value w' that round(w / s) + z stands for | f16 |
//! | compressed-tensors | amax / ((2^b - 1) / 2), or (max - min) / (2^b - 1) | 0, or -2^(b-1) - min / s | round(w / s + z) | the weight's type |
//!
//! Every operation is rounded to the type named. Codes and zero points are kept from 0 to 2^b - 1.

use super::matrix::{rounded, to_f16};
use super::threads::each;
use super::{EncodeError, Matrix};
use crate::chunk::simd::{Simd, for_each_simd};
use crate::dequant::Float;
use crate::dequant::codes::Codes;

/// Whose rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// GPTQ's.
    Gptq,
    /// AWQ's: 4 bits, asymmetric.
    Awq,
    /// compressed-tensors'.
    Packed,
}

/// What to round to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rounding {
    /// Whose rule.
    pub rule: Rule,
    /// Bits per code, 1 to 8.
    pub bits: u32,
    /// Columns per group; none for the whole row.
    pub group: Option<usize>,
    /// Whether zero points are the middle.
    pub symmetric: bool,
}

/// Rounds every weight to the nearest code. The last group of a row is shorter where groups do not
/// divide it, which only GPTQ's rule allows.
///
/// # Errors
/// If an element is not finite, or there are no such bits.
pub fn codes(
    weight: &Matrix<'_>,
    rounding: Rounding,
    threads: usize,
) -> Result<Codes, EncodeError> {
    let Rounding { rule, bits, group, symmetric } = rounding;
    let (rows, columns) = (weight.rows(), weight.columns());
    let group = group.unwrap_or(columns).min(columns);
    if !(1..=8).contains(&bits) || group == 0 {
        return Err(EncodeError::Scheme { bits, group });
    }
    if rule != Rule::Gptq && !columns.is_multiple_of(group) {
        return Err(EncodeError::Groups { columns: columns as u64, group: group as u64 });
    }
    if rule == Rule::Awq && (bits, symmetric) != (4, false) {
        return Err(EncodeError::AwqCodes);
    }
    weight.check_finite(threads)?;
    let groups = columns.div_ceil(group);
    let mut codes = vec![0; rows * columns];
    let mut scales = vec![0.0; rows * groups];
    let mut zeros = vec![0; rows * groups];
    let simd = Simd::best();
    let jobs =
        codes.chunks_mut(columns).zip(scales.chunks_mut(groups)).zip(zeros.chunks_mut(groups));
    each(threads, jobs.enumerate(), |(row, ((codes, scales), zeros))| {
        let mut values = vec![0.0; columns];
        weight.row(row, &mut values);
        let groups = values.chunks_mut(group).zip(codes.chunks_mut(group));
        for ((values, codes), (scale, zero)) in groups.zip(scales.iter_mut().zip(zeros)) {
            (*scale, *zero) = match rule {
                Rule::Gptq => gptq(simd, bits, symmetric, values, codes),
                Rule::Awq => awq(simd, values, codes),
                Rule::Packed => packed(simd, weight.float(), bits, symmetric, values, codes),
            };
        }
    });
    if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
        // f16 does not hold a weight of this group.
        let column = at % groups * group;
        return Err(weight.names(at / groups * columns + column, f32::INFINITY));
    }
    Ok(Codes { rows, columns, bits, group, symmetric, codes, scales, zeros, index: None })
}

/// The least and the greatest.
#[inline(always)]
fn range(values: &[f32]) -> (f32, f32) {
    let (wide, rest) = values.as_chunks::<16>();
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for values in wide {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(values) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
    let low = rest.iter().copied().chain(low).fold(f32::INFINITY, f32::min);
    let high = rest.iter().copied().chain(high).fold(f32::NEG_INFINITY, f32::max);
    (low, high)
}

/// The scale and the zero point of GPTQ's rule for a group.
pub fn gptq_grid(values: &[f32], bits: u32, symmetric: bool) -> (f32, f32) {
    let top = ((1_u32 << bits) - 1) as f32;
    let (low, high) = range(values);
    let (mut low, mut high) = (low.min(0.0), high.max(0.0));
    if symmetric {
        high = high.max(low.abs());
        if low < 0.0 {
            low = -high;
        }
    }
    if low == 0.0 && high == 0.0 {
        (low, high) = (-1.0, 1.0);
    }
    let scale = (high - low) / top;
    let zero = if symmetric { (top + 1.0) / 2.0 } else { (-low / scale).round_ties_even() };
    (scale, zero)
}

for_each_simd! {
    fn gptq(bits: u32, symmetric: bool, values: &mut [f32], codes: &mut [u8]) -> (f32, u8) = gptq_body
}

#[inline(always)]
fn gptq_body(bits: u32, symmetric: bool, values: &mut [f32], codes: &mut [u8]) -> (f32, u8) {
    let top = ((1_u32 << bits) - 1) as f32;
    let (scale, zero) = gptq_grid(values, bits, symmetric);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((*value / scale).round_ties_even() + zero).clamp(0.0, top) as u8;
    }
    (scale, zero as u8)
}

for_each_simd! {
    fn awq(values: &mut [f32], codes: &mut [u8]) -> (f32, u8) = awq_body
}

#[inline(always)]
fn awq_body(values: &mut [f32], codes: &mut [u8]) -> (f32, u8) {
    for value in values.iter_mut() {
        *value = to_f16(*value);
    }
    let (low, high) = range(values);
    let scale = to_f16(to_f16(high - low).max(to_f16(1e-5)) / 15.0);
    let zero = (-to_f16(low / scale).round_ties_even()).clamp(0.0, 15.0);
    let offset = to_f16(zero * scale);
    for (code, value) in codes.iter_mut().zip(values) {
        let nearest = to_f16(to_f16(*value / scale).round_ties_even() + zero).clamp(0.0, 15.0);
        let stands_for = to_f16((nearest - zero) * scale);
        let again = to_f16(to_f16(stands_for + offset) / scale);
        *code = again.round_ties_even().clamp(0.0, 15.0) as u8;
    }
    (scale, zero as u8)
}

for_each_simd! {
    fn packed(float: Float, bits: u32, symmetric: bool, values: &mut [f32], codes: &mut [u8]) -> (f32, u8)
        = packed_body
}

#[inline(always)]
fn packed_body(
    float: Float,
    bits: u32,
    symmetric: bool,
    values: &mut [f32],
    codes: &mut [u8],
) -> (f32, u8) {
    let (top, middle) = (((1_u32 << bits) - 1) as f32, (1_u32 << (bits - 1)) as f32);
    let (low, high) = range(values);
    let (low, high) = (low.min(0.0), high.max(0.0));
    let round = |value| rounded(float, value);
    let (scale, zero) = match symmetric {
        true => (round(low.abs().max(high) / (top / 2.0)), 0.0),
        false => {
            let scale = round(round(high - low) / top);
            let zero = round(-middle - round(low / scale)).clamp(-middle, top - middle);
            // 0 / 0 has no value, and becomes 0 as an integer.
            (scale, if scale == 0.0 { 0.0 } else { zero.round_ties_even() })
        }
    };
    let scale = if scale == 0.0 { epsilon(float) } else { scale };
    for (code, value) in codes.iter_mut().zip(values) {
        let scaled = round(*value / scale);
        let scaled = if symmetric { scaled } else { round(scaled + zero) };
        let code_value = scaled.clamp(-middle, top - middle).round_ties_even() + middle;
        *code = code_value as u8;
    }
    (scale, (zero + middle) as u8)
}

/// What stands for a scale of 0: the step of the type at 1.
pub(super) fn epsilon(float: Float) -> f32 {
    match float {
        Float::F32 => f32::EPSILON,
        Float::F16 => half::f16::EPSILON.to_f32(),
        Float::BF16 => half::bf16::EPSILON.to_f32(),
    }
}
