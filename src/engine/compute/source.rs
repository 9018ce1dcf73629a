//! How steps of a row become lanes, one kind of codes each.

use super::codes::Codes;
use super::lanes::{E4M3, LANES, Lanes};
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
            L::prefetch::<true>(at.wrapping_add(self.ahead));
            at
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

    /// Whether reading rows again costs less than writing floats once.
    const AGAIN: bool = true;

    /// Steps of a row, the last, shorter one not counted.
    fn steps(&self) -> usize;

    /// Vectors of a group.
    fn group(&self) -> usize {
        self.steps().max(1) * Self::VECTORS
    }

    /// Where a row is, if the one `next` rows later is read after it.
    unsafe fn row(&self, row: usize, next: usize) -> Row;

    /// What a group of a row shares.
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> Self::Group<L>;

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

    /// # Safety
    /// The weight has the row, and it the group.
    #[inline(always)]
    unsafe fn scale<L: Lanes>(&self, row: Row, group: usize) -> L {
        // SAFETY: the caller's; there is a scale for each group.
        unsafe { L::splat(*self.codes.scales.as_ptr().add(row.group + group)) }
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

        #[inline(always)]
        unsafe fn row(&self, row: usize, next: usize) -> Row {
            // SAFETY: the trait's.
            unsafe { self.0.row(row, next) }
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
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> L {
        // SAFETY: the trait's. A value times its scale, whoever does it first: once for a group here.
        unsafe { L::load(self.0.codes.table.as_ptr()).times(self.0.scale(row, group)) }
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

/// FP8 E4M3.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) Coded<'a>);

// SAFETY: rows and steps that the weight has lie within its bytes.
unsafe impl Source for Bytes<'_> {
    type Group<L: Lanes> = L;
    type Step<L: Lanes> = *const u8;

    coded!();

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, row: Row, group: usize) -> L {
        // SAFETY: the trait's.
        unsafe { self.0.scale::<L>(row, group).times(L::splat(E4M3)) }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> *const u8 {
        // SAFETY: the trait's.
        unsafe { row.at::<L>(step * CHUNK) }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(&self, scale: L, step: &mut *const u8, at: usize) -> L {
        // SAFETY: the trait's.
        unsafe { L::e4m3(step.add(at * LANES)).times(scale) }
    }
}
