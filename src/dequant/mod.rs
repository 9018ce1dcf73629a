//! Quantized weights: how each family stores them, and what they are worth. Pure.
//!
//! A [`Weight`] is the layout and the shape; its [`Parts`] are the stored tensors. [`dequantize`] is
//! the reference that every device kernel is held to, bit for bit; [`kernel`] says which program in
//! `kernels/` does the same on a device, and [`split`] into which runs a device with a limit on
//! bindings does it. The result is always row-major, one row per output of the layer.

pub(crate) mod blocks;
pub mod codes;
pub mod config;
mod facts;
pub(crate) mod float;
pub mod gguf;
mod grids;
pub mod kernel;
pub mod pieces;
mod reference;
#[doc(hidden)]
pub mod sample;
pub mod split;

use std::fmt;

pub use float::{Float, convert};
pub use reference::dequantize;

/// The most elements of one weight: beyond, offsets in elements would not fit the reference.
const MAX_ELEMENTS: u64 = 1 << 40;

/// How the weights of a family are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Layout {
    /// bitsandbytes, 4 bits: a code book of 16 values and an absmax per block of the flattened
    /// weight, NF4 and FP4 alike. The element with the even index is in the high nibble.
    Bnb4 {
        /// Elements per absmax.
        block: u32,
        /// Whether the absmax are quantized in their turn.
        nested: Option<Nested>,
    },
    /// LLM.int8(): one absmax per row; the value is `q * absmax / 127`.
    Int8,
    /// GPTQ: packed along the columns, words column-major; groups by `g_idx`, or in order.
    Gptq {
        /// 2, 3, 4 or 8.
        bits: u32,
        /// Columns per group; the number of groups follows from it.
        group: u32,
        /// Whether zero points are stored less one (`gptq`) or as they are (`gptq_v2`).
        less_one: bool,
    },
    /// AWQ, GEMM version, 4 bits: eight rows in a word, interleaved.
    Awq {
        /// Columns per group.
        group: u32,
    },
    /// compressed-tensors, `pack-quantized`: each row a stream of bits in words.
    Packed {
        /// 1 to 8.
        bits: u32,
        /// Columns per group; as many as there are columns for a scale per row.
        group: u32,
        /// Whether there are no zero points.
        symmetric: bool,
    },
    /// FP8 E4M3 with a scale per block of rows and columns: all of them for a scale per tensor, one
    /// row for a scale per row.
    Fp8 {
        /// Rows and columns per scale.
        block: [u32; 2],
    },
    /// compressed-tensors `int-quantized`: signed bytes, with a scale per block as FP8 has it.
    Bytes {
        /// Rows and columns per scale.
        block: [u32; 2],
    },
    /// 4-bit floats (E2M1), the even column in the low nibble, with an exponent (E8M0) per 32 columns.
    Mxfp4,
    /// 4-bit floats with an FP8 scale per 16 columns; the table has the scale of all.
    Nvfp4 {
        /// Whether scales are divided by that of all, not multiplied with it.
        divides: bool,
    },
    /// GGUF Q4_0: 32 elements in 18 bytes.
    Q4_0,
    /// GGUF Q8_0: 32 elements in 34 bytes.
    Q8_0,
    /// GGUF Q4_K: 256 elements in 144 bytes.
    Q4K,
    /// Other blocks of GGUF.
    Blocks(gguf::Block),
}

impl Layout {
    /// The layout of a weight of such blocks.
    pub fn of_blocks(block: gguf::Block) -> Self {
        match block {
            gguf::Block::Q4_0 => Self::Q4_0,
            gguf::Block::Q8_0 => Self::Q8_0,
            gguf::Block::Q4K => Self::Q4K,
            other => Self::Blocks(other),
        }
    }
}

/// The second level of bitsandbytes' double quantization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nested {
    /// Absmax per second absmax.
    pub block: u32,
    /// What is added to each.
    pub offset: f32,
}

