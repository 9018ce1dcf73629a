//! Element types and shapes: how many bytes a tensor has, without overflow.

use std::fmt;

/// Dimensions of a tensor.
pub const MAX_RANK: usize = 16;
/// A tensor, in bytes.
pub const MAX_TENSOR: u64 = (1 << 53) - 1;

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $name:literal, $bits:literal;)*) => {
        /// An element type, with its number in the format and its name in safetensors.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[allow(non_camel_case_types, reason = "the field writes them so")]
        pub enum Dtype {
            $(#[doc = $name] $variant = $code,)*
        }

        impl Dtype {
            /// Every element type, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type of that number in the format.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name, as safetensors spells it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The type of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Bits of one element.
            pub const fn bits(self) -> u64 {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }
        }
    };
}

dtypes! {
    Bytes = 0, "BYTES", 8;
    Bool = 1, "BOOL", 8;
    U8 = 2, "U8", 8;
    I8 = 3, "I8", 8;
    I16 = 4, "I16", 16;
    U16 = 5, "U16", 16;
    I32 = 6, "I32", 32;
    U32 = 7, "U32", 32;
    I64 = 8, "I64", 64;
    U64 = 9, "U64", 64;
    F4 = 16, "F4", 4;
    F6_E2M3 = 17, "F6_E2M3", 6;
    F6_E3M2 = 18, "F6_E3M2", 6;
    F8_E4M3 = 19, "F8_E4M3", 8;
    F8_E5M2 = 20, "F8_E5M2", 8;
    F8_E8M0 = 21, "F8_E8M0", 8;
    F8_E4M3FNUZ = 22, "F8_E4M3FNUZ", 8;
    F8_E5M2FNUZ = 23, "F8_E5M2FNUZ", 8;
    F16 = 24, "F16", 16;
    BF16 = 25, "BF16", 16;
    F32 = 26, "F32", 32;
    F64 = 27, "F64", 64;
    C64 = 28, "C64", 64;
}

impl Dtype {
    /// The type's number in the format.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Bytes of one element; `None` for types narrower than a byte.
    pub const fn size(self) -> Option<u64> {
        if self.bits().is_multiple_of(8) { Some(self.bits() / 8) } else { None }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The dimensions of a tensor; none for a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<u64>);

impl Shape {
    /// Takes at most 16 dimensions.
    pub fn new(dims: Vec<u64>) -> Option<Self> {
        (dims.len() <= MAX_RANK).then_some(Self(dims))
    }

    /// One dimension.
    pub fn vector(len: u64) -> Self {
        Self(vec![len])
    }

    /// The dimensions.
    pub fn dims(&self) -> &[u64] {
        &self.0
    }

    /// The number of elements; `None` beyond `u64`. A dimension of 0 makes it 0 whatever the rest.
    pub fn elements(&self) -> Option<u64> {
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))
    }

    /// The bytes of a tensor of this shape, ceil(elements x bits / 8); `None` beyond the limit.
    pub fn byte_len(&self, dtype: Dtype) -> Option<u64> {
        let bits = self.elements()?.checked_mul(dtype.bits())?;
        let bytes = bits.div_ceil(8);
        (bytes <= MAX_TENSOR).then_some(bytes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            write!(f, "{separator}{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_one_to_one() {
        for &dtype in Dtype::ALL {
            assert_eq!(Dtype::from_code(dtype.code()), Some(dtype));
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_code(15), None);
        assert_eq!(Dtype::from_name("bf16"), None);
    }

    #[test]
    fn byte_lengths_round_up_and_never_overflow() {
        let len = |dims: &[u64], dtype| Shape::new(dims.to_vec()).and_then(|s| s.byte_len(dtype));
        assert_eq!(len(&[], Dtype::F32), Some(4));
        assert_eq!(len(&[3], Dtype::F4), Some(2));
        assert_eq!(len(&[3, 5], Dtype::F6_E2M3), Some(12));
        assert_eq!(len(&[u64::MAX, 0, u64::MAX], Dtype::F64), Some(0));
        assert_eq!(len(&[u64::MAX, 2], Dtype::F4), None);
        assert_eq!(len(&[1 << 60], Dtype::F64), None);
        assert_eq!(len(&[1; 17], Dtype::F64), None);
    }
}
