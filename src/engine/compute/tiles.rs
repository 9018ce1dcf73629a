//! Weights of integer codes, sixteen rows side by side.
//!
//! A tile is sixteen rows, and a step of it 32 columns: `LOW` registers with the low bits of the codes and `HIGH`
//! with those above, one word of a register for each row. From the lowest bits of a word on, its halves have the codes
//! of neighbouring columns: pair after pair, as products of pairs of 16-bit integers want them. What groups share lies
//! alike, a register for sixteen rows; it takes as many bits as are stored. Rows that fill the last tile are zeros.

use rayon::prelude::*;

use super::codes::Lines;
use super::lanes::{Kernel, LANES, Lanes};
use super::states::CHUNK;
use super::unpack::{Unpacked, grouped, order};
use crate::dequant::blocks::{IQ4, iq4_xs_scales, q3_k_scales};
use crate::dequant::gguf::Block;
use crate::dequant::{Float, Layout, Parts, Weight, float};

/// Bytes of a register.
pub(super) const REGISTER: usize = 4 * LANES;
/// Pairs of columns of a step.
pub(super) const PAIRS: usize = CHUNK / 2;
/// The most columns whose products are added up as integers.
const MOST: usize = 128;

/// Codes with a scale per group: worth `code * scale + offset`, or `table[code] * scale + offset`.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    /// Bits of the codes: low ones and those above.
    pub(super) bits: (u32, u32),
    /// What codes of 4 bits stand for, where that is not themselves.
    pub(super) table: Option<[i8; 16]>,
    pub(super) bytes: Lines,
    /// Steps of a row.
    pub(super) steps: usize,
    /// Columns of a group.
    pub(super) group: usize,
    /// Groups of a row.
    groups: usize,
    /// The code that is worth 0, of weights that have no offsets.
    zero: f32,
    scales: Scales,
}

/// What groups share: tile after tile, group after group, row after row.
#[derive(Debug, Clone)]
enum Scales {
    /// f32; no offsets where `zero` says all.
    Single { scales: Vec<f32>, offsets: Vec<f32> },
    /// f16, and a byte for the code that is worth 0; none where `zero` says all.
    Half { scales: Vec<u8>, zeros: Vec<u8> },
    /// f16 of both.
    Both(Vec<u8>),
    /// Of Q4_K and Q5_K, for eight groups: f16 of scale and least value, and three words of 6 bits for both.
    Nested(Vec<u8>),
    /// For each of so many groups a signed byte, and the f16 by which they are multiplied.
    Bytes(usize, Vec<u8>),
    /// Of Q2_K, for 16 groups: a byte with 4 bits of the scale below and 4 of the least value, and an f16 for either.
    Halves(Vec<u8>),
}

impl Tiles {
    /// Of a weight of integer codes, with the order of its columns; `None` where no step fits.
    pub(super) fn new(weight: &Weight, parts: &Parts<'_>) -> Option<(Self, Option<Vec<u32>>)> {
        let Form { bits, zero, table } = form(weight)?;
        let group = grouped(weight)?;
        let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
        let order = order(weight, parts, group)?;
        let unpacked = Unpacked { weight, parts, group, order: order.as_deref() };
        let (steps, groups) = (columns / CHUNK, columns.div_ceil(group));
        let mut own = Self {
            bits,
            table,
            bytes: Lines::zeroed(0),
            steps,
            group,
            groups,
            zero,
            scales: scales(&unpacked, groups),
        };
        let mut bytes = Lines::zeroed(rows.div_ceil(LANES) * own.tile());
        bytes.as_mut().par_chunks_mut(own.tile().max(1)).enumerate().for_each(|(tile, to)| {
            let mut codes = vec![0; columns];
            for lane in 0..LANES.min(rows - tile * LANES) {
                unpacked.row(tile * LANES + lane, &mut codes);
                if signed(weight) {
                    codes.iter_mut().for_each(|code| *code ^= 0x80);
                }
                own.pack(&codes, lane, to);
            }
        });
        own.bytes = bytes;
        Some((own, order))
    }

    /// Bytes of a tile.
    pub(super) fn tile(&self) -> usize {
        self.steps * self.step()
    }

    /// Bytes of a step.
    fn step(&self) -> usize {
        (self.bits.0 + self.bits.1) as usize * REGISTER
    }

