//! A weight as products read it: the bits that are stored, in the order in which lanes want them.
//!
//! Plain floats lie as they are stored. Of quantized weights the codes are put in another order, with as many bits as
//! before ([`codes`]); GGUF's blocks that stand for points of a grid stay as they are and are decoded as they are read,
//! and what no step fits is dequantized.

use bytes::Bytes;

use super::codes::{self, Codes};
use super::tiles::Tiles;
use crate::dequant::{self, Float, Layout, Parts, QuantError, Weight, gguf};

/// A weight `[rows, columns]`.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stored: Stored,
    /// Where columns stand in another order than inputs: which input each is of.
    pub(super) order: Option<Vec<u32>>,
}

/// How its elements lie, row after row.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// Floats.
    Floats(Float, Bytes),
    /// Integer codes with a scale per group.
    Tiles(Tiles),
    /// Codes of other values with a scale per group.
    Codes(Codes),
    /// Blocks of GGUF that are decoded as they are read.
    Blocks(gguf::Block, Bytes),
}

impl Matrix {
    /// A weight of plain floats, row-major; `None` if there are not so many bytes.
    pub fn floats(rows: usize, columns: usize, float: Float, bytes: Bytes) -> Option<Self> {
        let len = rows.checked_mul(columns)?.checked_mul(float.size() as usize)?;
        (bytes.len() == len && columns > 0).then_some(Self {
            rows,
            columns,
            stored: Stored::Floats(float, bytes),
            order: None,
        })
    }

    /// A quantized weight.
    ///
    /// # Errors
    /// If the parts are not of the weight's sizes.
    pub fn quantized(weight: &Weight, parts: &Parts<'_>) -> Result<Self, QuantError> {
        weight.check(parts)?;
        let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
        if let Some((tiles, order)) = Tiles::new(weight, parts) {
            return Ok(Self { rows, columns, stored: Stored::Tiles(tiles), order });
        }
        let stored = match (codes::codes(weight, parts), weight.layout()) {
            (Some(codes), _) => Stored::Codes(codes),
            (None, Layout::Blocks(block)) => {
                Stored::Blocks(block, Bytes::copy_from_slice(parts.codes))
            }
            (None, _) => {
                let bytes = dequant::dequantize(weight, parts, Float::F32)?;
                Stored::Floats(Float::F32, bytes.into())
            }
        };
        Ok(Self { rows, columns, stored, order: None })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The bytes that it takes.
    pub fn bytes(&self) -> usize {
        let order = self.order.as_ref().map_or(0, |order| order.len() * 4);
        order
            + match &self.stored {
                Stored::Floats(_, bytes) | Stored::Blocks(_, bytes) => bytes.len(),
                Stored::Tiles(tiles) => tiles.len(),
                Stored::Codes(codes) => codes.len(),
            }
    }

    /// The same weight with its rows in another order: row `n` is what row `source(n)` was.
    pub fn with_rows(mut self, source: impl Fn(usize) -> usize) -> Self {
        match &mut self.stored {
            Stored::Floats(float, bytes) => {
                let row = self.columns * float.size() as usize;
                *bytes = codes::moved(bytes, row, self.rows, &source).into();
            }
            Stored::Tiles(tiles) => tiles.move_rows(self.rows, &source),
            Stored::Codes(codes) => codes.move_rows(self.rows, &source),
            Stored::Blocks(block, bytes) => {
                let row = self.columns / block.elements() * block.bytes();
                *bytes = codes::moved(bytes, row, self.rows, &source).into();
            }
        }
        self
    }
}