/// The stored tensors of a weight. A part that its layout lacks is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// The quantized elements.
    pub codes: &'a [u8],
    /// Scales, or absmax (as codes where they are nested).
    pub scales: &'a [u8],
    /// Zero points, or the absmax of absmax where they are nested.
    pub zeros: &'a [u8],
    /// The group of each column (`g_idx`), i32.
    pub index: &'a [u8],
    /// The code book, f32; the second level's 256 entries follow where absmax are nested.
    pub table: &'a [u8],
}

/// One of the stored tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// [`Parts::codes`].
    Codes,
    /// [`Parts::scales`].
    Scales,
    /// [`Parts::zeros`].
    Zeros,
    /// [`Parts::index`].
    Index,
    /// [`Parts::table`].
    Table,
}

impl Part {
    /// All of them, in the order in which kernels bind them.
    pub const ALL: [Self; 5] = [Self::Codes, Self::Scales, Self::Zeros, Self::Index, Self::Table];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Codes => "codes",
            Self::Scales => "scales",
            Self::Zeros => "zero points",
            Self::Index => "group index",
            Self::Table => "code book",
        })
    }
}

impl<'a> Parts<'a> {
    /// One of the parts.
    pub fn get(&self, part: Part) -> &'a [u8] {
        match part {
            Part::Codes => self.codes,
            Part::Scales => self.scales,
            Part::Zeros => self.zeros,
            Part::Index => self.index,
            Part::Table => self.table,
        }
    }
}

/// Why a weight is not what it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The layout does not exist with these numbers.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A part has the wrong size.
    #[error("{part}: {got} bytes where the shape needs {want}")]
    Length {
        /// Which.
        part: Part,
        /// Bytes there are.
        got: u64,
        /// Bytes there should be.
        want: u64,
    },
    /// The group index names a group that does not exist.
    #[error("group index: column {column} is in group {group} of {groups}")]
    Group {
        /// The column.
        column: u64,
        /// What it names.
        group: i32,
        /// How many groups there are.
        groups: u32,
    },
    /// A part that must be bound whole is larger than the device binds.
    #[error("{part}: {len} bytes, and the device binds {limit} at most")]
    TooLarge {
        /// Which.
        part: Part,
        /// Its bytes.
        len: u64,
        /// The limit.
        limit: u64,
    },
}

/// A quantized weight: its layout, its shape, and the type of its scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight {
    layout: Layout,
    rows: u32,
    cols: u32,
    scale: Float,
    indexed: bool,
}

impl Weight {
    /// Checks that the layout exists for `rows` outputs of `cols` inputs. `scale` is the type of the
    /// scales where a layout leaves it open (GPTQ, AWQ, compressed-tensors, FP8).
    ///
    /// # Errors
    /// If it does not exist.
    pub fn new(layout: Layout, rows: u32, cols: u32, scale: Float) -> Result<Self, QuantError> {
        let elements = u64::from(rows) * u64::from(cols);
        let fault = match layout {
            _ if elements > MAX_ELEMENTS => Some("a weight of more than 2^40 elements"),
            Layout::Bnb4 { block, nested } => {
                let nested = nested.map_or(1, |nested| nested.block);
                (!(8..=1 << 16).contains(&block)
                    || !block.is_power_of_two()
                    || !(1..=1 << 16).contains(&nested)
                    || !nested.is_power_of_two())
                .then_some("bitsandbytes blocks are powers of two from 8 to 65536")
            }
            Layout::Gptq { bits, .. } if ![2, 3, 4, 8].contains(&bits) => {
                Some("GPTQ has 2, 3, 4 or 8 bits")
            }
            Layout::Gptq { bits, .. }
                if !cols.is_multiple_of(32)
                    || !(u64::from(rows) * u64::from(bits)).is_multiple_of(32) =>
            {
                Some("GPTQ packs whole words: inputs in multiples of 32, outputs likewise")
            }
            Layout::Awq { .. } if !rows.is_multiple_of(8) || !cols.is_multiple_of(8) => {
                Some("AWQ packs eights: inputs and outputs in multiples of 8")
            }
            Layout::Awq { group } if !group.is_multiple_of(8) => {
                Some("AWQ groups are multiples of 8")
            }
            Layout::Packed { bits, .. } if !(1..=8).contains(&bits) => {
                Some("compressed-tensors packs 1 to 8 bits")
            }
            Layout::Gptq { group: 0, .. }
            | Layout::Awq { group: 0 }
            | Layout::Packed { group: 0, .. }
            | Layout::Fp8 { block: [0, _] | [_, 0] }
            | Layout::Bytes { block: [0, _] | [_, 0] } => Some("a group of no elements"),
            Layout::Mxfp4 if !cols.is_multiple_of(32) => {
                Some("MXFP4 groups of 32: inputs in multiples of 32")
            }
            Layout::Nvfp4 { .. } if !cols.is_multiple_of(16) => {
                Some("NVFP4 groups of 16: inputs in multiples of 16")
            }
            Layout::Q4_0 | Layout::Q8_0 if !cols.is_multiple_of(32) => {
                Some("GGUF blocks of 32: inputs in multiples of 32")
            }
            Layout::Q4K if !cols.is_multiple_of(256) => {
                Some("GGUF blocks of 256: inputs in multiples of 256")
            }
            Layout::Blocks(block) if !(cols as usize).is_multiple_of(block.elements()) => {
                Some("GGUF blocks: inputs in multiples of a block's elements")
            }
            _ => None,
        };
        match fault {
            Some(fault) => Err(QuantError::Unsupported(fault)),
            None => Ok(Self { layout, rows, cols, scale, indexed: false }),
        }
    }