    /// The bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
            + match &self.scales {
                Scales::Single { scales, offsets } => 4 * (scales.len() + offsets.len()),
                Scales::Half { scales, zeros } => scales.len() + zeros.len(),
                Scales::Both(bytes)
                | Scales::Nested(bytes)
                | Scales::Bytes(_, bytes)
                | Scales::Halves(bytes) => bytes.len(),
            }
    }

    /// Columns whose products are added up as integers: a part of a group.
    pub(super) fn block(&self) -> usize {
        [MOST, 64, CHUNK]
            .into_iter()
            .find(|block| self.group.is_multiple_of(*block))
            .unwrap_or(LANES)
    }

    /// Where the bits of a column lie: the word of a lane in a step, and the bit in it; of the low ones and of those
    /// above.
    fn places(&self, column: usize) -> [(usize, usize); 2] {
        let (low, high) = (self.bits.0 as usize, self.bits.1 as usize);
        let (pair, half) = (column % CHUNK / 2, column % 2);
        let place = |bits: usize| {
            let each = PAIRS / bits.max(1);
            (pair / each, bits * (pair % each) + 16 * half)
        };
        let (register, bit) = place(high);
        [place(low), (low + register, bit)]
    }

    /// Puts the codes of a row in its lane.
    fn pack(&self, codes: &[u8], lane: usize, to: &mut [u8]) {
        let (low, high) = self.bits;
        for (codes, step) in codes.chunks_exact(CHUNK).zip(to.chunks_exact_mut(self.step())) {
            let mut registers = step.chunks_exact_mut(REGISTER);
            for (bits, above) in [(low, 0), (high, low)] {
                if bits == 0 {
                    continue;
                }
                let mask = (1 << bits) - 1;
                let each = codes.chunks_exact(2 * PAIRS / bits as usize);
                for (codes, register) in each.zip(&mut registers) {
                    let field = |code: u8| u32::from(code) >> above & mask;
                    let pairs = codes.as_chunks::<2>().0.iter().rev();
                    let word = pairs.fold(0, |word, [even, odd]| {
                        word << bits | field(*even) | field(*odd) << 16
                    });
                    if let Some(own) = register.get_mut(4 * lane..4 * lane + 4) {
                        own.copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
    }

    /// Puts rows in another order: row `n` becomes what row `source(n)` was.
    pub(super) fn move_rows(&mut self, rows: usize, source: &dyn Fn(usize) -> usize) {
        let groups = self.groups;
        // `parts`: how many registers, each of so many bytes of a row, a tile has one after the other.
        let moved = |bytes: &mut [u8], parts: &[(usize, usize)]| {
            let old = bytes.to_vec();
            let tile: usize = parts.iter().map(|(count, width)| count * width * LANES).sum();
            for (to, from) in (0..rows).map(|row| (row, source(row))) {
                let mut begin = 0;
                for (count, width) in parts {
                    for _ in 0..*count {
                        let at = |row| row / LANES * tile + begin + row % LANES * width;
                        let own = old.get(at(from)..at(from) + width).unwrap_or_default();
                        if let Some(to) = bytes.get_mut(at(to)..at(to) + own.len()) {
                            to.copy_from_slice(own);
                        }
                        begin += width * LANES;
                    }
                }
            }
        };
        let registers = self.tile() / REGISTER;
        moved(self.bytes.as_mut(), &[(registers, 4)]);
        match &mut self.scales {
            Scales::Single { scales, offsets } => {
                for values in [scales, offsets].into_iter().filter(|values| !values.is_empty()) {
                    let mut bytes: Vec<u8> =
                        values.iter().flat_map(|own| own.to_le_bytes()).collect();
                    moved(&mut bytes, &[(groups, 4)]);
                    *values = floats(&bytes);
                }
            }
            Scales::Half { scales, zeros } => {
                moved(scales, &[(groups, 2)]);
                if !zeros.is_empty() {
                    moved(zeros, &[(groups, 1)]);
                }
            }
            Scales::Both(own) => moved(own, &[(2 * groups, 2)]),
            Scales::Nested(own) => moved(own, &[(2, 2), (3, 4)].repeat(groups / 8)),
            Scales::Bytes(each, own) => moved(own, &[(*each, 1), (1, 2)].repeat(groups / *each)),
            Scales::Halves(own) => moved(own, &[(16, 1), (2, 2)].repeat(groups / 16)),
        }
    }

    /// Scales and offsets of a group of the sixteen rows of a tile.
    ///
    /// # Safety
    /// The processor has the instructions; the weight has the tile, and it the group.
    #[inline(always)]
    pub(super) unsafe fn open<L: Lanes>(&self, tile: usize, group: usize) -> (L, L) {
        let at = tile * self.groups + group;
        // SAFETY: the caller's; there is what is read for each group of each tile.
        unsafe {
            let zero = L::splat(-self.zero);
            match &self.scales {
                Scales::Single { scales, offsets } => {
                    let scale = L::load(scales.as_ptr().add(at * LANES));
                    if offsets.is_empty() {
                        return (scale, scale.times(zero));
                    }
                    (scale, L::load(offsets.as_ptr().add(at * LANES)))
                }
                Scales::Half { scales, zeros } => {
                    let scale = L::f16(scales.as_ptr().add(at * 2 * LANES));
                    if zeros.is_empty() {
                        return (scale, scale.times(zero));
                    }
                    let zero = L::unsigned(zeros.as_ptr().add(at * LANES));
                    (scale, zero.times(L::splat(-1.0)).times(scale))
                }
                Scales::Both(both) => {
                    let both = both.as_ptr().add(at * 4 * LANES);
                    (L::f16(both), L::f16(both.add(2 * LANES)))
                }
                Scales::Nested(all) => {
                    let own = all.as_ptr().add(at / 8 * 16 * LANES);
                    let (scale, least) = (L::f16(own), L::f16(own.add(2 * LANES)));
                    let minus = least.times(L::splat(-1.0));
                    let own = own.add(4 * LANES);
                    let (first, second) = (L::words(own), L::words(own.add(REGISTER)));
                    // Of the first four groups 6 bits each; of the next their low four in the third word, and the
                    // two above them over the 6 bits of the group four before.
                    let shift = 8 * (at % 4) as u32;
                    if at % 8 < 4 {
                        let (code, other) =
                            (L::field(first, shift, 0x3f), L::field(second, shift, 0x3f));
                        return (L::numbers(code).times(scale), L::numbers(other).times(minus));
                    }
                    let third = L::words(own.add(2 * REGISTER));
                    let (low, high) = (L::field(third, shift, 0xf), L::field(first, shift + 6, 3));
                    let code = L::numbers(low).plus(L::numbers(high), L::splat(16.0));
                    let (low, high) =
                        (L::field(third, shift + 4, 0xf), L::field(second, shift + 6, 3));
                    let other = L::numbers(low).plus(L::numbers(high), L::splat(16.0));
                    (code.times(scale), other.times(minus))
                }
                Scales::Bytes(each, all) => {
                    let own = all.as_ptr().add(at / each * (each + 2) * LANES);
                    let code = L::signed(own.add(at % each * LANES));
                    let scale = code.times(L::f16(own.add(each * LANES)));
                    (scale, scale.times(zero))
                }
                Scales::Halves(all) => {
                    let own = all.as_ptr().add(at / 16 * 20 * LANES);
                    let codes = L::bytes(own.add(at % 16 * LANES));
                    let scale =
                        L::numbers(L::field(codes, 0, 0xf)).times(L::f16(own.add(16 * LANES)));
                    let least =
                        L::numbers(L::field(codes, 4, 0xf)).times(L::f16(own.add(18 * LANES)));
                    (scale, least.times(L::splat(-1.0)))
                }
            }
        }
    }
}

/// Writes the weights of a row.
pub(super) struct ExpandTile<'a> {
    pub(super) tiles: &'a Tiles,
    pub(super) row: usize,
    pub(super) to: &'a mut [f32],
}

impl Kernel for ExpandTile<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { tiles, row, to } = self;
        let (tile, lane) = (row / LANES, row % LANES);
        let all = tiles.bytes.as_ref().get(tile * tiles.tile()..).unwrap_or_default();
        let (low, high) = tiles.bits;
        for (group, to) in to.chunks_mut(tiles.group).enumerate() {
            let (mut scales, mut offsets) = ([0.0; LANES], [0.0; LANES]);
            // SAFETY: the caller's; the row, and so its tile, is there.
            unsafe {
                let (scale, offset) = tiles.open::<L>(tile, group);
                scale.store(scales.as_mut_ptr());
                offset.store(offsets.as_mut_ptr());
            }
            for (at, value) in to.iter_mut().enumerate() {
                let column = group * tiles.group + at;
                let bits = tiles.places(column).map(|(register, bit)| {
                    let at = column / CHUNK * tiles.step() + register * REGISTER + lane * 4;
                    let word = all.get(at..).and_then(|own| own.first_chunk::<4>());
                    word.map_or(0, |word| u32::from_le_bytes(*word)) >> bit
                });
                let code = bits[0] & ((1 << low) - 1) | (bits[1] & ((1 << high) - 1)) << low;
                let code = match &tiles.table {
                    Some(table) => table.get(code as usize).copied().unwrap_or(0).into(),
                    None if low == 8 => f32::from(code as u8 as i8),
                    None => code as f32,
                };
                *value = code * scales[lane] + offsets[lane];
            }
        }
    }
}

