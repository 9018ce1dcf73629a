//! Quantized codes in the order in which lanes want them.
//!
//! Codes lie row by row. Those of 4 bits fill 16 words for each step of 128 columns: the lowest four bits of the
//! words are the first 16 columns, the next four the 16 after. Of codes of 5 and 6 bits the low four lie so, and
//! behind those of the whole row the rest, alike in 16 words of a byte or two. Where a row is no number of such steps, as with other
//! codes, a step has 32 columns, and of bytes of two codes the first 16 columns are the low halves. Scales stay as
//! they are stored where half of an f32 holds them.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::blocks::{self, scaled};
use super::lanes::LANES;
use super::states::CHUNK;
use super::unpack::{Unpacked, order, table};
use crate::dequant::gguf::Block;
use crate::dequant::{Float, Layout, Parts, Weight};
use crate::memory::pages;

/// Weights of fewer bytes get no pages of their own.
const SMALL: usize = 64 << 10;
/// Columns of a step of words.
const WIDE: usize = 8 * LANES;
/// Groups whose f16 scales are read together.
pub(super) const TOGETHER: usize = LANES;
/// What is read in registers may go beyond the last scale by so many bytes.
const PADDING: usize = 2 * LANES;

/// What a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An index of a table, of 2, 3 or 4 bits.
    Two,
    Three,
    Four,
    /// One of 4 bits, in steps of words.
    Words,
    /// The same with a fifth bit, or with two more.
    Five,
    Six,
    /// A signed byte.
    Signed,
    /// An unsigned byte.
    Unsigned,
    /// FP8 E4M3.
    E4m3,
}

impl Kind {
    /// Columns of a step.
    pub(super) const fn columns(self) -> usize {
        match self {
            Self::Words | Self::Five | Self::Six => WIDE,
            _ => CHUNK,
        }
    }

    /// Bytes of a step.
    pub(super) const fn step(self) -> usize {
        match self {
            Self::Two => 8,
            Self::Three => 12,
            Self::Four => 16,
            Self::Words => 64,
            Self::Five => 80,
            Self::Six => 96,
            _ => 32,
        }
    }

    /// Bits beyond the low four, of codes that lie in two parts.
    const fn above(self) -> Option<usize> {
        match self {
            Self::Five => Some(1),
            Self::Six => Some(2),
            _ => None,
        }
    }
}

/// Codes with a scale per group: `table[code] * scale + offset`, or `code * scale + offset` of codes of a byte.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    pub(super) kind: Kind,
    pub(super) table: [f32; 16],
    pub(super) bytes: Lines,
    /// Columns of a group.
    pub(super) group: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    pub(super) scales: Scales,
    /// Bytes of a row.
    row: usize,
}

/// Scales of groups, row after row.
#[derive(Debug, Clone)]
pub(super) enum Scales {
    /// f32.
    Single {
        scales: Vec<f32>,
        /// None where all are 0.
        offsets: Vec<f32>,
    },
    /// f16, with padding behind.
    Half {
        scales: Vec<u8>,
        /// A byte each, of which the offset is `-zero * scale`; none where all are 0.
        zeros: Vec<u8>,
    },
    /// As blocks of Q4_K and Q5_K begin: 16 bytes for eight groups.
    Nested(Vec<u8>),
    /// A signed byte for each of so many groups, and the f16 by which they are multiplied: as blocks of Q6_K end.
    Bytes(usize, Vec<u8>),
    /// Of 16 groups a byte with 4 bits of the scale below and 4 of the least value, and an f16 for either.
    Halves(Vec<u8>),
    /// f16 of both, with padding behind.
    Both { scales: Vec<u8>, offsets: Vec<u8> },
}

/// Bytes that begin where a line of the processor's cache does, so that no register is read from two, in large
/// pages where they are fast.
#[derive(Debug)]
pub(super) struct Lines(pages::Block);

impl Lines {
    fn zeroed(len: usize) -> Self {
        Self(if len < SMALL { pages::Block::small(len) } else { pages::Block::new(len) })
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.0.bytes().as_ptr()
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut own = Self::zeroed(self.0.bytes().len());
        own.0.bytes_mut().copy_from_slice(self.0.bytes());
        own
    }
}

