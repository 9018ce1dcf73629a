//! How steps of a row become lanes, one kind of codes each.

use super::codes::{Codes, Scales, TOGETHER};
use super::lanes::{LANES, Lanes};
use super::states::CHUNK;

/// Where a row of a weight is.
#[derive(Clone, Copy)]
pub(super) struct Row {
    bytes: *const u8,
    /// Its first group.
    group: usize,
    /// How far behind it the row lies that is read after it.
    ahead: usize,
}

impl Row {
    /// A row of a weight without groups, of so many bytes, of which the one `next` later is read after it.
    pub(super) fn plain(bytes: *const u8, each: usize, next: usize) -> Self {
        Self { bytes, group: 0, ahead: next * each }
    }

    /// The bytes of a step. Those of the same step of the row that comes next are asked for: processors look ahead
    /// within pages only, and so lose the time of a first access with each row.
    ///
    /// # Safety
    /// The row has them.
    #[inline(always)]
    pub(super) unsafe fn at<L: Lanes>(self, offset: usize) -> *const u8 {
        // SAFETY: the caller's.
        unsafe {
            let at = self.bytes.add(offset);
            L::prefetch(at.wrapping_add(self.ahead));
            at
        }
    }
}

/// Room for the scales and the offsets of [`TOGETHER`] groups.
pub(super) struct Room([[f32; TOGETHER]; 2]);

impl Room {
    pub(super) const EMPTY: Self = Self([[0.0; TOGETHER]; 2]);
}

/// Where scales and offsets of neighbouring groups lie; `stride` is 0 where all offsets are the first.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    scales: *const f32,
    offsets: *const f32,
    stride: usize,
}

impl Factors {
    /// Of weights without any.
    pub(super) const NONE: Self =
        Self { scales: std::ptr::null(), offsets: std::ptr::null(), stride: 0 };

    /// Scale and offset of a group.
    ///
    /// # Safety
    /// It is one of those.
    #[inline(always)]
    unsafe fn at<L: Lanes>(self, group: usize) -> (L, L) {
        // SAFETY: the caller's.
        unsafe {
            (L::splat(*self.scales.add(group)), L::splat(*self.offsets.add(group * self.stride)))
        }
    }
}

/// A weight whose rows are read in steps, and those in vectors of 16 columns. The vectors of a group have the
/// same scale; a group is a part of a step, or a number of steps. Weights without scales are one group.
///
/// # Safety
/// Whoever calls a method has made sure of the processor's instructions, and names rows, groups and steps that
/// the weight has.
pub(super) unsafe trait Source: Copy + Send + Sync {
    /// What the vectors of a group share.
    type Group<L: Lanes>: Copy;
    /// A step that is being read.
    type Step<L: Lanes>: Copy;

    /// Vectors of a step.
    const VECTORS: usize = CHUNK / LANES;

    /// Steps of a row, the last, shorter one not counted.
    fn steps(&self) -> usize;

    /// Vectors of a group.
    fn group(&self) -> usize {
        self.steps().max(1) * Self::VECTORS
    }

    /// Groups whose [`factors`](Self::factors) are asked for together.
    fn span(&self) -> usize {
        1
    }

    /// Where a row is, if the one `next` rows later is read after it.
    unsafe fn row(&self, row: usize, next: usize) -> Row;

    /// Scales and offsets of a span's groups; `room` is for what has to be computed.
    #[inline(always)]
    unsafe fn factors<L: Lanes>(&self, _row: Row, _first: usize, _room: &mut Room) -> Factors {
        Factors::NONE
    }

    /// What a group shares, by its place in its span.
    unsafe fn open<L: Lanes>(&self, factors: Factors, group: usize) -> Self::Group<L>;

    /// Begins a step.
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> Self::Step<L>;

    /// Vector `at` of a step, which are asked for in order.
    unsafe fn vector<L: Lanes>(
        &self,
        shared: Self::Group<L>,
        step: &mut Self::Step<L>,
        at: usize,
    ) -> L;

