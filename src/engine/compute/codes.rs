//! Codes of values that are no integers, in the order in which lanes want them: those of 4 bits with a table, and FP8.
//!
//! Codes lie row by row. Those of 4 bits fill 16 words for each step of 128 columns: the lowest four bits of the
//! words are the first 16 columns, the next four the 16 after. Where a row is no number of such steps, as with FP8, a
//! step has 32 columns, and of bytes of two codes the first 16 columns are the low halves.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::lanes::LANES;
use super::states::CHUNK;
use super::unpack::{Unpacked, grouped};
use crate::dequant::{Float, Layout, Parts, Weight};
use crate::memory::pages;

/// Weights of fewer bytes get no pages of their own.
const SMALL: usize = 64 << 10;
/// Columns of a step of words.
const WIDE: usize = 8 * LANES;
/// What a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An index of a table, of 4 bits.
    Four,
    /// The same, in steps of words.
    Words,
    /// FP8 E4M3.
    E4m3,
}

impl Kind {
    /// Columns of a step.
    pub(super) const fn columns(self) -> usize {
        match self {
            Self::Words => WIDE,
            Self::Four | Self::E4m3 => CHUNK,
        }
    }

    /// Bytes of a step.
    pub(super) const fn step(self) -> usize {
        match self {
            Self::Four => 16,
            Self::Words => 64,
            Self::E4m3 => 32,
        }
    }
}

/// Codes with a scale per group: `table[code] * scale`, or the value of a byte times it.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    pub(super) kind: Kind,
    pub(super) table: [f32; 16],
    pub(super) bytes: Lines,
    /// Columns of a group.
    pub(super) group: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    /// Of groups, row after row.
    pub(super) scales: Vec<f32>,
    /// Bytes of a row.
    row: usize,
}

/// Bytes that begin where a line of the processor's cache does, so that no register is read from two, in large
/// pages where they are fast.
#[derive(Debug)]
pub(super) struct Lines(pages::Block);

impl Lines {
    pub(super) fn zeroed(len: usize) -> Self {
        Self(if len < SMALL { pages::Block::small(len) } else { pages::Block::new(len) })
    }

    pub(super) fn len(&self) -> usize {
        self.0.bytes().len()
    }

    pub(super) fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
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
        self.bytes.len() + 4 * self.scales.len()
    }

    /// Puts rows in another order: row `n` becomes what row `source(n)` was.
    pub(super) fn move_rows(&mut self, rows: usize, source: &dyn Fn(usize) -> usize) {
        let own = moved(self.bytes.0.bytes(), self.row, rows, source);
        self.bytes.0.bytes_mut().copy_from_slice(&own);
        let of = |row: usize| source(row) * self.groups..(source(row) + 1) * self.groups;
        let own = (0..rows).flat_map(|row| self.scales.get(of(row)).unwrap_or_default());
        self.scales = own.copied().collect();
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

/// Codes as lanes want them; `None` where no step fits.
pub(super) fn codes(weight: &Weight, parts: &Parts<'_>) -> Option<Codes> {
    let group = grouped(weight)?;
    let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
    let wide = columns.is_multiple_of(WIDE)
        && (group.is_multiple_of(WIDE) || [CHUNK, 2 * CHUNK].contains(&group));
    let kind = match weight.layout() {
        Layout::Bnb4 { .. } if wide => Kind::Words,
        Layout::Bnb4 { .. } => Kind::Four,
        Layout::Fp8 { .. } => Kind::E4m3,
        _ => return None,
    };
    let unpacked = Unpacked { weight, parts, group, order: None };
    let row = columns / kind.columns() * kind.step();
    let mut bytes = Lines::zeroed(rows * row);
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
    let scale = |at: usize| unpacked.stored_scale(at / groups, at % groups);
    let scales = (0..rows * groups).map(scale).collect();
    let mut table = [0.0; 16];
    if kind != Kind::E4m3 {
        table = std::array::from_fn(|code| Float::F32.read(parts.table, code));
    }
    Some(Codes { kind, table, bytes, group, groups, scales, row })
}

/// Puts the codes of a row, a byte each, together.
fn pack(kind: Kind, codes: &[u8], line: &mut [u8]) {
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
            Kind::E4m3 => step.copy_from_slice(codes),
        }
    }
}
