//! Products of integer codes and states that were rounded to integers.
//!
//! Within a block of columns sums are integers, and exact whatever adds them up; the blocks follow each other in order.
//! So an output depends neither on how many states are multiplied at a time, nor on threads, and between instruction
//! sets only in where a fused product rounds once and a plain one twice.

use std::cell::RefCell;
use std::ops::Range;

use super::lanes::{Isa, Kernel, LANES, Lanes};
use super::outputs::{Outputs, in_tasks};
use super::rounded::{Part, Rounded};
use super::states::{CHUNK, States};
use super::tiles::{PAIRS, REGISTER, Tiles};

/// Bytes of codes that are multiplied with some states before the next states.
const NEAR: usize = 256 << 10;

thread_local! {
    static ROUNDED: RefCell<Rounded> = RefCell::new(Rounded::default());
}

/// `out[m, n] = sum over k of weight[n, k] * x[m, k]`; `out` has as many states as `x`.
pub(super) fn product(isa: Isa, tiles: &Tiles, x: &States, out: &mut States) {
    let (rows, states) = (out.width(), x.len());
    if states == 0 || rows == 0 {
        return;
    }
    let mut rounded = ROUNDED.take();
    rounded.fill(isa, x, tiles.block());
    let to = Outputs { to: out.as_mut_ptr(), stride: out.stride() };
    let work = rows * x.width() * states;
    in_tasks(rows, LANES, work, |rows| {
        macro_rules! of {
            ($low:literal, $high:literal, $table:literal) => {
                isa.run(Task::<$low, $high, $table> { tiles, rows, states, x: &rounded, to })
            };
        }
        match tiles.bits {
            (2, 0) => of!(2, 0, false),
            (2, _) => of!(2, 1, false),
            (4, 0) if tiles.table.is_some() => of!(4, 0, true),
            (4, 0) => of!(4, 0, false),
            (4, 1) => of!(4, 1, false),
            (4, _) => of!(4, 2, false),
            _ => of!(8, 0, false),
        }
    });
    ROUNDED.set(rounded);
}

/// Some rows of a weight, with all states.
struct Task<'a, const LOW: u32, const HIGH: u32, const TABLE: bool> {
    tiles: &'a Tiles,
    rows: Range<usize>,
    states: usize,
    x: &'a Rounded,
    to: Outputs,
}

impl<const LOW: u32, const HIGH: u32, const TABLE: bool> Kernel for Task<'_, LOW, HIGH, TABLE> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let all = self.rows.start / LANES..self.rows.end.div_ceil(LANES);
        let most = (NEAR / self.tiles.tile().max(1)).max(1);
        let mut first = all.start;
        while first < all.end {
            let end = all.end.min(first + most);
            for part in self.x.parts(self.states) {
                for tile in first..end {
                    // SAFETY: the caller's; the tile is the weight's.
                    unsafe {
                        match part.width {
                            1 if LOW < 8 => self.tile::<L, 1, 4>(tile, &part),
                            1 => self.tile::<L, 1, 2>(tile, &part),
                            2 => self.tile::<L, 2, 2>(tile, &part),
                            4 => self.tile::<L, 4, 1>(tile, &part),
                            _ => self.tile::<L, 8, 1>(tile, &part),
                        }
                    }
                }
            }
            first = end;
        }
    }
}

