//! From weights to what each family stores: the inverse of [`dequantize`](crate::dequant::dequantize). Pure.
//!
//! Byte for byte what the family's own library stores (`tests/judges/` holds the comparison). A weight is a
//! [`Matrix`]; a method either encodes it at once ([`nf4`], [`int8`], [`fp8`], [`gguf`]) or gives
//! [`Codes`] ([`rtn`] here, or a solver), which a layout packs ([`gptq`], [`awq`],
//! [`packed`]). The bytes are the same whatever the number of threads.

pub mod awq;
mod fit;
pub mod fp4;
pub mod fp8;
pub mod gguf;
pub mod gptq;
pub mod int8;
mod iq4;
mod kquants;
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
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A weight that no scale can reach.
    #[error("row {row}, column {column} is {value}; repair the model, or leave this layer out")]
    NotFinite { row: usize, column: usize, value: f32 },
    /// A weight without elements.
    #[error("{rows} x {columns} elements; leave this layer out")]
    Empty { rows: u64, columns: u64 },
    /// A layout does not take so many bits.
    #[error("{layout} has {has} bits, not {bits}")]
    Bits { layout: &'static str, has: &'static str, bits: u32 },
    /// There are no such codes.
    #[error("{bits} bits in groups of {group}: codes have 1 to 8 bits, groups at least one column")]
    Scheme { bits: u32, group: usize },
    /// Codes that `int-quantized` cannot hold.
    #[error("int-quantized has 8 bits, symmetric, groups in order")]
    Int8Codes,
    /// Codes that AWQ cannot hold.
    #[error("AWQ has 4 bits and zero points, and groups in order")]
    AwqCodes,
    /// Rows that do not divide into groups.
    #[error(
        "{columns} inputs in groups of {group}: take a group size that divides the inputs, or the gptq \
         format, or leave this layer out"
    )]
    Groups { columns: u64, group: u64 },
    /// Rows that do not divide into GGUF's blocks.
    #[error("{columns} inputs in blocks of {block}: leave this layer out, or take another method")]
    Blocks { columns: u64, block: u64 },
    /// Blocks that are read, and not written.
    #[error("{0} is read, and not written; take another method")]
    NotWritten(&'static str),
    /// A weight that NVFP4's scale of all does not reach.
    #[error(
        "a value beyond 42, which nvfp4's scale of all layers does not reach; leave this layer out, or take mxfp4"
    )]
    Nvfp4Range,
    /// A shape that GPTQ cannot hold.
    #[error(
        "GPTQ packs whole words, outputs and inputs in multiples of 32, not {rows} x {columns}; leave this \
         layer out, or take another format"
    )]
    GptqShape { rows: u64, columns: u64 },
    /// A zero point that GPTQ cannot hold.
    #[error(
        "row {row}, group {group}: a zero point of 0, which the format gptq cannot hold; take gptq_v2, or \
         symmetric codes"
    )]
    GptqZero { row: usize, group: usize },
    /// A shape that AWQ cannot hold.
    #[error(
        "AWQ packs eights of outputs and whole groups of inputs, not {rows} x {columns} in groups of \
         {group}; leave this layer out, or take another format or group size"
    )]
    AwqShape { rows: u64, columns: u64, group: u64 },
    /// The bytes are not those of the shape.
    #[error("{got} bytes where {rows} x {columns} elements take {want}")]
    Length { got: usize, want: usize, rows: usize, columns: usize },
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
