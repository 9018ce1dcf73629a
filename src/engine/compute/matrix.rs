//! A weight as products read it: the bits that are stored, in the order in which lanes want them.
//!
//! Plain floats and GGUF's blocks lie as they are stored; blocks other than Q4_0, Q8_0 and Q4_K are decoded as they
//! are read. Other quantized weights are put row by row, each code
//! with as many bits as before: [`CHUNK`] columns are one step, and of those the first 16 have the low halves of
//! its bytes. What no step fits is dequantized.

use bytes::Bytes;
use rayon::prelude::*;

use crate::dequant::{self, Float, Layout, Parts, QuantError, Weight, float, gguf};

/// Columns of one step.
pub(super) const CHUNK: usize = 32;

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
    /// Codes with a scale per group.
    Codes(Codes),
    /// GGUF's blocks.
    Blocks(Block, Bytes),
}

/// Blocks of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Q4_0,
    Q8_0,
    Q4K,
    /// Another, which is decoded a block at a time.
    Other(gguf::Block),
}

impl Block {
    /// Bytes of a row.
    pub(super) fn row(self, columns: usize) -> usize {
        match self {
            Self::Q4_0 => columns / 32 * 18,
            Self::Q8_0 => columns / 32 * 34,
            Self::Q4K => columns / 256 * 144,
            Self::Other(block) => columns / block.elements() * block.bytes(),
        }
    }
}

/// What a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An index of a table, of 2, 3 or 4 bits.
    Two,
    Three,
    Four,
    /// A signed byte.
    Signed,
    /// An unsigned byte.
    Unsigned,
    /// FP8 E4M3.
    E4m3,
}

impl Kind {
    /// Bytes of a step.
    pub(super) const fn step(self) -> usize {
        match self {
            Self::Two => 8,
            Self::Three => 12,
            Self::Four => 16,
            _ => 32,
        }
    }
}

/// Codes with a scale per group: `table[code] * scale + offset`.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    pub(super) kind: Kind,
    pub(super) table: [f32; 16],
    pub(super) bytes: Vec<u8>,
    /// Steps of a group.
    pub(super) group: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    pub(super) scales: Vec<f32>,
    /// None where all are 0.
    pub(super) offsets: Vec<f32>,
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
        let block = match weight.layout() {
            Layout::Q4_0 => Some(Block::Q4_0),
            Layout::Q8_0 => Some(Block::Q8_0),
            Layout::Q4K => Some(Block::Q4K),
            Layout::Blocks(block) => Some(Block::Other(block)),
            _ => None,
        };
        let (stored, order) = match block {
            Some(block) => (Stored::Blocks(block, Bytes::copy_from_slice(parts.codes)), None),
            None => match codes(weight, parts) {
                Some((codes, order)) => (Stored::Codes(codes), order),
                None => {
                    let bytes = dequant::dequantize(weight, parts, Float::F32)?;
                    (Stored::Floats(Float::F32, bytes.into()), None)
                }
            },
        };
        Ok(Self { rows, columns, stored, order })
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
                Stored::Codes(codes) => {
                    codes.bytes.len() + 4 * (codes.scales.len() + codes.offsets.len())
                }
            }
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        match &self.stored {
            Stored::Floats(float, _) => self.columns * float.size() as usize,
            Stored::Codes(codes) => self.columns / CHUNK * codes.kind.step(),
            Stored::Blocks(block, _) => block.row(self.columns),
        }
    }

    /// The same weight with its rows in another order: row `n` is what row `source(n)` was.
    pub fn with_rows(mut self, source: impl Fn(usize) -> usize) -> Self {
        let row = self.row_bytes();
        let rows = self.rows;
        let moved = |bytes: &[u8]| {
            let mut to = Vec::with_capacity(bytes.len());
            for n in 0..rows {
                let from = source(n) * row;
                to.extend_from_slice(bytes.get(from..from + row).unwrap_or_default());
            }
            to
        };
        match &mut self.stored {
            Stored::Floats(_, bytes) | Stored::Blocks(_, bytes) => *bytes = moved(bytes).into(),
            Stored::Codes(codes) => {
                codes.bytes = moved(&codes.bytes);
                for values in [&mut codes.scales, &mut codes.offsets] {
                    if !values.is_empty() {
                        let from = |n: usize| source(n) * codes.groups;
                        *values = (0..rows)
                            .flat_map(|n| values[from(n)..from(n) + codes.groups].to_vec())
                            .collect();
                    }
                }
            }
        }
        self
    }
}

