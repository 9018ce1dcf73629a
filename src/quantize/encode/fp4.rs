//! compressed-tensors' `mxfp4-pack-quantized` and `nvfp4-pack-quantized`: FP4 E2M1, the even column in the low nibble.
//!
//! As compressed-tensors computes them of an f32 weight. NVFP4 has one scale of all, the same for every layer, so that
//! engines may put layers side by side that share it.

use super::fp8::e4m3;
use super::threads::each;
use super::{EncodeError, Encoded, Matrix};
use crate::dequant::float;
use crate::format::dtype::Dtype;

/// The largest number of E2M1.
const MAX: f32 = 6.0;
/// What NVFP4's scales are multiplied with before they are rounded to E4M3. So those of groups whose largest value is
/// from 0.0015 to 42 have all their bits.
pub const GLOBAL: f32 = 64.0;
/// What stands for a scale of 0.
const SMALL: u8 = 0x20;

/// Scales in a byte each, and the codes that go with them; `scale` makes a byte and what it is worth of the largest
/// magnitude in a group.
fn groups(
    weight: &Matrix<'_>,
    group: usize,
    threads: usize,
    scale: impl Fn(f32) -> (u8, f32) + Sync,
) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
    let columns = weight.columns();
    if !columns.is_multiple_of(group) {
        return Err(EncodeError::Groups { columns: columns as u64, group: group as u64 });
    }
    weight.check_finite(threads)?;
    let mut codes = vec![0; weight.elements() / 2];
    let mut scales = vec![0; weight.elements() / group];
    let lines = codes.chunks_mut((columns / 2).max(1));
    let jobs = lines.zip(scales.chunks_mut((columns / group).max(1))).enumerate();
    each(threads, jobs, |(row, (codes, scales))| {
        let mut values = vec![0.0; columns];
        weight.row(row, &mut values);
        let parts = values.chunks(group).zip(codes.chunks_mut(group / 2)).zip(scales);
        for ((values, codes), byte) in parts {
            let amax = values.iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
            let (own, worth) = scale(amax);
            *byte = own;
            for (out, pair) in codes.iter_mut().zip(values.as_chunks::<2>().0) {
                let [low, high] = pair.map(|value| e2m1(value / worth));
                *out = low | high << 4;
            }
        }
    });
    Ok((codes, scales))
}

/// The nearest E2M1, ties to even; what is beyond is the largest. A negative number that becomes 0 keeps its sign.
fn e2m1(value: f32) -> u8 {
    let magnitude = value.abs();
    let code = match magnitude {
        m if m <= 0.25 => 0,
        m if m < 0.75 => 1,
        m if m <= 1.25 => 2,
        m if m < 1.75 => 3,
        m if m <= 2.5 => 4,
        m if m < 3.5 => 5,
        m if m <= 5.0 => 6,
        _ => 7,
    };
    if value < 0.0 { code | 8 } else { code }
}

/// The tensors of a layer as MXFP4.
///
/// # Errors
/// If an element is not finite, or the inputs are no multiple of 32.
pub fn mxfp4(weight: &Matrix<'_>, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    // A power of two whose sixfold is about the largest magnitude: the exponent of that, rounded up where two bits
    // of mantissa would, less 2.
    let scale = |amax: f32| {
        let exponent = (amax.to_bits() + (1 << 21)) >> 23;
        let byte = exponent.saturating_sub(2).min(254) as u8;
        (byte, float::e8m0(byte))
    };
    let (codes, scales) = groups(weight, 32, threads, scale)?;
    let (rows, columns) = (weight.rows() as u64, weight.columns() as u64);
    let dtype = Dtype::U8;
    Ok(vec![
        Encoded { end: "weight_packed", dtype, dims: vec![rows, columns / 2], bytes: codes },
        Encoded { end: "weight_scale", dtype, dims: vec![rows, columns / 32], bytes: scales },
    ])
}

/// The tensors of a layer as NVFP4.
///
/// # Errors
/// If an element is not finite or beyond what the scale of all reaches, or the inputs are no multiple of 16.
pub fn nvfp4(weight: &Matrix<'_>, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let scale = |amax: f32| {
        let byte = e4m3((GLOBAL * (amax / MAX)).min(448.0));
        let byte = if byte == 0 { SMALL } else { byte };
        (byte, float::e4m3(byte) / GLOBAL)
    };
    let (codes, scales) = groups(weight, 16, threads, scale)?;
    // Saturated: a larger magnitude than any scale reaches.
    let beyond = |at: usize| {
        let mut own = [0.0; 16];
        weight.read(at * 16, &mut own);
        own.iter().any(|value| value.abs() > 448.0 / GLOBAL * MAX * 1.05)
    };
    if scales.iter().enumerate().any(|(at, scale)| *scale == 0x7e && beyond(at)) {
        return Err(EncodeError::Nvfp4Range);
    }
    let (rows, columns) = (weight.rows() as u64, weight.columns() as u64);
    let global = GLOBAL.to_le_bytes().to_vec();
    let packed = vec![rows, columns / 2];
    Ok(vec![
        Encoded { end: "weight_global_scale", dtype: Dtype::F32, dims: vec![1], bytes: global },
        Encoded { end: "weight_packed", dtype: Dtype::U8, dims: packed, bytes: codes },
        Encoded {
            end: "weight_scale",
            dtype: Dtype::F8_E4M3,
            dims: vec![rows, columns / 16],
            bytes: scales,
        },
    ])
}