impl<const LOW: u32, const HIGH: u32, const TABLE: bool> Task<'_, LOW, HIGH, TABLE> {
    /// Sixteen rows with `M` states, the sums of each in `A` parts, so that none waits for the one before.
    ///
    /// # Safety
    /// The processor has the instructions; the weight has the tile; the part is as wide.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize, const A: usize>(&self, tile: usize, part: &Part<'_>) {
        let tiles = self.tiles;
        let (block, group) = (tiles.block(), tiles.group);
        let each = (LOW + HIGH) as usize * REGISTER;
        // SAFETY: the caller's; the part has pairs for each step and factors for each block.
        unsafe {
            let mut sums = [L::splat(0.0); M];
            let mut codes = tiles.bytes.as_ptr().add(tile * tiles.tile());
            let (mut pairs, mut factors) = (part.pairs.as_ptr(), part.factors.as_ptr());
            let (mut step, mut left, mut own) = (0, 0, 0);
            let (mut scale, mut offset) = (L::splat(0.0), L::splat(0.0));
            while step < tiles.steps {
                if left == 0 {
                    (scale, offset) = tiles.open::<L>(tile, own);
                    (left, own) = (group, own + 1);
                }
                let mut held = [[L::nothing(); A]; M];
                if block < CHUNK {
                    let mut high = L::nothing();
                    self.pairs::<L, M, A, false>(codes, pairs, &mut high, &mut held);
                    Self::settle(&held, &mut sums, scale, offset, factors);
                    factors = factors.add(2 * M);
                    (scale, offset) = tiles.open::<L>(tile, own);
                    own += 1;
                    let mut held = [[L::nothing(); A]; M];
                    self.pairs::<L, M, A, true>(codes, pairs, &mut high, &mut held);
                    Self::settle(&held, &mut sums, scale, offset, factors);
                    left = 0;
                    step += 1;
                    codes = codes.add(each);
                    pairs = pairs.add(2 * PAIRS * M);
                } else {
                    let end = tiles.steps.min(step + block / CHUNK);
                    while step < end {
                        let mut high = L::nothing();
                        self.pairs::<L, M, A, false>(codes, pairs, &mut high, &mut held);
                        self.pairs::<L, M, A, true>(codes, pairs, &mut high, &mut held);
                        step += 1;
                        codes = codes.add(each);
                        pairs = pairs.add(2 * PAIRS * M);
                    }
                    Self::settle(&held, &mut sums, scale, offset, factors);
                    left -= block;
                }
                factors = factors.add(2 * M);
            }
            let first = tile * LANES;
            let rows = (self.rows.end - first).min(LANES);
            for (m, sum) in sums.iter().enumerate() {
                let to = self.to.to.add((part.first + m) * self.to.stride + first);
                if rows == LANES {
                    sum.store(to);
                } else {
                    let mut all = [0.0; LANES];
                    sum.store(all.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(all.as_ptr(), to, rows);
                }
            }
        }
    }

    /// The first or the second half of a step, added to what is held.
    ///
    /// # Safety
    /// As of `tile`; codes and pairs are those of a step.
    #[inline(always)]
    unsafe fn pairs<L: Lanes, const M: usize, const A: usize, const SECOND: bool>(
        &self,
        codes: *const u8,
        pairs: *const i16,
        high: &mut L::Words,
        held: &mut [[L::Words; A]; M],
    ) {
        let (count, each) = (LOW as usize / 2, PAIRS / LOW as usize);
        let first = if SECOND { count } else { 0 };
        // SAFETY: the caller's.
        unsafe {
            let table = match &self.tiles.table {
                Some(table) if TABLE => L::table(table),
                _ => L::nothing(),
            };
            if HIGH == 2 || HIGH == 1 && !SECOND {
                let at = LOW as usize + usize::from(SECOND && HIGH == 2);
                *high = L::words(codes.add(at * REGISTER));
            }
            for register in first..first + count {
                let mut low = L::words(codes.add(register * REGISTER));
                L::prefetch::<false>(codes.wrapping_add(register * REGISTER + AHEAD));
                let with = pairs.add(2 * register * each * M);
                // Written out: what is chosen by a number that is not known would go through memory.
                macro_rules! pair {
                    ($($k:literal)*) => {$(
                        if $k < each {
                            let own = match (LOW, HIGH) {
                                (8, _) if $k == 0 => L::signed_halves::<false>(low),
                                (8, _) => L::signed_halves::<true>(low),
                                _ if TABLE => L::chosen(low, table),
                                (_, 0) => L::low::<LOW>(low),
                                _ => L::joined::<LOW, HIGH>(low, *high),
                            };
                            if LOW < 8 {
                                low = L::onward::<LOW>(low);
                            }
                            if HIGH > 0 {
                                *high = L::onward::<HIGH>(*high);
                            }
                            let with = with.add(2 * $k * M);
                            for m in 0..M {
                                held[m][$k % A] = L::pairs_plus(held[m][$k % A], own, with.add(2 * m));
                            }
                        }
                    )*};
                }
                pair!(0 1 2 3 4 5 6 7);
            }
        }
    }

    /// Adds what is held of a block.
    ///
    /// # Safety
    /// As of `tile`; the factors are those of the block.
    #[inline(always)]
    unsafe fn settle<L: Lanes, const M: usize, const A: usize>(
        held: &[[L::Words; A]; M],
        sums: &mut [L; M],
        scale: L,
        offset: L,
        factors: *const f32,
    ) {
        // SAFETY: the caller's.
        unsafe {
            for m in 0..M {
                let mut all = held[m][0];
                for more in &held[m][1..] {
                    all = L::sum_words(all, *more);
                }
                let by = L::splat(*factors.add(m));
                let sum = sums[m].plus(L::numbers(all).times(by), scale);
                sums[m] = sum.plus(offset, L::splat(*factors.add(M + m)));
            }
        }
    }
}

/// How far ahead codes are asked for.
const AHEAD: usize = 4096;