/// What the codes of a weight are; as [`Tiles`] has it.
struct Form {
    bits: (u32, u32),
    zero: f32,
    table: Option<[i8; 16]>,
}

fn form(weight: &Weight) -> Option<Form> {
    let tabled = |table| Some(Form { bits: (4, 0), zero: 0.0, table: Some(table) });
    let of_bits = |bits: u32| match bits {
        1 | 2 => (2, 0),
        3 => (2, 1),
        4 => (4, 0),
        5 => (4, 1),
        6 => (4, 2),
        _ => (8, 0),
    };
    let (bits, zero) = match weight.layout() {
        Layout::Packed { bits, symmetric: true, .. } if bits < 8 => {
            (of_bits(bits), (1 << (bits - 1)) as f32)
        }
        Layout::Gptq { bits, .. } | Layout::Packed { bits, .. } => (of_bits(bits), 0.0),
        Layout::Awq { .. } | Layout::Q4K => ((4, 0), 0.0),
        Layout::Q4_0 => ((4, 0), 8.0),
        Layout::Int8 | Layout::Bytes { .. } | Layout::Q8_0 => ((8, 0), 0.0),
        // Twice what the floats are worth.
        Layout::Mxfp4 => {
            let table = std::array::from_fn(|code| (float::e2m1(code as u8) * 2.0) as i8);
            return tabled(table);
        }
        Layout::Blocks(block) => match block {
            Block::Q2K => ((2, 0), 0.0),
            Block::Q3K => ((2, 1), 4.0),
            Block::Q4_1 => ((4, 0), 0.0),
            Block::Iq4Nl | Block::Iq4Xs => return tabled(IQ4),
            Block::Q5_0 => ((4, 1), 16.0),
            Block::Q5_1 | Block::Q5K => ((4, 1), 0.0),
            Block::Q6K => ((4, 2), 32.0),
            _ => return None,
        },
        _ => return None,
    };
    Some(Form { bits, zero, table: None })
}

