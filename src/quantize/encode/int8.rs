//! LLM.int8() as bitsandbytes stores it: the weight is cast to f16 first, then each row is divided by
//! its absmax.

use super::matrix::{self, to_f16};
use super::threads::each;
use super::{EncodeError, Encoded, Matrix, floats};
use crate::chunk::simd::{Simd, for_each_simd};
use crate::dequant::Float;
use crate::format::dtype::Dtype;

/// Rows that one job encodes.
const ROWS: usize = 16;
/// Added to a number below 2^22, it leaves that rounded to even in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Codes, `q = round(w * ((1 / absmax) * 127))`, and the absmax of each row (SCB).
///
/// # Errors
/// If an element is not finite.
pub fn codes(weight: &Matrix<'_>, threads: usize) -> Result<(Vec<u8>, Vec<f32>), EncodeError> {
    let columns = weight.columns();
    let mut codes = vec![0; weight.elements()];
    let mut absmax = vec![0.0; weight.rows()];
    let simd = Simd::best();
    let jobs = codes.chunks_mut((ROWS * columns).max(1)).zip(absmax.chunks_mut(ROWS)).enumerate();
    each(threads, jobs, |(job, (codes, absmax))| {
        let mut values = vec![0.0; columns];
        let rows = codes.chunks_mut(columns.max(1)).zip(absmax);
        for (row, (codes, absmax)) in rows.enumerate() {
            let stored = weight.stored((job * ROWS + row) * columns, columns);
            *absmax = encode(simd, weight.float(), stored, &mut values, codes);
        }
    });
    match absmax.iter().position(|absmax| !absmax.is_finite()) {
        Some(row) => Err(beyond_f16(weight, row * columns)),
        None => Ok((codes, absmax)),
    }
}

/// The error that names the first element from number `at` on which f16 does not hold.
fn beyond_f16(weight: &Matrix<'_>, at: usize) -> EncodeError {
    let mut value = [0.0];
    for at in at..weight.elements() {
        weight.read(at, &mut value);
        let [value] = value;
        if !to_f16(value).is_finite() {
            return weight.names(at, value);
        }
    }
    weight.names(at, f32::INFINITY)
}

for_each_simd! {
    fn encode(float: Float, stored: &[u8], values: &mut [f32], codes: &mut [u8]) -> f32 = encode_body
}

#[inline(always)]
fn encode_body(float: Float, stored: &[u8], values: &mut [f32], codes: &mut [u8]) -> f32 {
    matrix::widen_body(float, stored, values);
    if float != Float::F16 {
        for value in values.iter_mut() {
            *value = to_f16(*value);
        }
    }
    let absmax = f32::from_bits(matrix::magnitude_body(values));
    if absmax == 0.0 {
        codes.fill(0);
        return absmax;
    }
    // As torch divides a number by a tensor: the reciprocal first.
    let scale = 1.0 / absmax * 127.0;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (*value * scale + ROUND).to_bits() as u8;
    }
    absmax
}

/// What bitsandbytes' `Linear8bitLt` stores for a weight.
///
/// # Errors
/// If an element is not finite.
pub fn encode_weight(weight: &Matrix<'_>, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let (codes, absmax) = self::codes(weight, threads)?;
    let (rows, columns) = (weight.rows() as u64, weight.columns() as u64);
    let tensor = |end, dtype, dims, bytes| Encoded { end, dtype, dims, bytes };
    Ok(vec![
        tensor("SCB", Dtype::F32, vec![rows], floats(&absmax)),
        tensor("weight", Dtype::I8, vec![rows, columns], codes),
        tensor("weight_format", Dtype::U8, vec![], vec![0]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_path_is_the_definition(
            values in proptest::collection::vec(-2.0_f32..2.0, 1..300),
            scale in -24_i32..14,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v * 2_f32.powi(scale)).collect();
            for float in Float::ALL {
                let bytes = crate::dequant::convert(&floats(&values), Float::F32, float);
                let matrix = Matrix::new(&bytes, float, 1, values.len()).unwrap();
                let mut halves = vec![0.0; values.len()];
                matrix.read(0, &mut halves);
                halves.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
                let absmax = halves.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                let code = |v: &f32| (v * (1.0 / absmax * 127.0)).round_ties_even() as i8;
                let expected: Vec<u8> = halves.iter().map(|v| code(v).cast_unsigned()).collect();
                for simd in Simd::available() {
                    let (mut scratch, mut codes) = (halves.clone(), vec![9; values.len()]);
                    let found = encode(simd, float, &bytes, &mut scratch, &mut codes);
                    prop_assert_eq!((found, &codes), (absmax, &expected), "{:?}", simd);
                }
            }
        }
    }

    #[test]
    fn what_f16_does_not_hold_is_refused_by_name() {
        for bad in [f32::NAN, f32::INFINITY, 70000.0] {
            let mut values = [1.0; 64];
            values[37] = bad;
            let bytes = floats(&values);
            let error = codes(&Matrix::new(&bytes, Float::F32, 4, 16).unwrap(), 2).unwrap_err();
            assert!(matches!(error, EncodeError::NotFinite { row: 2, column: 5, .. }), "{error}");
        }
    }
}
