//! How steps of a row become lanes, one kind of weight each.

use super::lanes::{LANES, Lanes};
use super::matrix::{Block, CHUNK, Codes};
use crate::dequant::{blocks, gguf};

/// Where a row of a weight is.
#[derive(Clone, Copy)]
pub(super) struct Row {
    bytes: *const u8,
    /// Its first group.
    group: usize,
}

/// A weight whose rows are read in steps of [`CHUNK`] columns, those of a group with the same scale.
///
/// # Safety
/// Whoever calls a method has made sure of the processor's instructions, and names rows, groups and steps that
/// the weight has.
pub(super) unsafe trait Source: Copy + Send + Sync {
    /// What the steps of a group share.
    type Group<L: Lanes>: Copy;

    /// Steps of a row, the last, shorter one not counted.
    fn steps(&self) -> usize;

    /// Steps of a group: a divisor of the row's.
    fn group_steps(&self) -> usize;

    /// Where a row is.
    unsafe fn row(&self, row: usize) -> Row;

    /// What a group shares.
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> Self::Group<L>;

    /// The first and the second half of a step.
    unsafe fn step<L: Lanes>(&self, shared: Self::Group<L>, row: Row, step: usize) -> (L, L);

    /// The last step of rows that are no whole number of them, with zeros behind.
    unsafe fn rest<L: Lanes>(&self, _row: usize) -> Option<(L, L)> {
        None
    }
}

/// Plain floats; `BYTES` of each.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, const FLOAT: u8> {
    bytes: &'a [u8],
    columns: usize,
}

pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const BF16: u8 = 2;

impl<'a, const FLOAT: u8> Plain<'a, FLOAT> {
    pub(super) fn new(bytes: &'a [u8], columns: usize) -> Self {
        Self { bytes, columns }
    }

    const SIZE: usize = if FLOAT == F32 { 4 } else { 2 };

    /// # Safety
    /// `from` is good for 16 floats.
    #[inline(always)]
    unsafe fn half<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's.
        unsafe {
            match FLOAT {
                F32 => L::load(from.cast()),
                F16 => L::f16(from),
                _ => L::bf16(from),
            }
        }
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes, whose number was checked when it was made.
unsafe impl<const FLOAT: u8> Source for Plain<'_, FLOAT> {
    type Group<L: Lanes> = ();

    fn steps(&self) -> usize {
        self.columns / CHUNK
    }

    fn group_steps(&self) -> usize {
        (self.columns / CHUNK).max(1)
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Row {
        // SAFETY: the trait's.
        Row { bytes: unsafe { self.bytes.as_ptr().add(row * self.columns * Self::SIZE) }, group: 0 }
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, _row: Row, _group: usize) -> Self::Group<L> {}

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, (): (), row: Row, step: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let at = row.bytes.add(step * CHUNK * Self::SIZE);
            (Self::half(at), Self::half(at.add(LANES * Self::SIZE)))
        }
    }

    #[inline(always)]
    unsafe fn rest<L: Lanes>(&self, row: usize) -> Option<(L, L)> {
        let rest = self.columns % CHUNK;
        if rest == 0 {
            return None;
        }
        let mut padded = [0_u8; CHUNK * 4];
        let from = (row * self.columns + self.columns - rest) * Self::SIZE;
        let own = self.bytes.get(from..from + rest * Self::SIZE)?;
        padded.get_mut(..own.len())?.copy_from_slice(own);
        let at = padded.as_ptr();
        // SAFETY: `padded` holds a step of the widest float.
        unsafe { Some((Self::half(at), Self::half(at.add(LANES * Self::SIZE)))) }
    }
}

/// Codes that index a table, of so many bits.
#[derive(Clone, Copy)]
pub(super) struct Tabled<'a, const BITS: u8> {
    codes: &'a Codes,
    row: usize,
    tables: [[f32; 16]; 2],
}

impl<'a, const BITS: u8> Tabled<'a, BITS> {
    pub(super) fn new(codes: &'a Codes, columns: usize) -> Self {
        let own = codes.table;
        let tables = match BITS {
            4 => [own, own],
            _ => [0, 4].map(|from| std::array::from_fn(|code| own[from + code % 4])),
        };
        Self { codes, row: columns / CHUNK * Self::STEP, tables }
    }

