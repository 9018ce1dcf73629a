//! Weights to be encoded, and the roundings that reference tools compute in.

use super::EncodeError;
use super::threads::each;
use crate::chunk::simd::{Simd, for_each_simd};
use crate::dequant::Float;

/// Elements that are converted at a time: they stay in the first-level cache.
const STEP: usize = 4096;

/// A weight of a linear layer: `rows` outputs of `columns` inputs, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    bytes: &'a [u8],
    float: Float,
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Checks that `bytes` are `rows x columns` elements of type `float`.
    ///
    /// # Errors
    /// If the bytes are not those of the shape.
    pub fn new(
        bytes: &'a [u8],
        float: Float,
        rows: usize,
        columns: usize,
    ) -> Result<Self, EncodeError> {
        let want = rows.checked_mul(columns).and_then(|n| n.checked_mul(float.size() as usize));
        if want != Some(bytes.len()) {
            let (got, want) = (bytes.len(), want.unwrap_or(usize::MAX));
            return Err(EncodeError::Length { got, want, rows, columns });
        }
        Ok(Self { bytes, float, rows, columns })
    }

    /// Outputs of the layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of the layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The type of its elements.
    pub fn float(&self) -> Float {
        self.float
    }

    /// Its elements.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// The stored elements from number `at` on.
    pub(super) fn stored(&self, at: usize, len: usize) -> &'a [u8] {
        let size = self.float.size() as usize;
        self.bytes.get(at * size..(at + len) * size).unwrap_or_default()
    }

    /// The elements from number `at` on, in row-major order.
    pub fn read(&self, at: usize, out: &mut [f32]) {
        widen(Simd::best(), self.float, self.stored(at, out.len()), out);
    }

    /// A row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.read(row * self.columns, out);
    }

    /// An error that names the first element that is NaN or infinite.
    ///
    /// # Errors
    /// If one is not; the first is named.
    pub fn check_finite(&self, threads: usize) -> Result<(), EncodeError> {
        let simd = Simd::best();
        let mut found = vec![false; self.elements().div_ceil(STEP * 16)];
        each(threads, found.iter_mut().enumerate(), |(job, found)| {
            let mut values = [0.0; STEP];
            let first = job * STEP * 16;
            let end = self.elements().min(first + STEP * 16);
            for at in (first..end).step_by(STEP) {
                let values = &mut values[..STEP.min(end - at)];
                widen(simd, self.float, self.stored(at, values.len()), values);
                *found |= !is_finite(magnitude(simd, values));
            }
        });
        match found.iter().position(|found| *found) {
            Some(job) => Err(self.not_finite(job * STEP * 16)),
            None => Ok(()),
        }
    }

    /// The error that names the first element from number `at` on that is NaN or infinite.
    pub(super) fn not_finite(&self, at: usize) -> EncodeError {
        let mut value = [0.0];
        for at in at..self.elements() {
            self.read(at, &mut value);
            let [value] = value;
            if !value.is_finite() {
                return self.names(at, value);
            }
        }
        self.names(at, f32::NAN)
    }

    /// The error that names an element.
    pub(super) fn names(&self, at: usize, value: f32) -> EncodeError {
        let columns = self.columns.max(1);
        EncodeError::NotFinite { row: at / columns, column: at % columns, value }
    }
}

/// Whether the largest magnitude of some elements, in bits, is that of a number.
pub(super) fn is_finite(magnitude: u32) -> bool {
    magnitude < 0x7f80_0000
}

for_each_simd! {
    /// The elements as f32.
    pub(super) fn widen(float: Float, bytes: &[u8], out: &mut [f32]) = widen_body
}

#[inline(always)]
pub(super) fn widen_body(float: Float, bytes: &[u8], out: &mut [f32]) {
    match float {
        Float::F32 => {
            for (out, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_bits(u32::from_le_bytes(*word));
            }
        }
        Float::BF16 => {
            for (out, half) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
            }
        }
        Float::F16 => {
            for (out, half) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32_of_f16(u16::from_le_bytes(*half));
            }
        }
    }
}

/// A half without branches, so that loops of it are vectorised.
#[inline(always)]
fn f32_of_f16(half: u16) -> f32 {
    let half = u32::from(half);
    // Moves the exponent's bias from 15 to 127; exact for subnormal halves too.
    let scaled = f32::from_bits((half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (half & 0x8000) << 16)
}

for_each_simd! {
    /// The largest magnitude, as bits: numbers order as their bits do, NaN above all.
    pub(super) fn magnitude(values: &[f32]) -> u32 = magnitude_body
}

#[inline(always)]
pub(super) fn magnitude_body(values: &[f32]) -> u32 {
    let (wide, rest) = values.as_chunks::<64>();
    let mut lanes = [0_u32; 64];
    for values in wide {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = (*lane).max(value.to_bits() & 0x7fff_ffff);
        }
    }
    let rest = rest.iter().map(|value| value.to_bits() & 0x7fff_ffff);
    rest.chain(lanes).max().unwrap_or(0)
}

/// `value` rounded to the nearest half, ties to even; beyond 65504 an infinity.
#[inline(always)]
pub(super) fn to_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
    let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)) & !0x1fff;
    let normal = if normal >= 0x4780_0000 { normal.max(0x7f80_0000) } else { normal };
    // Below 2^-14 halves are multiples of 2^-24, which is the step of numbers from 0.5 on.
    let subnormal = (f32::from_bits(magnitude) + 0.5) - 0.5;
    let rounded = if magnitude < 0x3880_0000 { subnormal.to_bits() } else { normal };
    f32::from_bits(rounded | sign)
}

/// `value` rounded to the nearest bf16, ties to even.
#[inline(always)]
pub(super) fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// `value` as the reference has it after an operation on elements of this type.
#[inline(always)]
pub(super) fn rounded(float: Float, value: f32) -> f32 {
    match float {
        Float::F32 => value,
        Float::F16 => to_f16(value),
        Float::BF16 => to_bf16(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn halves_widen_and_round_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (own, theirs) = (f32_of_f16(bits), f16::from_bits(bits).to_f32());
            assert!(own == theirs || (own.is_nan() && theirs.is_nan()), "{bits:#x}");
            // Every half's neighbours in f32, and the midpoints to the next half.
            for delta in [0_u32, 1, 0xfff, 0x1000, 0x1001, 0x1fff] {
                let value = f32::from_bits(theirs.to_bits().wrapping_add(delta));
                if value.is_finite() {
                    let half = f16::from_f32(value).to_f32();
                    assert_eq!(to_f16(value).to_bits(), half.to_bits(), "{value:e}");
                    let brain = bf16::from_f32(value).to_f32();
                    assert_eq!(to_bf16(value).to_bits(), brain.to_bits(), "{value:e}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let mut values = vec![1.0_f32; 300 * 1000];
        for (at, value) in [(299_999, f32::NAN), (131_073, f32::NEG_INFINITY)] {
            values[at] = value;
            let bytes = super::super::floats(&values);
            let matrix = Matrix::new(&bytes, Float::F32, 300, 1000).unwrap();
            for threads in [1, 3] {
                let Err(EncodeError::NotFinite { row, column, value: named }) =
                    matrix.check_finite(threads)
                else {
                    panic!("{value} passed")
                };
                assert_eq!((row, column), (at / 1000, at % 1000));
                assert!(named == value || (named.is_nan() && value.is_nan()));
            }
        }
        assert!(Matrix::new(&[0; 8], Float::F32, 1, 3).is_err());
    }
}
