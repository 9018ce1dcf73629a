//! Codes, scales and zero points out of every layout, one row at a time.

use super::blocks::{self, halves};
use super::lanes::LANES;
use super::states::CHUNK;
use crate::dequant::{Float, Layout, Parts, Weight, float};

/// Columns of a group, where rows are whole steps and groups whole steps or half of one.
pub(super) fn grouped(weight: &Weight) -> Option<usize> {
    let columns = weight.cols() as usize;
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
        Layout::Blocks(block) => blocks::group(block)?,
        _ => return None,
    };
    // A block of the flattened weight may be longer than a row, of which it must be a multiple then.
    let group = match weight.layout() {
        Layout::Bnb4 { .. } if group > columns && group.is_multiple_of(columns) => columns,
        _ => group,
    };
    let fits = columns.is_multiple_of(CHUNK)
        && (group.is_multiple_of(CHUNK) || group == LANES)
        && group > 0;
    let whole = !matches!(weight.layout(), Layout::Bnb4 { .. }) || columns.is_multiple_of(group);
    (fits && whole).then_some(group)
}

/// Which input each column is of, where groups are not of neighbours: those of a group together. `None` if a
/// group has more or fewer columns than it should.
pub(super) fn order(weight: &Weight, parts: &Parts<'_>, group: usize) -> Option<Option<Vec<u32>>> {
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
pub(super) struct Unpacked<'a> {
    pub(super) weight: &'a Weight,
    pub(super) parts: &'a Parts<'a>,
    /// Columns of a group.
    pub(super) group: usize,
    /// Which input each column is of, where that is not the one of its place.
    pub(super) order: Option<&'a [u32]>,
}

impl Unpacked<'_> {
    /// The codes of a row.
    pub(super) fn row(&self, row: usize, codes: &mut [u8]) {
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
            Layout::Q4_0 => {
                let line = stored.get(row * columns / 32 * 18..).unwrap_or_default();
                for (codes, block) in codes.chunks_exact_mut(32).zip(line.chunks_exact(18)) {
                    halves(codes, block.get(2..).unwrap_or_default());
                }
            }
            Layout::Q8_0 => {
                let line = stored.get(row * columns / 32 * 34..).unwrap_or_default();
                for (codes, block) in codes.chunks_exact_mut(32).zip(line.chunks_exact(34)) {
                    codes.copy_from_slice(block.get(2..).unwrap_or_default());
                }
            }
            Layout::Q4K => {
                let line = stored.get(row * columns / 256 * 144..).unwrap_or_default();
                for (codes, block) in codes.chunks_exact_mut(256).zip(line.chunks_exact(144)) {
                    let bytes = block.get(16..).unwrap_or_default();
                    for (codes, bytes) in codes.chunks_exact_mut(64).zip(bytes.chunks_exact(32)) {
                        halves(codes, bytes);
                    }
                }
            }
            Layout::Blocks(block) => {
                let each = columns / block.elements() * block.bytes();
                blocks::codes(block, stored.get(row * each..).unwrap_or_default(), codes);
            }
            Layout::Awq { .. } => {
                let shift = 4 * AWQ[row % 8];
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
            // No step fits these.
            Layout::Nvfp4 { .. } => {}
        }
        if let Some(order) = self.order {
            let own = codes.to_vec();
            for (code, from) in codes.iter_mut().zip(order) {
                *code = own.get(*from as usize).copied().unwrap_or(0);
            }
        }
    }

    /// The scale of a group of a row.
    pub(super) fn stored_scale(&self, row: usize, group: usize) -> f32 {
        let (rows, columns) = (self.weight.rows() as usize, self.weight.cols() as usize);
        let (parts, kind) = (self.parts, self.weight.scale());
        let groups = columns.div_ceil(self.group);
        match self.weight.layout() {
            Layout::Bnb4 { block, nested } => {
                let block = (row * columns + group * self.group) / block as usize;
                match nested {
                    None => Float::F32.read(parts.scales, block),
                    Some(nested) => {
                        let code = parts.scales.get(block).copied().unwrap_or(0);
                        let second = Float::F32.read(parts.zeros, block / nested.block as usize);
                        Float::F32.read(parts.table, 16 + usize::from(code)) * second
                            + nested.offset
                    }
                }
            }
            Layout::Mxfp4 => {
                float::e8m0(parts.scales.get(row * groups + group).copied().unwrap_or(0))
            }
            Layout::Int8 => Float::F32.read(parts.scales, row) * (1.0 / 127.0),
            Layout::Gptq { .. } | Layout::Awq { .. } => kind.read(parts.scales, group * rows + row),
            Layout::Packed { .. } => kind.read(parts.scales, row * groups + group),
            Layout::Fp8 { block: [height, _] } | Layout::Bytes { block: [height, _] } => {
                kind.read(parts.scales, row / height as usize * groups + group)
            }
            _ => 0.0,
        }
    }

    /// The code of a group of a row that is worth 0.
    pub(super) fn zero(&self, row: usize, group: usize) -> u32 {
        let rows = self.weight.rows() as usize;
        let groups = (self.weight.cols() as usize).div_ceil(self.group);
        let field = |at: usize, bits: u32, stride: usize, lane: usize| {
            let word = |n: usize| u64::from(word_at(self.parts.zeros, n * stride + lane));
            let both = word(at / 32) | word(at / 32 + 1) << 32;
            (both >> (at % 32)) as u32 & ((1 << bits) - 1)
        };
        match self.weight.layout() {
            Layout::Gptq { bits, less_one, .. } => {
                let line = group * (rows * bits as usize / 32) * 32;
                field(line + row * bits as usize, bits, 1, 0) + u32::from(less_one)
            }
            Layout::Awq { .. } => {
                let word = word_at(self.parts.zeros, group * (rows / 8) + row / 8);
                word >> (4 * AWQ[row % 8]) & 15
            }
            Layout::Packed { bits, symmetric: true, .. } => 1 << (bits - 1),
            Layout::Packed { bits, symmetric: false, .. } => {
                field(row * bits as usize, bits, groups, group)
            }
            _ => 0,
        }
    }
}

/// The 4 bits of a word that each of eight neighbouring outputs of AWQ has.
const AWQ: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

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