    /// Bytes of a step.
    const STEP: usize = BITS as usize * CHUNK / 8;
}

/// Scale and offset of a group.
///
/// # Safety
/// The weight has it.
#[inline(always)]
unsafe fn scale<L: Lanes>(codes: &Codes, row: Row, group: usize) -> (L, L) {
    let at = row.group + group;
    // SAFETY: there is a scale for each group, and an offset for each or none.
    unsafe {
        let scale = *codes.scales.get_unchecked(at);
        let offset = if codes.offsets.is_empty() { 0.0 } else { *codes.offsets.get_unchecked(at) };
        (L::splat(scale), L::splat(offset))
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const BITS: u8> Source for Tabled<'_, BITS> {
    type Group<L: Lanes> = (L, L);

    fn steps(&self) -> usize {
        self.row / Self::STEP
    }

    fn group_steps(&self) -> usize {
        self.codes.group
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Row {
        // SAFETY: the trait's.
        let bytes = unsafe { self.codes.bytes.as_ptr().add(row * self.row) };
        Row { bytes, group: row * self.codes.groups }
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> (L, L) {
        // SAFETY: the trait's. A value times its scale, plus its offset, whoever does it first: once for a
        // group here.
        unsafe {
            let (scale, offset) = scale::<L>(self.codes, row, group);
            let [first, second] = &self.tables;
            let first = offset.plus(L::load(first.as_ptr()), scale);
            if BITS == 3 {
                (first, offset.plus(L::load(second.as_ptr()), scale))
            } else {
                (first, first)
            }
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, (table, above): (L, L), row: Row, step: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let at = row.bytes.add(step * Self::STEP);
            let word = |at: *const u8| u32::from_le(at.cast::<u32>().read_unaligned());
            let short = |at: *const u8| u16::from_le(at.cast::<u16>().read_unaligned());
            match BITS {
                4 => L::nibbles(at, table),
                3 => (
                    L::triples(word(at), short(at.add(8)), table, above),
                    L::triples(word(at.add(4)), short(at.add(10)), table, above),
                ),
                _ => (L::pairs(word(at), table), L::pairs(word(at.add(4)), table)),
            }
        }
    }
}

/// Codes of a byte.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a, const KIND: u8> {
    codes: &'a Codes,
    columns: usize,
}

pub(super) const SIGNED: u8 = 0;
pub(super) const UNSIGNED: u8 = 1;
pub(super) const E4M3: u8 = 2;

impl<'a, const KIND: u8> Whole<'a, KIND> {
    pub(super) fn new(codes: &'a Codes, columns: usize) -> Self {
        Self { codes, columns }
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const KIND: u8> Source for Whole<'_, KIND> {
    type Group<L: Lanes> = (L, L);

    fn steps(&self) -> usize {
        self.columns / CHUNK
    }

    fn group_steps(&self) -> usize {
        self.codes.group
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Row {
        // SAFETY: the trait's.
        let bytes = unsafe { self.codes.bytes.as_ptr().add(row * self.columns) };
        Row { bytes, group: row * self.codes.groups }
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe { scale::<L>(self.codes, row, group) }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, (scale, offset): (L, L), row: Row, step: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let at = row.bytes.add(step * CHUNK);
            let half = |at: *const u8| {
                let value = match KIND {
                    SIGNED => L::signed(at),
                    UNSIGNED => L::unsigned(at),
                    _ => L::e4m3(at),
                };
                offset.plus(value, scale)
            };
            (half(at), half(at.add(LANES)))
        }
    }
}

/// GGUF's blocks.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a, const BLOCK: u8> {
    bytes: &'a [u8],
    columns: usize,
    row: usize,
}

pub(super) const Q4_0: u8 = 0;
pub(super) const Q8_0: u8 = 1;
pub(super) const Q4K: u8 = 2;

/// The values of codes from `first` on.
const fn values(first: i8) -> [f32; 16] {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = (code as i8 + first) as f32;
        code += 1;
    }
    values
}

const CENTRED: [f32; 16] = values(-8);
const COUNTED: [f32; 16] = values(0);

impl<'a, const BLOCK: u8> Blocks<'a, BLOCK> {
    pub(super) fn new(block: Block, bytes: &'a [u8], columns: usize) -> Self {
        Self { bytes, columns, row: block.row(columns) }
    }

    /// Where the block of a step begins.
    ///
    /// # Safety
    /// The row has it.
    #[inline(always)]
    unsafe fn at(row: Row, step: usize) -> *const u8 {
        let inside = match BLOCK {
            Q4_0 => step * 18,
            Q8_0 => step * 34,
            _ => step / 8 * 144,
        };
        // SAFETY: the caller's.
        unsafe { row.bytes.add(inside) }
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const BLOCK: u8> Source for Blocks<'_, BLOCK> {
    type Group<L: Lanes> = L;

    fn steps(&self) -> usize {
        self.columns / CHUNK
    }

    fn group_steps(&self) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Row {
        // SAFETY: the trait's.
        Row { bytes: unsafe { self.bytes.as_ptr().add(row * self.row) }, group: 0 }
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, row: Row, step: usize) -> L {
        // SAFETY: the trait's.
        unsafe {
            let at = Self::at(row, step);
            match BLOCK {
                Q4_0 => L::load(CENTRED.as_ptr()).times(L::splat(L::half(at))),
                Q8_0 => L::splat(L::half(at)),
                _ => {
                    let packed = |i: usize| *at.add(4 + i);
                    let sub = step % 8;
                    let (scale, least) = if sub < 4 {
                        (packed(sub) & 63, packed(sub + 4) & 63)
                    } else {
                        let both = packed(sub + 4);
                        (both & 15 | packed(sub - 4) >> 6 << 4, both >> 4 | packed(sub) >> 6 << 4)
                    };
                    let scale = L::half(at) * f32::from(scale);
                    let least = L::half(at.add(2)) * f32::from(least);
                    L::splat(-least).plus(L::load(COUNTED.as_ptr()), L::splat(scale))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, shared: L, row: Row, step: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let at = Self::at(row, step);
            match BLOCK {
                Q4_0 => L::nibbles(at.add(2), shared),
                Q8_0 => (L::signed(at.add(2)).times(shared), L::signed(at.add(18)).times(shared)),
                _ => {
                    // Two steps share 32 bytes: one has their low halves, the other their high ones.
                    let bytes = at.add(16 + step % 8 / 2 * 32);
                    let (first, second) =
                        (L::nibbles(bytes, shared), L::nibbles(bytes.add(16), shared));
                    if step.is_multiple_of(2) { (first.0, second.0) } else { (first.1, second.1) }
                }
            }
        }
    }
}

/// Blocks of GGUF that are decoded whole when a step of them is wanted.
#[derive(Clone, Copy)]
pub(super) struct Decoded<'a> {
    bytes: &'a [u8],
    block: gguf::Block,
    columns: usize,
    /// Bytes of a row and of a block, and steps of one.
    row: usize,
    size: usize,
    steps: usize,
}

impl<'a> Decoded<'a> {
    pub(super) fn new(block: gguf::Block, bytes: &'a [u8], columns: usize) -> Self {
        let (size, elements) = (block.bytes(), block.elements());
        Self {
            bytes,
            block,
            columns,
            row: columns / elements * size,
            size,
            steps: elements / CHUNK,
        }
    }
}

// SAFETY: rows and blocks that the weight has lie within its bytes; steps lie within the elements of a block, of which
// there is room for the most.
unsafe impl Source for Decoded<'_> {
    type Group<L: Lanes> = [f32; 256];

    fn steps(&self) -> usize {
        self.columns / CHUNK
    }

    fn group_steps(&self) -> usize {
        self.steps
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Row {
        // SAFETY: the trait's.
        Row { bytes: unsafe { self.bytes.as_ptr().add(row * self.row) }, group: 0 }
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> [f32; 256] {
        let mut values = [0.0; 256];
        // SAFETY: the trait's: the row has the block.
        let own =
            unsafe { std::slice::from_raw_parts(row.bytes.add(group * self.size), self.size) };
        blocks::decode(self.block, own, values.get_mut(..self.steps * CHUNK).unwrap_or_default());
        values
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, values: [f32; 256], _row: Row, step: usize) -> (L, L) {
        let at = step % self.steps * CHUNK;
        // SAFETY: a step of a block lies within its 256 values at most.
        unsafe {
            let from = values.as_ptr().add(at);
            (L::load(from), L::load(from.add(LANES)))
        }
    }
}