impl Codes {
    /// The bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.bytes.0.bytes().len()
            + match &self.scales {
                Scales::Single { scales, offsets } => 4 * (scales.len() + offsets.len()),
                Scales::Half { scales, zeros } => scales.len() + zeros.len(),
                Scales::Nested(bytes) | Scales::Bytes(_, bytes) | Scales::Halves(bytes) => {
                    bytes.len()
                }
                Scales::Both { scales, offsets } => scales.len() + offsets.len(),
            }
    }

    /// Puts rows in another order: row `n` becomes what row `source(n)` was.
    pub(super) fn move_rows(&mut self, rows: usize, source: &dyn Fn(usize) -> usize) {
        let own = moved(self.bytes.0.bytes(), self.row, rows, source);
        self.bytes.0.bytes_mut().copy_from_slice(&own);
        let groups = self.groups;
        let within = |bytes: &mut Vec<u8>, row: usize| {
            if !bytes.is_empty() {
                let own = moved(bytes, row, rows, source);
                bytes[..own.len()].copy_from_slice(&own);
            }
        };
        match &mut self.scales {
            Scales::Single { scales, offsets } => {
                for values in [scales, offsets].into_iter().filter(|values| !values.is_empty()) {
                    let of = |n: usize| source(n) * groups..(source(n) + 1) * groups;
                    *values = (0..rows).flat_map(|n| values[of(n)].to_vec()).collect();
                }
            }
            Scales::Half { scales, zeros } => {
                within(scales, 2 * groups);
                within(zeros, groups);
            }
            Scales::Nested(bytes) => within(bytes, 2 * groups),
            Scales::Bytes(each, bytes) => within(bytes, groups / *each * (*each + 2)),
            Scales::Halves(bytes) => within(bytes, groups / 16 * 20),
            Scales::Both { scales, offsets } => {
                within(scales, 2 * groups);
                within(offsets, 2 * groups);
            }
        }
    }
}

/// Rows of so many bytes in another order.
pub(super) fn moved(
    bytes: &[u8],
    row: usize,
    rows: usize,
    source: &dyn Fn(usize) -> usize,
) -> Vec<u8> {
    let mut to = Vec::with_capacity(rows * row);
    for n in 0..rows {
        let from = source(n) * row;
        to.extend_from_slice(bytes.get(from..from + row).unwrap_or_default());
    }
    to
}

/// Codes as lanes want them, and the order of columns; `None` where no step fits.
pub(super) fn codes(weight: &Weight, parts: &Parts<'_>) -> Option<(Codes, Option<Vec<u32>>)> {
    let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
    let group = match weight.layout() {
        Layout::Bnb4 { block, .. } => block as usize,
        Layout::Int8 => columns,
        Layout::Gptq { group, .. } | Layout::Awq { group } | Layout::Packed { group, .. } => {
            (group as usize).min(columns)
        }
        Layout::Fp8 { block: [_, width] } | Layout::Bytes { block: [_, width] } => {
            (width as usize).min(columns)
        }
        Layout::Mxfp4 | Layout::Q4_0 | Layout::Q8_0 | Layout::Q4K => 32,
        Layout::Blocks(block) => blocks::form(block)?.0,
        _ => return None,
    };
    // A block of the flattened weight may be longer than a row, of which it must be a multiple then.
    let group = match weight.layout() {
        Layout::Bnb4 { .. } if group > columns && group.is_multiple_of(columns) => columns,
        _ => group,
    };
    // Groups of one vector are those of blocks of 256 columns, and so of whole steps of every kind.
    let grouped = group.is_multiple_of(CHUNK) || group == LANES;
    let fits = columns.is_multiple_of(CHUNK) && grouped && group > 0;
    let whole = !matches!(weight.layout(), Layout::Bnb4 { .. }) || columns.is_multiple_of(group);
    if !fits || !whole {
        return None;
    }
    let wide =
        columns.is_multiple_of(WIDE) && (group.is_multiple_of(WIDE) || [32, 64].contains(&group));
    let four = if wide { Kind::Words } else { Kind::Four };
    let kind = match weight.layout() {
        Layout::Bnb4 { .. } | Layout::Awq { .. } | Layout::Mxfp4 | Layout::Q4_0 | Layout::Q4K => {
            four
        }
        Layout::Gptq { bits, .. } | Layout::Packed { bits, .. } => match bits {
            1 | 2 => Kind::Two,
            3 => Kind::Three,
            4 => four,
            _ => Kind::Unsigned,
        },
        Layout::Blocks(block) => match blocks::form(block)?.1 {
            2 => Kind::Two,
            3 => Kind::Three,
            4 => four,
            // What is above four bits lies behind whole steps of words.
            _ if !columns.is_multiple_of(WIDE) => return None,
            5 => Kind::Five,
            _ => Kind::Six,
        },
        Layout::Int8 | Layout::Bytes { .. } | Layout::Q8_0 => Kind::Signed,
        Layout::Fp8 { .. } => Kind::E4m3,
        _ => return None,
    };
    let order = order(weight, parts, group)?;
    let unpacked = Unpacked { weight, parts, group, order: order.as_deref() };
    let row = columns / kind.columns() * kind.step();
    let mut bytes = Lines::zeroed(rows * row);
    // Where words hold several rows, those are unpacked together.
    const ROWS: usize = 8;
    let broken = AtomicBool::new(false);
    bytes.0.bytes_mut().par_chunks_mut(row * ROWS).enumerate().for_each(|(at, lines)| {
        let mut own = vec![0; columns];
        for (i, line) in lines.chunks_mut(row).enumerate() {
            unpacked.row(at * ROWS + i, &mut own);
            // What is no number would poison sums without a word.
            if kind == Kind::E4m3 && own.iter().any(|code| code & 0x7f == 0x7f) {
                broken.store(true, Ordering::Relaxed);
            }
            pack(kind, &own, line);
        }
    });
    if broken.into_inner() {
        return None;
    }
    let groups = columns.div_ceil(group);
    let (table, scales) = (table(weight, parts), scales(&unpacked, kind, rows, groups));
    Some((Codes { kind, table, bytes, group, groups, scales, row }, order))
}

