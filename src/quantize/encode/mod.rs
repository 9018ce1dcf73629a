//! From weights to what each family stores: the inverse of [`dequantize`](crate::dequant::dequantize). Pure.
//!
//! Byte for byte what the family's own library stores (`tests/judges/` holds the comparison). A weight is a
//! [`Matrix`]; a method either encodes it at once ([`nf4`], [`int8`], [`fp8`], [`gguf`]) or gives
//! [`Codes`](crate::dequant::codes::Codes) ([`rtn`] here, or a solver), which a layout packs ([`gptq`], [`awq`],
//! [`packed`]). The bytes are the same whatever the number of threads.

pub mod awq;
pub mod fp8;
pub mod gguf;
pub mod gptq;
pub mod int8;
mod matrix;
mod nested;
pub mod nf4;
pub mod packed;
pub mod rtn;
mod threads;

use crate::dequant::codes::Codes;
use crate::format::dtype::Dtype;

pub use matrix::Matrix;

/// A tensor of an encoded weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What its name ends in, after the layer's name and a dot: `weight.absmax`.
    pub end: &'static str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub dims: Vec<u64>,
    /// Its elements, row-major.
    pub bytes: Vec<u8>,
}

/// Why a weight was not encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A weight that no scale can reach.
    #[error("row {row}, column {column} is {value}; repair the model, or leave this layer out")]
    NotFinite {
        /// Which row.
        row: usize,
        /// Which column.
        column: usize,
        /// NaN or an infinity; or a number beyond what the method computes in.
        value: f32,
    },
    /// A method or layout does not take this shape or these numbers.
    #[error("{0}")]
    Unsupported(String),
    /// What gives the codes gave none.
    #[error("{0}")]
    Solver(String),
    /// The bytes are not those of the shape.
    #[error("{got} bytes where {rows} x {columns} elements take {want}")]
    Length {
        /// Bytes there are.
        got: usize,
        /// Bytes there should be.
        want: usize,
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

impl EncodeError {
    fn unsupported(why: impl Into<String>) -> Self {
        Self::Unsupported(why.into())
    }
}

/// An error unless there are as many codes, scales and zero points as the shape has.
fn check(codes: &Codes) -> Result<(), EncodeError> {
    let (rows, groups) = (codes.rows, codes.groups());
    for (got, columns) in [
        (codes.codes.len(), codes.columns),
        (codes.scales.len(), groups),
        (codes.zeros.len(), groups),
    ] {
        let want = rows * columns;
        if got != want {
            return Err(EncodeError::Length { got, want, rows, columns });
        }
    }
    Ok(())
}

/// The bytes of words, little-endian.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes of floats, little-endian.
fn floats(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}
