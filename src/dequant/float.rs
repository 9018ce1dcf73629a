//! The floating-point types that weights are dequantized to, and the FP8 that some are stored in.

use half::{bf16, f16};

use crate::format::dtype::Dtype;

/// A type that weights are delivered in, or that scales are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits, 5 of them exponent.
    F16,
    /// 16 bits, 8 of them exponent.
    BF16,
}

impl Float {
    /// All of them, in the order of their numbers in kernels.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Its number in kernels.
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::BF16 => 2,
        }
    }

    /// The element type of the format.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    /// The float of that element type, if it is one.
    pub const fn of_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Appends `value`, rounded to nearest, ties to even.
    pub(crate) fn push(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend_from_slice(&value.to_le_bytes()),
            Self::F16 => out.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            Self::BF16 => out.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
        }
    }

    /// The element at `at` of `bytes`; 0 beyond their end.
    pub(crate) fn read(self, bytes: &[u8], at: usize) -> f32 {
        match self {
            Self::F32 => f32::from_bits(word(bytes, at)),
            Self::F16 => f16::from_bits(short(bytes, 2 * at)).to_f32(),
            Self::BF16 => bf16::from_bits(short(bytes, 2 * at)).to_f32(),
        }
    }
}

/// The elements of `bytes`, of type `from`, as `to`: rounded to nearest, ties to even. A NaN is quiet and
/// keeps its sign and the highest bits of its payload. The reference of `kernels/convert.*`.
pub fn convert(bytes: &[u8], from: Float, to: Float) -> Vec<u8> {
    let count = bytes.len() / from.size() as usize;
    let mut converted = Vec::with_capacity(count * to.size() as usize);
    if from == to {
        converted.extend_from_slice(bytes);
        return converted;
    }
    for at in 0..count {
        to.push(from.read(bytes, at), &mut converted);
    }
    converted
}

/// Word number `at`; 0 beyond the end.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
}

/// The 16 bits at byte `at`; 0 beyond the end.
pub(super) fn short(bytes: &[u8], at: usize) -> u16 {
    let pair = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    pair.map_or(0, |pair| u16::from_le_bytes(*pair))
}

/// The byte at `at`; 0 beyond the end.
pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// FP8 E4M3 without infinities (the OCP's, `float8_e4m3fn`).
pub(crate) fn e4m3(code: u8) -> f32 {
    let magnitude = code & 0x7f;
    let value = match (magnitude >> 3, magnitude & 7) {
        (15, 7) => f32::NAN,
        (0, mantissa) => f32::from(mantissa) / 512.0,
        _ => f32::from_bits((u32::from(magnitude) << 20) + (120 << 23)),
    };
    if code & 0x80 != 0 { -value } else { value }
}

/// FP4 E2M1, of the lowest four bits.
pub(crate) fn e2m1(code: u8) -> f32 {
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let value = VALUES[usize::from(code & 7)];
    if code & 8 != 0 { -value } else { value }
}

/// A power of two out of its exponent (the OCP's E8M0): 2^(code - 127).
pub(crate) fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x40_0000),
        0xff => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_to_even_and_keep_nan_quiet() {
        let one = |bits: u32, to| convert(&bits.to_le_bytes(), Float::F32, to);
        let half = |bits: u32, to| u16::from_le_bytes(one(bits, to).try_into().unwrap());
        for (bits, f16, bf16) in [
            (0x3f80_8000, 0x3c04, 0x3f80),
            (0x3f81_8000, 0x3c0c, 0x3f82),
            (0x3f80_1000, 0x3c00, 0x3f80),
            (0x3f80_3000, 0x3c02, 0x3f80),
            (0x7f80_0001, 0x7e00, 0x7fc0),
            (0xff92_0000, 0xfe90, 0xffd2),
            (0x0000_0001, 0x0000, 0x0000),
            (0x3380_0000, 0x0001, 0x3380),
            (0x477f_f000, 0x7c00, 0x4780),
        ] {
            assert_eq!((half(bits, Float::F16), half(bits, Float::BF16)), (f16, bf16), "{bits:#x}");
        }
        for bits in 0..=u16::MAX {
            for (from, nan) in [(Float::F16, 0x7c00), (Float::BF16, 0x7f80)] {
                let wide = convert(&bits.to_le_bytes(), from, Float::F32);
                let back = convert(&wide, Float::F32, from);
                let quiet = if from == Float::F16 { 0x200 } else { 0x40 };
                let expected = if bits & 0x7fff > nan { bits | quiet } else { bits };
                assert_eq!(back, expected.to_le_bytes(), "{from:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn e4m3_is_sign_exponent_and_mantissa() {
        for code in 0..=255_u8 {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
            let expected = match exponent {
                15 if code & 7 == 7 => f64::NAN,
                0 => mantissa * 2_f64.powi(-6),
                _ => (1.0 + mantissa) * 2_f64.powi(exponent - 7),
            };
            let value = f64::from(e4m3(code));
            assert!(value.abs() == expected || (value.is_nan() && expected.is_nan()), "{code:#x}");
            assert_eq!(e4m3(code).is_sign_negative(), code & 0x80 != 0, "{code:#x}");
        }
        assert_eq!(e4m3(0x7e), 448.0);
    }
}
