//! Elements as byte planes and back. Of a float, the sign moves below the exponent first, so that
//! the exponent begins the highest plane, and what follows it has no structure.

#![expect(clippy::indexing_slicing, reason = "all planes are cut to one length before")]

use crate::chunk::simd::for_each_simd;

/// Bytes of the widest element, which has so many planes.
pub(super) const MAX_WIDTH: usize = 8;

/// How elements lie in planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One byte.
    Byte,
    /// Two bytes, which are no float.
    Word,
    F16,
    BF16,
    /// Four bytes, which are no float.
    Long,
    F32,
    /// Eight bytes, which are no float.
    Quad,
    F64,
}

impl Form {
    pub(super) const ALL: [Self; 8] = [
        Self::Byte,
        Self::Word,
        Self::F16,
        Self::BF16,
        Self::Long,
        Self::F32,
        Self::Quad,
        Self::F64,
    ];

    /// Bytes of an element, and bits of its exponent, 0 where it is no float.
    pub(super) fn width_and_exponent(self) -> (usize, u8) {
        match self {
            Self::Byte => (1, 0),
            Self::Word => (2, 0),
            Self::F16 => (2, 5),
            Self::BF16 => (2, 8),
            Self::Long => (4, 0),
            Self::F32 => (4, 8),
            Self::Quad => (8, 0),
            Self::F64 => (8, 11),
        }
    }

    pub(super) fn width(self) -> usize {
        self.width_and_exponent().0
    }

    /// The form of elements as wide that are no floats.
    pub(super) fn without_exponent(self) -> Self {
        match self {
            Self::Byte => Self::Byte,
            Self::Word | Self::F16 | Self::BF16 => Self::Word,
            Self::Long | Self::F32 => Self::Long,
            Self::Quad | Self::F64 => Self::Quad,
        }
    }
}

/// Up to eight planes of equal length, the lowest byte's first.
pub(super) type Planes<'a> = [&'a [u8]; MAX_WIDTH];

macro_rules! word {
    ($module:ident, $int:ty, $width:literal) => {
        mod $module {
            const TOP: u32 = <$int>::BITS - 1;

            #[inline(always)]
            const fn split_one<const E: u32>(x: $int) -> $int {
                if E == 0 {
                    return x;
                }
                let mantissa = (1 << (TOP - E)) - 1;
                let exponent = !mantissa << 1;
                (x << 1) & exponent | (x >> E) & (1 << (TOP - E)) | x & mantissa
            }

            #[inline(always)]
            const fn merge_one<const E: u32>(x: $int) -> $int {
                if E == 0 {
                    return x;
                }
                let mantissa = (1 << (TOP - E)) - 1;
                let exponent = (!mantissa) & !(1 << TOP);
                (x >> 1) & exponent | (x << E) & (1 << TOP) | x & mantissa
            }

            #[inline(always)]
            pub(super) fn split<const E: u32>(elements: &[u8], planes: &mut [&mut [u8]]) {
                let (elements, _) = elements.as_chunks::<$width>();
                for (p, plane) in planes.iter_mut().enumerate() {
                    for (byte, element) in plane.iter_mut().zip(elements) {
                        *byte = (split_one::<E>(<$int>::from_le_bytes(*element)) >> (8 * p)) as u8;
                    }
                }
            }

            #[inline(always)]
            pub(super) fn merge<const E: u32>(planes: &[&[u8]; 8], out: &mut [u8]) {
                let (out, _) = out.as_chunks_mut::<$width>();
                let n = out.len();
                let planes: [&[u8]; $width] =
                    std::array::from_fn(|p| planes[p].get(..n).unwrap_or_default());
                if planes.iter().any(|plane| plane.len() != n) {
                    return;
                }
                for i in 0..n {
                    let mut x: $int = 0;
                    for p in 0..$width {
                        x |= <$int>::from(planes[p][i]) << (8 * p);
                    }
                    out[i] = merge_one::<E>(x).to_le_bytes();
                }
            }
        }
    };
}
word!(word2, u16, 2);
word!(word4, u32, 4);
word!(word8, u64, 8);

#[inline(always)]
fn split_any(form: Form, elements: &[u8], planes: &mut [&mut [u8]]) {
    match form {
        Form::Byte => planes.iter_mut().for_each(|plane| plane.copy_from_slice(elements)),
        Form::Word => word2::split::<0>(elements, planes),
        Form::F16 => word2::split::<5>(elements, planes),
        Form::BF16 => word2::split::<8>(elements, planes),
        Form::Long => word4::split::<0>(elements, planes),
        Form::F32 => word4::split::<8>(elements, planes),
        Form::Quad => word8::split::<0>(elements, planes),
        Form::F64 => word8::split::<11>(elements, planes),
    }
}

/// Elements from their planes, of equal length.
#[inline(always)]
pub(super) fn merge(form: Form, planes: &Planes<'_>, out: &mut [u8]) {
    match form {
        Form::Byte => out.copy_from_slice(planes[0]),
        Form::Word => word2::merge::<0>(planes, out),
        Form::F16 => word2::merge::<5>(planes, out),
        Form::BF16 => word2::merge::<8>(planes, out),
        Form::Long => word4::merge::<0>(planes, out),
        Form::F32 => word4::merge::<8>(planes, out),
        Form::Quad => word8::merge::<0>(planes, out),
        Form::F64 => word8::merge::<11>(planes, out),
    }
}

for_each_simd! {
    /// Splits elements into as many planes as they have bytes, of as many bytes as there are elements.
    pub(super) fn split<'a>(form: Form, elements: &[u8], planes: &mut [&'a mut [u8]]) = split_any
}