/// Puts the codes of a row, a byte each, together.
fn pack(kind: Kind, codes: &[u8], line: &mut [u8]) {
    if let Some(bits) = kind.above() {
        let (low, high) = line.split_at_mut(codes.len() / 2);
        pack(Kind::Words, codes, low);
        for (codes, step) in codes.chunks_exact(WIDE).zip(high.chunks_exact_mut(LANES * bits)) {
            for (lane, word) in step.chunks_exact_mut(bits).enumerate() {
                let own = codes.iter().skip(lane).step_by(LANES).rev();
                let packed = own.fold(0_u16, |word, code| word << bits | u16::from(code >> 4));
                word.copy_from_slice(packed.to_le_bytes().get(..bits).unwrap_or_default());
            }
        }
        return;
    }
    let steps = codes.chunks_exact(kind.columns());
    for (codes, step) in steps.zip(line.chunks_exact_mut(kind.step())) {
        let (first, second) = codes.split_at(CHUNK / 2);
        match kind {
            Kind::Words => {
                for (lane, word) in step.chunks_exact_mut(4).enumerate() {
                    let own = codes.iter().skip(lane).step_by(LANES).rev();
                    let packed = own.fold(0_u32, |word, code| word << 4 | u32::from(code & 15));
                    word.copy_from_slice(&packed.to_le_bytes());
                }
            }
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

/// The scales of all groups, as they are kept.
fn scales(unpacked: &Unpacked<'_>, kind: Kind, rows: usize, groups: usize) -> Scales {
    let Unpacked { weight, parts, .. } = unpacked;
    let all = rows * groups;
    let padded = |len: usize| Vec::with_capacity(len + PADDING);
    // What each block of so many bytes has from one place to another.
    let of = |ranges: &[(usize, usize)], block: usize| {
        let each: usize = ranges.iter().map(|(from, to)| to - from).sum();
        let mut bytes = padded(parts.codes.len() / block * each);
        for block in parts.codes.chunks_exact(block) {
            for (from, to) in ranges {
                bytes.extend_from_slice(block.get(*from..*to).unwrap_or_default());
            }
        }
        bytes.resize(bytes.len() + PADDING, 0);
        bytes
    };
    let begins = |len: usize, block: usize| of(&[(0, len)], block);
    match weight.layout() {
        Layout::Q4_0 if kind == Kind::Words => {
            return Scales::Half { scales: begins(2, 18), zeros: Vec::new() };
        }
        Layout::Q8_0 => return Scales::Half { scales: begins(2, 34), zeros: Vec::new() },
        Layout::Q4K => return Scales::Nested(begins(16, 144)),
        Layout::Blocks(block) => {
            let size = block.bytes();
            return match block {
                Block::Q5K => Scales::Nested(begins(16, size)),
                Block::Q2K => Scales::Halves(of(&[(0, 16), (80, 84)], size)),
                Block::Q4_1 | Block::Q5_1 => {
                    Scales::Both { scales: begins(2, size), offsets: of(&[(2, 4)], size) }
                }
                Block::Q3K | Block::Q6K | Block::Iq4Xs => {
                    let each = block.elements() / unpacked.group;
                    let mut bytes = padded(all / each * (each + 2));
                    parts.codes.chunks_exact(size).for_each(|own| scaled(block, own, &mut bytes));
                    bytes.resize(bytes.len() + PADDING, 0);
                    Scales::Bytes(each, bytes)
                }
                _ => Scales::Half { scales: begins(2, size), zeros: Vec::new() },
            };
        }
        Layout::Gptq { .. } | Layout::Awq { .. } | Layout::Packed { .. }
            if kind == Kind::Words && weight.scale() == Float::F16 =>
        {
            let (mut scales, mut zeros) = (padded(2 * all), padded(all));
            for at in 0..all {
                let (row, group) = (at / groups, at % groups);
                Float::F16.push(unpacked.stored_scale(row, group), &mut scales);
                // At most 16: codes have 4 bits.
                zeros.push(unpacked.zero(row, group) as u8);
            }
            if zeros.iter().all(|zero| *zero == 0) {
                zeros.clear();
            } else {
                zeros.resize(all + PADDING, 0);
            }
            scales.resize(2 * all + PADDING, 0);
            return Scales::Half { scales, zeros };
        }
        _ => {}
    }
    let (mut scales, mut offsets) = (vec![0.0; all], vec![0.0; all]);
    for (at, (scale, offset)) in scales.iter_mut().zip(&mut offsets).enumerate() {
        let (row, group) = (at / groups, at % groups);
        *scale = unpacked.stored_scale(row, group);
        *offset = -(unpacked.zero(row, group) as f32) * *scale;
    }
    if offsets.iter().all(|offset| *offset == 0.0) {
        offsets = Vec::new();
    }
    Scales::Single { scales, offsets }
}