/// Codes as lanes want them, and the order of columns; `None` where no step fits.
fn codes(weight: &Weight, parts: &Parts<'_>) -> Option<(Codes, Option<Vec<u32>>)> {
    let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
    let group = match weight.layout() {
        Layout::Bnb4 { block, .. } => block as usize,
        Layout::Int8 => columns,
        Layout::Mxfp4 => 32,
        Layout::Gptq { group, .. } | Layout::Awq { group } | Layout::Packed { group, .. } => {
            (group as usize).min(columns)
        }
        Layout::Fp8 { block: [_, width] } | Layout::Bytes { block: [_, width] } => {
            (width as usize).min(columns)
        }
        _ => return None,
    };
    // A block of the flattened weight may be longer than a row, of which it must be a multiple then.
    let group = match weight.layout() {
        Layout::Bnb4 { .. } if group > columns && group.is_multiple_of(columns) => columns,
        _ => group,
    };
    let fits = columns.is_multiple_of(CHUNK) && group.is_multiple_of(CHUNK) && group > 0;
    let whole = !matches!(weight.layout(), Layout::Bnb4 { .. }) || columns.is_multiple_of(group);
    if !fits || !whole {
        return None;
    }
    let kind = match weight.layout() {
        Layout::Bnb4 { .. } | Layout::Awq { .. } | Layout::Mxfp4 => Kind::Four,
        Layout::Gptq { bits, .. } | Layout::Packed { bits, .. } => match bits {
            1 | 2 => Kind::Two,
            3 => Kind::Three,
            4 => Kind::Four,
            _ => Kind::Unsigned,
        },
        Layout::Int8 | Layout::Bytes { .. } => Kind::Signed,
        Layout::Fp8 { .. } => Kind::E4m3,
        _ => return None,
    };
    let order = order(weight, parts, group)?;
    let unpacked = Unpacked { weight, parts, group, order: order.as_deref() };
    let groups = columns.div_ceil(group);
    let row = columns / CHUNK * kind.step();
    let mut bytes = vec![0; rows * row];
    // Where words hold several rows, those are unpacked together.
    const TOGETHER: usize = 8;
    let broken = std::sync::atomic::AtomicBool::new(false);
    bytes.par_chunks_mut(row * TOGETHER).enumerate().for_each(|(at, lines)| {
        let mut own = vec![0; columns];
        for (i, line) in lines.chunks_mut(row).enumerate() {
            unpacked.row(at * TOGETHER + i, &mut own);
            // What is no number would poison sums without a word.
            if kind == Kind::E4m3 && own.iter().any(|code| code & 0x7f == 0x7f) {
                broken.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            pack(kind, &own, line);
        }
    });
    if broken.into_inner() {
        return None;
    }
    let (mut scales, mut offsets) = (vec![0.0; rows * groups], vec![0.0; rows * groups]);
    for (at, (scale, offset)) in scales.iter_mut().zip(&mut offsets).enumerate() {
        (*scale, *offset) = unpacked.scale(at / groups, at % groups);
    }
    if offsets.iter().all(|offset| *offset == 0.0) {
        offsets = Vec::new();
    }
    let table = table(weight, parts);
    let group = group / CHUNK;
    Some((Codes { kind, table, bytes, group, groups, scales, offsets }, order))
}

/// Puts the codes of a row, a byte each, together.
fn pack(kind: Kind, codes: &[u8], line: &mut [u8]) {
    for (codes, step) in codes.chunks_exact(CHUNK).zip(line.chunks_exact_mut(kind.step())) {
        let (first, second) = codes.split_at(CHUNK / 2);
        match kind {
            Kind::Four => {
                for ((byte, low), high) in step.iter_mut().zip(first).zip(second) {
                    *byte = low & 15 | high << 4;
                }
            }
            Kind::Two | Kind::Three => {
                let (low, high) = step.split_at_mut(8);
                for (half, codes) in low.chunks_exact_mut(4).zip([first, second]) {
                    let word = codes
                        .iter()
                        .rev()
                        .fold(0_u32, |word, code| word << 2 | u32::from(code & 3));
                    half.copy_from_slice(&word.to_le_bytes());
                }
                for (half, codes) in high.chunks_exact_mut(2).zip([first, second]) {
                    let word = codes
                        .iter()
                        .rev()
                        .fold(0_u16, |word, code| word << 1 | u16::from(code >> 2 & 1));
                    half.copy_from_slice(&word.to_le_bytes());
                }
            }
            _ => step.copy_from_slice(codes),
        }
    }
}

/// The values of codes.
fn table(weight: &Weight, parts: &Parts<'_>) -> [f32; 16] {
    let zero = match weight.layout() {
        Layout::Packed { bits, symmetric: true, .. } => 1 << (bits - 1),
        _ => 0,
    };
    match weight.layout() {
        Layout::Bnb4 { .. } => std::array::from_fn(|code| Float::F32.read(parts.table, code)),
        Layout::Mxfp4 => std::array::from_fn(|code| float::e2m1(code as u8)),
        // Those of 2 bits stand four times; of 3 bits, the upper four follow.
        Layout::Gptq { bits, .. } | Layout::Packed { bits, .. } if bits < 3 => {
            std::array::from_fn(|code| (code % 4) as f32 - zero as f32)
        }
        _ => std::array::from_fn(|code| code as f32 - zero as f32),
    }
}

/// Which input each column is of, where groups are not of neighbours: those of a group together. `None` if a
/// group has more or fewer columns than it should.
fn order(weight: &Weight, parts: &Parts<'_>, group: usize) -> Option<Option<Vec<u32>>> {
    if !weight.is_indexed() {
        return Some(None);
    }
    let of: Vec<u32> =
        parts.index.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let mut columns: Vec<u32> = (0..weight.cols()).collect();
    columns.sort_by_key(|column| of.get(*column as usize).copied());
    let grouped = columns.iter().enumerate().all(|(at, column)| {
        of.get(*column as usize).is_some_and(|own| *own as usize == at / group)
    });
    let in_order = columns.iter().enumerate().all(|(at, column)| at == *column as usize);
    grouped.then_some((!in_order).then_some(columns))
}

/// The codes and scales of a weight, whatever its layout.
struct Unpacked<'a> {
    weight: &'a Weight,
    parts: &'a Parts<'a>,
    group: usize,
    order: Option<&'a [u32]>,
}