    /// The last step of rows that are no whole number of them, with zeros behind.
    unsafe fn rest<L: Lanes>(&self, _row: usize) -> Option<(L, L)> {
        None
    }
}

/// Codes, and what a row of them takes.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    codes: &'a Codes,
    columns: usize,
}

impl<'a> Coded<'a> {
    pub(super) fn new(codes: &'a Codes, columns: usize) -> Self {
        Self { codes, columns }
    }

    fn steps(&self) -> usize {
        self.columns / self.codes.kind.columns()
    }

    /// # Safety
    /// The weight has the row.
    #[inline(always)]
    unsafe fn row(&self, row: usize, next: usize) -> Row {
        let each = self.steps() * self.codes.kind.step();
        // SAFETY: the caller's.
        let bytes = unsafe { self.codes.bytes.as_ptr().add(row * each) };
        Row { bytes, group: row * self.codes.groups, ahead: next * each }
    }

    fn span(&self) -> usize {
        match &self.codes.scales {
            Scales::Single { .. } => self.codes.groups,
            Scales::Half { .. } | Scales::Both { .. } | Scales::Halves(_) => TOGETHER,
            Scales::Nested(_) => 8,
            Scales::Bytes(each, _) => *each,
        }
    }

    /// # Safety
    /// The weight has the row, and it the group.
    #[inline(always)]
    unsafe fn factors<L: Lanes>(&self, row: Row, first: usize, room: &mut Room) -> Factors {
        const NONE: f32 = 0.0;
        let at = row.group + first;
        let Room([scales, offsets]) = room;
        // SAFETY: there is a scale for each group, and an offset for each or none; what is read in registers
        // may go beyond the last by `codes::PADDING` bytes.
        unsafe {
            match &self.codes.scales {
                Scales::Single { scales, offsets } if offsets.is_empty() => {
                    Factors { scales: scales.as_ptr().add(at), offsets: &NONE, stride: 0 }
                }
                Scales::Single { scales, offsets } => Factors {
                    scales: scales.as_ptr().add(at),
                    offsets: offsets.as_ptr().add(at),
                    stride: 1,
                },
                Scales::Half { scales: halves, zeros } => {
                    let own = L::f16(halves.as_ptr().add(2 * at));
                    own.store(scales.as_mut_ptr());
                    if !zeros.is_empty() {
                        let zeros = L::unsigned(zeros.as_ptr().add(at));
                        zeros.times(L::splat(-1.0)).times(own).store(offsets.as_mut_ptr());
                    }
                    Factors { scales: scales.as_ptr(), offsets: offsets.as_ptr(), stride: 1 }
                }
                Scales::Nested(blocks) => {
                    // Of Q4_K and Q5_K: two f16, and 6 bits for the scale and the least of each of eight groups.
                    let block = blocks.as_ptr().add(at / 8 * 16);
                    let word = |i: usize| u32::from_le(block.add(i).cast::<u32>().read_unaligned());
                    let [first, second, third] = [word(4), word(8), word(12)];
                    let above = |word: u32| (word >> 6 & 0x0303_0303) << 4;
                    let codes = [
                        first & 0x3f3f_3f3f,
                        third & 0x0f0f_0f0f | above(first),
                        second & 0x3f3f_3f3f,
                        third >> 4 & 0x0f0f_0f0f | above(second),
                    ];
                    let codes = codes.map(u32::to_le);
                    let mut both = [0.0; LANES];
                    L::f16(block).store(both.as_mut_ptr());
                    let codes = L::unsigned(codes.as_ptr().cast());
                    codes.times(L::splat(both[0])).store(scales.as_mut_ptr());
                    codes.times(L::splat(-both[1])).store(offsets.as_mut_ptr());
                    let offsets = offsets.as_ptr().add(8);
                    Factors { scales: scales.as_ptr(), offsets, stride: 1 }
                }
                Scales::Bytes(each, blocks) => {
                    let block = blocks.as_ptr().add(at / each * (each + 2));
                    let mut all = [0.0; LANES];
                    L::f16(block.add(*each)).store(all.as_mut_ptr());
                    L::signed(block).times(L::splat(all[0])).store(scales.as_mut_ptr());
                    Factors { scales: scales.as_ptr(), offsets: &NONE, stride: 0 }
                }
                Scales::Halves(blocks) => {
                    let block = blocks.as_ptr().add(at / 16 * 20);
                    let both = block.cast::<u128>().read_unaligned();
                    const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
                    let (low, high) = (both & LOW, both >> 4 & LOW);
                    let mut all = [0.0; LANES];
                    L::f16(block.add(16)).store(all.as_mut_ptr());
                    let (low, high) = (&raw const low, &raw const high);
                    L::unsigned(low.cast()).times(L::splat(all[0])).store(scales.as_mut_ptr());
                    L::unsigned(high.cast()).times(L::splat(-all[1])).store(offsets.as_mut_ptr());
                    Factors { scales: scales.as_ptr(), offsets: offsets.as_ptr(), stride: 1 }
                }
                Scales::Both { scales: halves, offsets: least } => {
                    L::f16(halves.as_ptr().add(2 * at)).store(scales.as_mut_ptr());
                    L::f16(least.as_ptr().add(2 * at)).store(offsets.as_mut_ptr());
                    Factors { scales: scales.as_ptr(), offsets: offsets.as_ptr(), stride: 1 }
                }
            }
        }
    }
}