/// Whether codes of 8 bits become signed ones by 128 less.
fn signed(weight: &Weight) -> bool {
    matches!(weight.layout(), Layout::Gptq { bits: 8, .. } | Layout::Packed { bits: 8, .. })
}

/// What groups share, as it is kept.
fn scales(unpacked: &Unpacked<'_>, groups: usize) -> Scales {
    let Unpacked { weight, parts, .. } = unpacked;
    let (rows, columns) = (weight.rows() as usize, weight.cols() as usize);
    // What `part` writes for each of the sixteen rows of each tile, or zeros where there is no row.
    let gather = |widths: &[usize], part: &(dyn Fn(usize, usize, &mut [u8]) + Sync)| {
        let tile = widths.iter().sum::<usize>() * LANES;
        let mut bytes = vec![0; rows.div_ceil(LANES) * tile];
        bytes.par_chunks_mut(tile.max(1)).enumerate().for_each(|(tile, mut to)| {
            for (at, width) in widths.iter().enumerate() {
                let (own, rest) = to.split_at_mut(width * LANES);
                for (row, own) in (tile * LANES..rows).zip(own.chunks_exact_mut(*width)) {
                    part(row, at, own);
                }
                to = rest;
            }
        });
        bytes
    };
    // Bytes of the blocks of a row: each has those of `from`, one after the other.
    let of_blocks = |block: usize, elements: usize, from: &[(usize, usize)]| {
        let blocks = columns / elements;
        let widths: Vec<usize> = from.iter().map(|(_, width)| *width).collect();
        gather(&widths.repeat(blocks), &|row, at, to| {
            let begin = (row * blocks + at / from.len()) * block;
            let first = begin + from.get(at % from.len()).map_or(0, |(first, _)| *first);
            if let Some(own) = parts.codes.get(first..first + to.len()) {
                to.copy_from_slice(own);
            }
        })
    };
    let half = |block, elements| Scales::Half {
        scales: of_blocks(block, elements, &[(0, 2)]),
        zeros: Vec::new(),
    };
    match weight.layout() {
        Layout::Q4_0 => return half(18, 32),
        Layout::Q8_0 => return half(34, 32),
        Layout::Q4K => {
            return Scales::Nested(of_blocks(144, 256, &[(0, 2), (2, 2), (4, 4), (8, 4), (12, 4)]));
        }
        Layout::Blocks(block) => {
            let (size, elements) = (block.bytes(), block.elements());
            return match block {
                Block::Q5K => {
                    let parts = [(0, 2), (2, 2), (4, 4), (8, 4), (12, 4)];
                    Scales::Nested(of_blocks(size, elements, &parts))
                }
                Block::Q2K => {
                    let mut parts: Vec<_> = (0..16).map(|at| (at, 1)).collect();
                    parts.extend([(80, 2), (82, 2)]);
                    Scales::Halves(of_blocks(size, elements, &parts))
                }
                Block::Q4_1 | Block::Q5_1 => {
                    Scales::Both(of_blocks(size, elements, &[(0, 2), (2, 2)]))
                }
                Block::Q6K => {
                    let mut parts: Vec<_> = (192..208).map(|at| (at, 1)).collect();
                    parts.push((208, 2));
                    Scales::Bytes(16, of_blocks(size, elements, &parts))
                }
                Block::Q3K | Block::Iq4Xs => {
                    let (each, blocks) = (elements / unpacked.group, columns / elements);
                    let widths = [vec![1; each], vec![2]].concat().repeat(blocks);
                    let put = |row, at: usize, to: &mut [u8]| {
                        let own = (row * blocks + at / (each + 1)) * size;
                        let own = parts.codes.get(own..own + size).unwrap_or_default();
                        let (scales, first): (&[i8], _) = match block {
                            Block::Q3K => (&q3_k_scales(own), 108),
                            _ => (&iq4_xs_scales(own), 0),
                        };
                        match scales.get(at % (each + 1)) {
                            Some(scale) => to.fill(scale.cast_unsigned()),
                            None => {
                                to.copy_from_slice(own.get(first..first + 2).unwrap_or(&[0; 2]))
                            }
                        }
                    };
                    Scales::Bytes(each, gather(&widths, &put))
                }
                _ => half(size, elements),
            };
        }
        _ => {}
    }
    let symmetric = matches!(weight.layout(), Layout::Packed { symmetric: true, .. });
    let above = if signed(weight) { 128.0 } else { 0.0 };
    let zero = |row, group| unpacked.zero(row, group) as f32 - above;
    let four = matches!(
        weight.layout(),
        Layout::Gptq { bits: 2..=4, .. } | Layout::Awq { .. } | Layout::Packed { bits: 1..=6, .. }
    );
    if four && weight.scale() == Float::F16 {
        let scales = gather(&vec![2; groups], &|row, group, to| {
            let scale = half::f16::from_f32(unpacked.stored_scale(row, group));
            to.copy_from_slice(&scale.to_le_bytes());
        });
        let mut zeros = Vec::new();
        if !symmetric {
            // At most 64: codes have 6 bits.
            zeros = gather(&vec![1; groups], &|row, group, to| to.fill(zero(row, group) as u8));
        }
        return Scales::Half { scales, zeros };
    }
    let values = |value: &(dyn Fn(usize, usize) -> f32 + Sync)| {
        let put = |row, group, to: &mut [u8]| to.copy_from_slice(&value(row, group).to_le_bytes());
        floats(&gather(&vec![4; groups], &put))
    };
    // Of floats codes stand for twice their worth.
    let by = if weight.layout() == Layout::Mxfp4 { 0.5 } else { 1.0 };
    let scales = values(&|row, group| unpacked.stored_scale(row, group) * by);
    let mut offsets = values(&|row, group| -zero(row, group) * unpacked.stored_scale(row, group));
    if symmetric || offsets.iter().all(|offset| *offset == 0.0) {
        offsets = Vec::new();
    }
    Scales::Single { scales, offsets }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}
