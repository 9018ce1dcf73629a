//! compressed-tensors' `float-quantized`: FP8 E4M3 with a scale per row, amax / 448 in the weight's type.

use super::matrix::rounded;
use super::rtn::epsilon;
use super::threads::each;
use super::{EncodeError, Encoded, Matrix};
use crate::format::dtype::Dtype;

/// The largest number of E4M3.
const MAX: f32 = 448.0;

/// The tensors of a layer.
///
/// # Errors
/// If an element is not finite.
pub fn encode_weight(weight: &Matrix<'_>, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    weight.check_finite(threads)?;
    let (float, columns) = (weight.float(), weight.columns());
    let mut codes = vec![0; weight.elements()];
    let mut scales = vec![0.0; weight.rows()];
    let jobs = codes.chunks_mut(columns.max(1)).zip(&mut scales).enumerate();
    each(threads, jobs, |(row, (codes, scale))| {
        let mut values = vec![0.0; columns];
        weight.row(row, &mut values);
        let amax = values.iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
        *scale = rounded(float, amax / MAX);
        if *scale == 0.0 {
            *scale = epsilon(float);
        }
        for (code, value) in codes.iter_mut().zip(&values) {
            *code = e4m3(rounded(float, value / *scale).clamp(-MAX, MAX));
        }
    });
    let mut bytes = Vec::with_capacity(scales.len() * float.size() as usize);
    scales.iter().for_each(|scale| float.push(*scale, &mut bytes));
    let (rows, columns) = (weight.rows() as u64, columns as u64);
    Ok(vec![
        Encoded { end: "weight", dtype: Dtype::F8_E4M3, dims: vec![rows, columns], bytes: codes },
        Encoded { end: "weight_scale", dtype: float.dtype(), dims: vec![rows, 1], bytes },
    ])
}

/// The nearest E4M3, ties to even, of a number from -448 to 448.
pub(super) fn e4m3(value: f32) -> u8 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 24) as u8 & 0x80, f32::from_bits(bits & 0x7fff_ffff));
    // Below 2^-6 numbers are multiples of 2^-9, which is the step of numbers from 2^14 on.
    let code = if magnitude < 0.015_625 {
        (magnitude + 16384.0).to_bits() - 16384_f32.to_bits()
    } else {
        let bits = magnitude.to_bits();
        (bits + 0x7_ffff + (bits >> 20 & 1) - (120 << 23)) >> 20
    };
    sign | code as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dequant::float::e4m3 as decode;

    #[test]
    fn every_number_and_midpoint_rounds_to_even() {
        for code in 0..=0x7e_u8 {
            assert_eq!((e4m3(decode(code)), e4m3(-decode(code))), (code, code | 0x80));
            if code < 0x7e {
                let middle = (decode(code) + decode(code + 1)) / 2.0;
                assert_eq!(e4m3(middle), code + code % 2, "{middle}");
                assert_eq!(e4m3(f32::from_bits(middle.to_bits() - 1)), code);
                assert_eq!(e4m3(f32::from_bits(middle.to_bits() + 1)), code + 1);
            }
        }
    }
}
