//! bitsandbytes NF4, as its CPU path stores it.
//!
//! The code of an element counts the midpoints of the code book below `w * (1 / absmax)`. The CPU path
//! divides by absmax in the last block if that is short, gives an all-zero block the code of 0 (7), and
//! pads an odd number of elements with it.

use super::nested::{self, Second};
use super::threads::each;
use super::{EncodeError, Encoded, Matrix, floats, matrix};
use crate::chunk::simd::{Simd, for_each_simd};
use crate::dequant::Float;
use crate::dequant::codes::NF4;
use crate::format::dtype::Dtype;

/// Elements per absmax, as transformers asks for.
pub const BLOCK: usize = 64;
/// Blocks that one job encodes.
const JOB: usize = 1024;
/// The smallest absmax whose reciprocal the reference takes.
const MIN_ABSMAX: f32 = 1e-38;

/// Halfway between neighbours of the code book, rounded as the reference does.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (NF4[i] + NF4[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
};

/// The codes and absmax of a weight: elements 2i and 2i + 1 in the high and the low nibble of byte i.
///
/// # Errors
/// If an element is not finite.
pub fn codes(weight: &Matrix<'_>, threads: usize) -> Result<(Vec<u8>, Vec<f32>), EncodeError> {
    let elements = weight.elements();
    let mut codes = vec![0; elements.div_ceil(2)];
    let mut absmax = vec![0.0; elements.div_ceil(BLOCK)];
    let simd = Simd::best();
    let jobs = codes.chunks_mut(JOB * BLOCK / 2).zip(absmax.chunks_mut(JOB)).enumerate();
    each(threads, jobs, |(job, (codes, absmax))| {
        let first = job * JOB * BLOCK;
        let len = (elements - first).min(JOB * BLOCK);
        encode(simd, weight.float(), weight.stored(first, len), codes, absmax);
    });
    match absmax.iter().position(|absmax| !absmax.is_finite()) {
        Some(block) => Err(weight.not_finite(block * BLOCK)),
        None => Ok((codes, absmax)),
    }
}

for_each_simd! {
    fn encode(float: Float, bytes: &[u8], codes: &mut [u8], absmax: &mut [f32]) = encode_body
}

#[inline(always)]
fn encode_body(float: Float, bytes: &[u8], codes: &mut [u8], absmax: &mut [f32]) {
    let size = float.size() as usize;
    let blocks = bytes.chunks(BLOCK * size).zip(codes.chunks_mut(BLOCK / 2)).zip(absmax);
    let mut values = [0.0_f32; BLOCK];
    for ((bytes, codes), absmax) in blocks {
        let len = bytes.len() / size;
        if len < BLOCK {
            // What pads an odd number is 0.
            values = [0.0; BLOCK];
        }
        matrix::widen_body(float, bytes, &mut values);
        let largest = f32::from_bits(matrix::magnitude_body(&values));
        let divisor = if largest > MIN_ABSMAX { largest } else { MIN_ABSMAX };
        if len == BLOCK {
            *absmax = largest;
            let reciprocal = 1.0 / divisor;
            for value in &mut values {
                *value *= reciprocal;
            }
        } else {
            *absmax = if largest.is_finite() { divisor } else { largest };
            for value in &mut values {
                *value /= divisor;
            }
        }
        let mut counts = [0_u32; BLOCK];
        for (count, value) in counts.iter_mut().zip(&values) {
            *count = below(*value);
        }
        for (code, [high, low]) in codes.iter_mut().zip(counts.as_chunks::<2>().0) {
            *code = (high << 4 | low) as u8;
        }
    }
}

/// How many midpoints are less: a sum without branches, which is vectorised over the block.
#[inline(always)]
fn below(value: f32) -> u32 {
    let mut count = 0;
    for midpoint in MIDPOINTS {
        count += u32::from(midpoint < value);
    }
    count
}