/// What codes of every kind have alike.
macro_rules! coded {
    () => {
        fn steps(&self) -> usize {
            self.0.steps()
        }

        fn group(&self) -> usize {
            self.0.codes.group / LANES
        }

        fn span(&self) -> usize {
            self.0.span()
        }

        #[inline(always)]
        unsafe fn row(&self, row: usize, next: usize) -> Row {
            // SAFETY: the trait's.
            unsafe { self.0.row(row, next) }
        }

        #[inline(always)]
        unsafe fn factors<L: Lanes>(&self, row: Row, first: usize, room: &mut Room) -> Factors {
            // SAFETY: the trait's.
            unsafe { self.0.factors::<L>(row, first, room) }
        }
    };
}

/// Codes of 4 bits; `VECTORS` vectors of a step share words.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a, const VECTORS: usize>(pub(super) Coded<'a>);

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const VECTORS: usize> Source for Nibbles<'_, VECTORS> {
    type Group<L: Lanes> = L;
    type Step<L: Lanes> = L::Words;

    const VECTORS: usize = VECTORS;

    coded!();

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, factors: Factors, group: usize) -> L {
        // SAFETY: the trait's. A value times its scale, plus its offset, whoever does it first: once for a
        // group here.
        unsafe {
            let (scale, offset) = factors.at::<L>(group);
            offset.plus(L::load(self.0.codes.table.as_ptr()), scale)
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> L::Words {
        // SAFETY: the trait's.
        unsafe {
            match VECTORS {
                2 => L::bytes(row.at::<L>(step * LANES)),
                _ => L::words(row.at::<L>(step * LANES * 4)),
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(&self, table: L, step: &mut L::Words, _at: usize) -> L {
        // SAFETY: the trait's.
        unsafe {
            let values = L::look(*step, table);
            *step = L::onward::<4>(*step);
            values
        }
    }
}

/// Codes of 5 or 6 bits: the low four as [`Nibbles`], and `ABOVE` more.
#[derive(Clone, Copy)]
pub(super) struct Tall<'a, const ABOVE: u32>(pub(super) Coded<'a>);

impl<const ABOVE: u32> Tall<'_, ABOVE> {
    /// What the bits above are worth; those that follow them in an index do not matter.
    const HIGH: [f32; 16] = {
        let mut values = [0.0; 16];
        let mut at = 0;
        while at < 16 {
            values[at] = (at % (1 << ABOVE) * 16) as f32;
            at += 1;
        }
        values
    };
}

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const ABOVE: u32> Source for Tall<'_, ABOVE> {
    type Group<L: Lanes> = (L, L);
    type Step<L: Lanes> = (L::Words, L::Words);

    const VECTORS: usize = 8;

    coded!();

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, factors: Factors, group: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let (scale, offset) = factors.at::<L>(group);
            let low = offset.plus(L::load(self.0.codes.table.as_ptr()), scale);
            (low, L::load(Self::HIGH.as_ptr()).times(scale))
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> (L::Words, L::Words) {
        // SAFETY: the trait's. The bits above lie behind the low ones of all steps.
        unsafe {
            let low = L::words(row.at::<L>(step * LANES * 4));
            let above = ABOVE as usize;
            let high = row.at::<L>(self.steps() * LANES * 4 + step * LANES * above);
            (low, if above == 1 { L::bytes(high) } else { L::halves(high) })
        }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(
        &self,
        (low, high): (L, L),
        (codes, above): &mut (L::Words, L::Words),
        _at: usize,
    ) -> L {
        // SAFETY: the trait's.
        unsafe {
            let value = L::look(*codes, low).plus(L::look(*above, high), L::splat(1.0));
            (*codes, *above) = (L::onward::<4>(*codes), L::onward::<ABOVE>(*above));
            value
        }
    }
}

/// Codes of 2 or 3 bits, and the values of those below 4 and from 4 on, four times each.
#[derive(Clone, Copy)]
pub(super) struct Tabled<'a, const BITS: u8>(Coded<'a>, [[f32; 16]; 2]);

impl<'a, const BITS: u8> Tabled<'a, BITS> {
    pub(super) fn new(coded: Coded<'a>) -> Self {
        let own = coded.codes.table;
        Self(coded, [0, 4].map(|from| std::array::from_fn(|code| own[from + code % 4])))
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const BITS: u8> Source for Tabled<'_, BITS> {
    type Group<L: Lanes> = (L, L);
    type Step<L: Lanes> = *const u8;

    coded!();

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, factors: Factors, group: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe {
            let (scale, offset) = factors.at::<L>(group);
            let [first, second] = &self.1;
            let first = offset.plus(L::load(first.as_ptr()), scale);
            if BITS == 3 {
                (first, offset.plus(L::load(second.as_ptr()), scale))
            } else {
                (first, first)
            }
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> *const u8 {
        // SAFETY: the trait's.
        unsafe { row.at::<L>(step * BITS as usize * CHUNK / 8) }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(
        &self,
        (table, above): (L, L),
        step: &mut *const u8,
        at: usize,
    ) -> L {
        // SAFETY: the trait's.
        unsafe {
            let codes = u32::from_le(step.add(4 * at).cast::<u32>().read_unaligned());
            if BITS == 3 {
                let high = u16::from_le(step.add(8 + 2 * at).cast::<u16>().read_unaligned());
                L::triples(codes, high, table, above)
            } else {
                L::pairs(codes, table)
            }
        }
    }
}

/// Codes of a byte.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a, const KIND: u8>(pub(super) Coded<'a>);

pub(super) const SIGNED: u8 = 0;
pub(super) const UNSIGNED: u8 = 1;
pub(super) const E4M3: u8 = 2;

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl<const KIND: u8> Source for Whole<'_, KIND> {
    type Group<L: Lanes> = (L, L);
    type Step<L: Lanes> = *const u8;

    coded!();

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, factors: Factors, group: usize) -> (L, L) {
        // SAFETY: the trait's.
        unsafe { factors.at::<L>(group) }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> *const u8 {
        // SAFETY: the trait's.
        unsafe { row.at::<L>(step * CHUNK) }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(
        &self,
        (scale, offset): (L, L),
        step: &mut *const u8,
        at: usize,
    ) -> L {
        // SAFETY: the trait's.
        unsafe {
            let at = step.add(at * LANES);
            let value = match KIND {
                SIGNED => L::signed(at),
                UNSIGNED => L::unsigned(at),
                _ => L::e4m3(at),
            };
            offset.plus(value, scale)
        }
    }
}