impl Unpacked<'_> {
    /// The codes of a row.
    fn row(&self, row: usize, codes: &mut [u8]) {
        let (rows, columns) = (self.weight.rows() as usize, codes.len());
        let stored = self.parts.codes;
        let of = |line: &[u8], at: usize| line.get(at).copied().unwrap_or(0);
        match self.weight.layout() {
            Layout::Bnb4 { .. } => {
                let line = stored.get(row * columns / 2..).unwrap_or_default();
                for (pair, byte) in codes.chunks_exact_mut(2).zip(line) {
                    pair.copy_from_slice(&[byte >> 4, byte & 15]);
                }
            }
            Layout::Mxfp4 => {
                let line = stored.get(row * columns / 2..).unwrap_or_default();
                for (pair, byte) in codes.chunks_exact_mut(2).zip(line) {
                    pair.copy_from_slice(&[byte & 15, byte >> 4]);
                }
            }
            Layout::Int8 | Layout::Fp8 { .. } | Layout::Bytes { .. } => {
                let line = stored.get(row * columns..(row + 1) * columns);
                codes.copy_from_slice(line.unwrap_or_default());
            }
            Layout::Awq { .. } => {
                const PLACE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
                let shift = 4 * PLACE[row % 8];
                for (column, code) in codes.iter_mut().enumerate() {
                    let at = 4 * (column * (rows / 8) + row / 8) + shift as usize / 8;
                    *code = of(stored, at) >> (shift % 8) & 15;
                }
            }
            Layout::Gptq { bits, .. } => {
                let mut put = |column: usize, code: u8| {
                    if let Some(slot) = codes.get_mut(column) {
                        *slot = code;
                    }
                };
                stream(columns, bits, |word| word_at(stored, word * rows + row), &mut put);
            }
            Layout::Packed { bits, .. } => {
                let words = (columns * bits as usize).div_ceil(32);
                let mut put = |column: usize, code: u8| {
                    if let Some(slot) = codes.get_mut(column) {
                        *slot = code;
                    }
                };
                stream(columns, bits, |word| word_at(stored, row * words + word), &mut put);
            }
            _ => {}
        }
        if let Some(order) = self.order {
            let own = codes.to_vec();
            for (code, from) in codes.iter_mut().zip(order) {
                *code = own.get(*from as usize).copied().unwrap_or(0);
            }
        }
    }

    /// Scale and offset of a group of a row.
    fn scale(&self, row: usize, group: usize) -> (f32, f32) {
        let (rows, columns) = (self.weight.rows() as usize, self.weight.cols() as usize);
        let (parts, float) = (self.parts, self.weight.scale());
        let groups = columns.div_ceil(self.group);
        let field = |at: usize, bits: u32, stride: usize, lane: usize| {
            let word = |n: usize| u64::from(word_at(parts.zeros, n * stride + lane));
            let both = word(at / 32) | word(at / 32 + 1) << 32;
            (both >> (at % 32)) as u32 & ((1 << bits) - 1)
        };
        match self.weight.layout() {
            Layout::Bnb4 { block, nested } => {
                let block = (row * columns + group * self.group) / block as usize;
                let absmax = match nested {
                    None => Float::F32.read(parts.scales, block),
                    Some(nested) => {
                        let code = parts.scales.get(block).copied().unwrap_or(0);
                        let second = Float::F32.read(parts.zeros, block / nested.block as usize);
                        Float::F32.read(parts.table, 16 + usize::from(code)) * second
                            + nested.offset
                    }
                };
                (absmax, 0.0)
            }
            Layout::Mxfp4 => {
                (float::e8m0(parts.scales.get(row * groups + group).copied().unwrap_or(0)), 0.0)
            }
            Layout::Int8 => (Float::F32.read(parts.scales, row) * (1.0 / 127.0), 0.0),
            Layout::Gptq { bits, less_one, .. } => {
                let scale = float.read(parts.scales, group * rows + row);
                let line = group * (rows * bits as usize / 32) * 32;
                let zero = field(line + row * bits as usize, bits, 1, 0) + u32::from(less_one);
                (scale, -(zero as f32) * scale)
            }
            Layout::Awq { .. } => {
                const PLACE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
                let scale = float.read(parts.scales, group * rows + row);
                let word = word_at(parts.zeros, group * (rows / 8) + row / 8);
                let zero = word >> (4 * PLACE[row % 8]) & 15;
                (scale, -(zero as f32) * scale)
            }
            Layout::Packed { bits, symmetric, .. } => {
                let scale = float.read(parts.scales, row * groups + group);
                let zero = match symmetric {
                    // The table has it already, where there is one.
                    true if bits > 4 => 1 << (bits - 1),
                    true => 0,
                    false => field(row * bits as usize, bits, groups, group),
                };
                (scale, -(zero as f32) * scale)
            }
            Layout::Fp8 { block: [height, _] } | Layout::Bytes { block: [height, _] } => {
                (float.read(parts.scales, row / height as usize * groups + group), 0.0)
            }
            _ => (0.0, 0.0),
        }
    }
}

/// The codes of a stream of words.
fn stream(columns: usize, bits: u32, word: impl Fn(usize) -> u32, put: &mut impl FnMut(usize, u8)) {
    let (mut held, mut have, mut next) = (0_u64, 0, 0);
    for column in 0..columns {
        if have < bits {
            held |= u64::from(word(next)) << have;
            have += 32;
            next += 1;
        }
        put(column, (held & ((1 << bits) - 1)) as u8);
        held >>= bits;
        have -= bits;
    }
}

/// Word number `at`; 0 beyond the end.
fn word_at(bytes: &[u8], at: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
}