    /// The same weight with a group index (`g_idx`) that names the group of each column.
    ///
    /// # Errors
    /// If the layout has none.
    pub fn indexed(mut self) -> Result<Self, QuantError> {
        match self.layout {
            Layout::Gptq { .. } | Layout::Packed { .. } => {
                self.indexed = true;
                Ok(self)
            }
            _ => {
                Err(QuantError::Unsupported("only GPTQ and compressed-tensors have a group index"))
            }
        }
    }

    /// Its layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Outputs of the layer.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Inputs of the layer.
    pub fn cols(&self) -> u32 {
        self.cols
    }

    /// The type of its scales.
    pub fn scale(&self) -> Float {
        self.scale
    }

    /// Whether it has a group index.
    pub fn is_indexed(&self) -> bool {
        self.indexed
    }

    /// Its elements.
    pub fn elements(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols)
    }

    /// Groups, or scales, along a row.
    pub fn groups(&self) -> u32 {
        match self.layout {
            Layout::Gptq { group, .. } | Layout::Awq { group } | Layout::Packed { group, .. } => {
                self.cols.div_ceil(group)
            }
            Layout::Fp8 { block: [_, cols] } | Layout::Bytes { block: [_, cols] } => {
                self.cols.div_ceil(cols)
            }
            Layout::Mxfp4 => self.cols / 32,
            Layout::Nvfp4 { .. } => self.cols / 16,
            _ => 1,
        }
    }

    /// Whether elements count in one run, rows or not: blocks may cross rows.
    pub(crate) fn is_flat(&self) -> bool {
        let flat = matches!(self.layout, Layout::Bnb4 { .. } | Layout::Blocks(_));
        flat || matches!(self.layout, Layout::Q4_0 | Layout::Q8_0 | Layout::Q4K)
    }

    /// The bytes that a part must have.
    pub fn part_len(&self, part: Part) -> u64 {
        if self.is_flat() {
            self.flat_len(part, self.elements())
        } else {
            self.rows_len(part, self.rows)
        }
    }

    /// The bytes of a part for the first `elements` of a flat layout.
    pub(crate) fn flat_len(&self, part: Part, elements: u64) -> u64 {
        match (self.layout, part) {
            (Layout::Bnb4 { .. }, Part::Codes) => elements.div_ceil(2),
            (Layout::Bnb4 { block, nested: None }, Part::Scales) => {
                elements.div_ceil(block.into()) * 4
            }
            (Layout::Bnb4 { block, nested: Some(_) }, Part::Scales) => {
                elements.div_ceil(block.into())
            }
            (Layout::Bnb4 { block, nested: Some(nested) }, Part::Zeros) => {
                elements.div_ceil(block.into()).div_ceil(nested.block.into()) * 4
            }
            (Layout::Bnb4 { nested, .. }, Part::Table) => {
                if nested.is_some() {
                    (16 + 256) * 4
                } else {
                    16 * 4
                }
            }
            (Layout::Q4_0, Part::Codes) => elements / 32 * 18,
            (Layout::Q8_0, Part::Codes) => elements / 32 * 34,
            (Layout::Q4K, Part::Codes) => elements / 256 * 144,
            (Layout::Blocks(block), Part::Codes) => {
                elements / block.elements() as u64 * block.bytes() as u64
            }
            _ => 0,
        }
    }

    /// The bytes of a part for the first `rows` rows; parts that are not cut by rows count whole.
    pub(crate) fn rows_len(&self, part: Part, rows: u32) -> u64 {
        let [rows, all, cols] = [rows, self.rows, self.cols].map(u64::from);
        let (groups, scale) = (u64::from(self.groups()), self.scale.size());
        let index = if self.indexed { cols * 4 } else { 0 };
        match (self.layout, part) {
            (Layout::Int8, Part::Codes) => rows * cols,
            (Layout::Int8, Part::Scales) => rows * 4,
            (Layout::Gptq { bits, .. }, Part::Codes) => cols * u64::from(bits) / 32 * all * 4,
            (Layout::Gptq { .. } | Layout::Awq { .. }, Part::Scales) => groups * all * scale,
            (Layout::Gptq { bits, .. }, Part::Zeros) => groups * (all * u64::from(bits) / 32) * 4,
            (Layout::Awq { .. }, Part::Codes) => cols * (all / 8) * 4,
            (Layout::Awq { .. }, Part::Zeros) => groups * (all / 8) * 4,
            (Layout::Packed { bits, .. }, Part::Codes) => {
                rows * (cols * u64::from(bits)).div_ceil(32) * 4
            }
            (Layout::Packed { .. }, Part::Scales) => rows * groups * scale,
            (Layout::Packed { bits, symmetric: false, .. }, Part::Zeros) => {
                (rows * u64::from(bits)).div_ceil(32) * groups * 4
            }
            (Layout::Gptq { .. } | Layout::Packed { .. }, Part::Index) => index,
            (Layout::Mxfp4 | Layout::Nvfp4 { .. }, Part::Codes) => rows * cols / 2,
            (Layout::Mxfp4 | Layout::Nvfp4 { .. }, Part::Scales) => rows * groups,
            (Layout::Nvfp4 { .. }, Part::Table) => 4,
            (Layout::Fp8 { .. } | Layout::Bytes { .. }, Part::Codes) => rows * cols,
            (
                Layout::Fp8 { block: [height, _] } | Layout::Bytes { block: [height, _] },
                Part::Scales,
            ) => rows.div_ceil(height.into()) * groups * scale,
            _ => 0,
        }
    }

    /// Checks the sizes of the parts, and that the group index names groups that exist. Everything
    /// that reads parts, here or on a device, asks for this first.
    ///
    /// # Errors
    /// If a part has another size, or a group does not exist.
    pub fn check(&self, parts: &Parts<'_>) -> Result<(), QuantError> {
        for part in Part::ALL {
            let (got, want) = (parts.get(part).len() as u64, self.part_len(part));
            if got != want {
                return Err(QuantError::Length { part, got, want });
            }
        }
        self.check_index(parts.index)
    }

    /// Checks that the group index names groups that exist.
    ///
    /// # Errors
    /// If one does not.
    pub fn check_index(&self, index: &[u8]) -> Result<(), QuantError> {
        let groups = self.groups();
        let (words, _) = index.as_chunks::<4>();
        for (column, word) in words.iter().enumerate() {
            let group = i32::from_le_bytes(*word);
            if u32::try_from(group).is_ok_and(|group| group < groups) {
                continue;
            }
            return Err(QuantError::Group { column: column as u64, group, groups });
        }
        Ok(())
    }
}