/// What bitsandbytes' `Linear4bit` stores for a weight; `double` quantizes the absmax in their turn.
///
/// # Errors
/// If an element is not finite.
pub fn encode_weight(
    weight: &Matrix<'_>,
    double: bool,
    threads: usize,
) -> Result<Vec<Encoded>, EncodeError> {
    let (codes, absmax) = self::codes(weight, threads)?;
    let code_len = codes.len() as u64;
    let blocks = absmax.len() as u64;
    let second = double.then(|| nested::encode(&absmax));
    let state = state(weight, second.as_ref());
    let tensor = |end, dtype, dims, bytes| Encoded { end, dtype, dims, bytes };
    let mut tensors = vec![tensor("weight", Dtype::U8, vec![code_len, 1], codes)];
    match second {
        None => {
            tensors.push(tensor("weight.absmax", Dtype::F32, vec![blocks], floats(&absmax)));
        }
        Some(Second { codes, absmax, .. }) => {
            let second = absmax.len() as u64;
            let map = floats(nested::code_book());
            tensors.extend([
                tensor("weight.absmax", Dtype::U8, vec![blocks], codes),
                tensor("weight.nested_absmax", Dtype::F32, vec![second], floats(&absmax)),
                tensor("weight.nested_quant_map", Dtype::F32, vec![256], map),
            ]);
        }
    }
    let state_len = state.len() as u64;
    tensors.extend([
        tensor("weight.quant_map", Dtype::F32, vec![16], floats(&NF4)),
        tensor(
            "weight.quant_state.bitsandbytes__nf4",
            Dtype::U8,
            vec![state_len],
            state.into_bytes(),
        ),
    ]);
    Ok(tensors)
}

/// The length of [`encode_weight`]'s `quant_state`.
///
/// # Errors
/// If an element is not finite.
pub fn state_len(weight: &Matrix<'_>, double: bool, threads: usize) -> Result<usize, EncodeError> {
    if !double {
        return Ok(plain_state_len(weight.float(), weight.rows() as u64, weight.columns() as u64));
    }
    let (_, absmax) = codes(weight, threads)?;
    Ok(state(weight, Some(&nested::encode(&absmax))).len())
}

/// The same where absmax are stored as they are: of the weight's type and shape alone.
pub fn plain_state_len(float: Float, rows: u64, columns: u64) -> usize {
    state_of(float, rows, columns, "").len()
}

fn state(weight: &Matrix<'_>, second: Option<&Second>) -> String {
    let nested = second.map_or_else(String::new, |second| {
        let offset = nested::python_float(second.offset);
        let block = nested::BLOCK;
        format!(
            ", \"nested_blocksize\": {block}, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}"
        )
    });
    state_of(weight.float(), weight.rows() as u64, weight.columns() as u64, &nested)
}

/// `quant_state` as Python's `json.dumps` writes it.
fn state_of(float: Float, rows: u64, columns: u64, nested: &str) -> String {
    let dtype = match float {
        Float::F32 => "float32",
        Float::F16 => "float16",
        Float::BF16 => "bfloat16",
    };
    format!(
        "{{\"quant_type\": \"nf4\", \"blocksize\": {BLOCK}, \"dtype\": \"{dtype}\", \
         \"shape\": [{rows}, {columns}]{nested}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, an element at a time.
    fn oracle(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let (mut codes, mut absmax) = (Vec::new(), Vec::new());
        for block in values.chunks(BLOCK) {
            let largest = block.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            let divisor = largest.max(MIN_ABSMAX);
            absmax.push(if block.len() == BLOCK { largest } else { divisor });
            for value in block {
                let scaled = match block.len() {
                    BLOCK => value * (1.0 / divisor),
                    _ => value / divisor,
                };
                codes.push(MIDPOINTS.iter().filter(|m| **m < scaled).count() as u8);
            }
        }
        if codes.len() % 2 == 1 {
            codes.push(7);
        }
        (codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect(), absmax)
    }

    proptest! {
        #[test]
        fn every_path_is_the_definition(
            values in proptest::collection::vec(-2.0_f32..2.0, 1..300),
            scale in -140_i32..100,
        ) {
            let values: Vec<f32> =
                values.iter().map(|v| if *v < -1.5 { 0.0 } else { v * 2_f32.powi(scale) }).collect();
            let bytes = floats(&values);
            for float in Float::ALL {
                let bytes = crate::dequant::convert(&bytes, Float::F32, float);
                let matrix = Matrix::new(&bytes, float, 1, values.len()).unwrap();
                let mut read = vec![0.0; values.len()];
                matrix.read(0, &mut read);
                prop_assume!(read.iter().all(|value| value.is_finite()));
                let expected = oracle(&read);
                for simd in Simd::available() {
                    let mut codes = vec![0; values.len().div_ceil(2)];
                    let mut absmax = vec![0.0; values.len().div_ceil(BLOCK)];
                    encode(simd, float, &bytes, &mut codes, &mut absmax);
                    prop_assert_eq!((codes, absmax), expected.clone(), "{:?} {:?}", simd, float);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_by_name() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [3, 130] {
                let mut values = [0.5; 131];
                values[at] = bad;
                let bytes = floats(&values);
                let error =
                    codes(&Matrix::new(&bytes, Float::F32, 1, 131).unwrap(), 2).unwrap_err();
                assert!(matches!(error, EncodeError::NotFinite { column, .. } if column == at));
            }
        }
    }
}
