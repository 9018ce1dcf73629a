//! Products of weights and states.
//!
//! Every output is one sum: sixteen partial sums, each over every sixteenth column in order, and then those. So it
//! does not depend on how many states are multiplied at a time, nor on threads.

use std::cell::RefCell;
use std::ops::Range;

use super::codes::Kind;
use super::dot;
use super::lanes::{Isa, Kernel, LANES, Lanes};
use super::matrix::{Matrix, Stored};
use super::outputs::{Outputs, in_tasks};
use super::plain::{BF16, Decoded, F16, F32, Plain};
use super::source::{Bytes, Coded, Nibbles, Source};
use super::states::{CHUNK, Floats, States};
use super::tiles::ExpandTile;
use super::walk::{Take, walk};
use crate::dequant::Float;

/// Rows of a weight, and states, that are multiplied at a time in registers.
const ROWS: usize = 4;
const STATES: usize = 6;
/// Up to so many states, rows are read again for each few instead.
const FEW: usize = 16;
/// Bytes of floats that rows are dequantized into, and read from again for each few states.
const SCRATCH: usize = 256 << 10;

thread_local! {
    static FLOATS: RefCell<Floats> = RefCell::new(Floats::default());
}

/// What is done with a weight, whichever kind it is of.
macro_rules! with_source {
    ($weight:expr, $tiles:ident => $whole:expr, $source:ident => $done:expr) => {{
        let columns = $weight.columns;
        macro_rules! of {
            ($made:expr) => {{
                let $source = $made;
                $done
            }};
        }
        match &$weight.stored {
            Stored::Floats(Float::F32, bytes) => of!(Plain::<F32>::new(bytes, columns)),
            Stored::Floats(Float::F16, bytes) => of!(Plain::<F16>::new(bytes, columns)),
            Stored::Floats(Float::BF16, bytes) => of!(Plain::<BF16>::new(bytes, columns)),
            Stored::Tiles($tiles) => $whole,
            Stored::Codes(codes) => {
                let coded = Coded::new(codes, columns);
                match codes.kind {
                    Kind::Four => of!(Nibbles::<2>(coded)),
                    Kind::Words => of!(Nibbles::<8>(coded)),
                    Kind::E4m3 => of!(Bytes(coded)),
                }
            }
            Stored::Blocks(block, bytes) => match block.elements() {
                32 => of!(Decoded::<2>::new(*block, bytes, columns)),
                64 => of!(Decoded::<4>::new(*block, bytes, columns)),
                _ => of!(Decoded::<16>::new(*block, bytes, columns)),
            },
        }
    }};
}

/// `out[m, n] = sum over k of weight[n, k] * x[m, k]`; `out` has as many states as `x`.
pub(super) fn product(isa: Isa, weight: &Matrix, x: &States, out: &mut States) {
    assert!(
        (x.width(), out.width(), out.len()) == (weight.columns, weight.rows, x.len()),
        "states that do not fit the weight"
    );
    let ordered = weight.order.as_ref().map(|order| x.gathered(order));
    let x = ordered.as_ref().unwrap_or(x);
    with_source!(
        weight,
        tiles => dot::product(isa, tiles, x, out),
        source => run(isa, source, x, out)
    );
}

/// A row of a weight as floats; `to` is as wide.
pub(super) fn row(isa: Isa, weight: &Matrix, row: usize, to: &mut [f32]) {
    assert!(row < weight.rows && to.len() == weight.columns, "a row that the weight does not have");
    let mut line = vec![0.0; weight.columns.next_multiple_of(CHUNK)];
    with_source!(
        weight,
        tiles => isa.run(ExpandTile { tiles, row, to: &mut line[..weight.columns] }),
        source => isa.run(Expand { source, row, to: line.as_mut_ptr() })
    );
    match &weight.order {
        None => to.copy_from_slice(&line[..to.len()]),
        Some(order) => {
            for (value, input) in line.iter().zip(order) {
                to[*input as usize] = *value;
            }
        }
    }
}

fn run<S: Source>(isa: Isa, source: S, x: &States, out: &mut States) {
    let (rows, states) = (out.width(), x.len());
    if states == 0 || rows == 0 {
        return;
    }
    let to = Outputs { to: out.as_mut_ptr(), stride: out.stride() };
    let work = rows * x.stride() * states;
    in_tasks(rows, ROWS, work, |rows| isa.run(Task { source, rows, x, to }));
}

/// Some rows of a weight, with all states.
struct Task<'a, S> {
    source: S,
    rows: Range<usize>,
    x: &'a States,
    to: Outputs,
}

impl<S: Source> Kernel for Task<'_, S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        if self.x.len() == 1 || S::AGAIN && self.x.len() <= FEW {
            // SAFETY: the caller's; rows are the weight's.
            return unsafe { self.few::<L>() };
        }
        // Taken and put back: what runs in a closure would not be compiled for the instructions.
        let mut floats = FLOATS.take();
        let width = self.x.stride();
        let most = (SCRATCH / 4 / width / ROWS).max(1) * ROWS;
        floats.resize(most * width);
        let mut first = self.rows.start;
        while first < self.rows.end {
            let count = most.min(self.rows.end - first);
            // SAFETY: the caller's; `floats` has `most` rows of `width`.
            unsafe {
                for at in 0..count {
                    expand::<L, S>(&self.source, first + at, floats.as_mut_ptr().add(at * width));
                }
                self.several::<L>(&floats, first, count);
            }
            first += count;
        }
        FLOATS.set(floats);
    }
}

impl<S: Source> Task<'_, S> {
    /// Rows are read again for each few states.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn few<L: Lanes>(&self) {
        let (mut row, states) = (self.rows.start, self.x.len());
        // SAFETY: the caller's; the rows and the states are there.
        unsafe {
            while row < self.rows.end {
                let rows = if row + ROWS <= self.rows.end { ROWS } else { 1 };
                let mut state = 0;
                while state < states {
                    state += match (rows, states - state) {
                        (ROWS, 1) => self.sums::<L, ROWS, 1>(row, state),
                        (ROWS, 2 | 3) => self.sums::<L, ROWS, 2>(row, state),
                        (ROWS, _) => self.sums::<L, ROWS, 4>(row, state),
                        _ => self.sums::<L, 1, 1>(row, state),
                    };
                }
                row += rows;
            }
        }
    }

    /// `R` rows with `M` states, each once it is read; how many states.
    ///
    /// # Safety
    /// As of `few`; the rows are the weight's from `row` on, and the states are there. They are as wide as the weight
    /// has columns, and padded to whole steps.
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize, const M: usize>(
        &self,
        row: usize,
        state: usize,
    ) -> usize {
        let stride = self.x.stride();
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [self.source.row(row, R); R];
            for (at, own) in rows.iter_mut().enumerate().skip(1) {
                *own = self.source.row(row + at, R);
            }
            let x = self.x.as_ptr().add(state * stride);
            let mut sums = Sums { sums: [[L::splat(0.0); M]; R], x, stride };
            walk::<L, S, _, R>(&self.source, rows, &mut sums);
            let Sums { mut sums, .. } = sums;
            for (at, sums) in sums.iter_mut().enumerate() {
                if let Some((a, b)) = self.source.rest::<L>(row + at) {
                    let x = x.add(self.source.steps() * S::VECTORS * LANES);
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let x = x.add(m * stride);
                        *sum = sum.plus(a, L::load(x)).plus(b, L::load(x.add(LANES)));
                    }
                }
            }
            for (at, sums) in sums.iter().enumerate() {
                for (m, sum) in sums.iter().enumerate() {
                    *self.to.to.add((state + m) * self.to.stride + row + at) = sum.sum();
                }
            }
        }
        M
    }

    /// Rows that were dequantized into `floats`, with all states.
    ///
    /// # Safety
    /// `floats` has `count` rows, those of the weight from `first` on.
    #[inline(always)]
    unsafe fn several<L: Lanes>(&self, floats: &[f32], first: usize, count: usize) {
        let mut state = 0;
        // SAFETY: the caller's.
        unsafe {
            while state < self.x.len() {
                let states = (self.x.len() - state).min(STATES);
                let mut at = 0;
                while at < count {
                    let rows = (count - at).min(ROWS);
                    let w = floats.as_ptr().add(at * self.x.stride());
                    match (rows, states) {
                        (ROWS, 6) => self.tile::<L, ROWS, 6>(w, first + at, state),
                        (ROWS, 5) => self.tile::<L, ROWS, 5>(w, first + at, state),
                        (ROWS, 4) => self.tile::<L, ROWS, 4>(w, first + at, state),
                        (ROWS, 3) => self.tile::<L, ROWS, 3>(w, first + at, state),
                        (ROWS, 2) => self.tile::<L, ROWS, 2>(w, first + at, state),
                        (ROWS, _) => self.tile::<L, ROWS, 1>(w, first + at, state),
                        _ => {
                            for row in 0..rows {
                                let w = w.add(row * self.x.stride());
                                for own in 0..states {
                                    self.tile::<L, 1, 1>(w, first + at + row, state + own);
                                }
                            }
                        }
                    }
                    at += rows;
                }
                state += states;
            }
        }
    }

    /// `R` rows with `M` states.
    ///
    /// # Safety
    /// `w` has the rows, which are the weight's from `row` on; the states are there.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize, const M: usize>(
        &self,
        w: *const f32,
        row: usize,
        state: usize,
    ) {
        let stride = self.x.stride();
        // SAFETY: the caller's.
        unsafe {
            let x = self.x.as_ptr().add(state * stride);
            let mut sums = [[L::splat(0.0); M]; R];
            let mut at = 0;
            while at < stride {
                let mut own = [L::splat(0.0); R];
                for (r, own) in own.iter_mut().enumerate() {
                    *own = L::load(w.add(r * stride + at));
                }
                for m in 0..M {
                    let x = L::load(x.add(m * stride + at));
                    for (sums, own) in sums.iter_mut().zip(own) {
                        sums[m] = sums[m].plus(own, x);
                    }
                }
                at += LANES;
            }
            for (r, sums) in sums.iter().enumerate() {
                for (m, sum) in sums.iter().enumerate() {
                    *self.to.to.add((state + m) * self.to.stride + row + r) = sum.sum();
                }
            }
        }
    }
}

/// A row as floats, whole steps of them.
///
/// # Safety
/// The weight has the row; `to` is good for its steps.
#[inline(always)]
unsafe fn expand<L: Lanes, S: Source>(source: &S, row: usize, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        walk::<L, S, _, 1>(source, [source.row(row, 1)], &mut Stores(to));
        if let Some((a, b)) = source.rest::<L>(row) {
            let to = to.add(source.steps() * S::VECTORS * LANES);
            a.store(to);
            b.store(to.add(LANES));
        }
    }
}

struct Expand<S> {
    source: S,
    row: usize,
    to: *mut f32,
}

impl<S: Source> Kernel for Expand<S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's; whoever makes one has a row of whole steps.
        unsafe { expand::<L, S>(&self.source, self.row, self.to) }
    }
}

/// Adds up products with states.
struct Sums<L, const R: usize, const M: usize> {
    sums: [[L; M]; R],
    x: *const f32,
    stride: usize,
}

impl<L: Lanes, const R: usize, const M: usize> Take<L, R> for Sums<L, R, M> {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, vectors: [L; R]) {
        // SAFETY: the caller's; a state has as many columns.
        unsafe {
            for m in 0..M {
                let x = L::load(self.x.add(m * self.stride + column));
                // By references: an array that is taken apart by value goes through memory.
                for (sums, vector) in self.sums.iter_mut().zip(&vectors) {
                    sums[m] = sums[m].plus(*vector, x);
                }
            }
        }
    }
}

/// Writes the weights of a row.
struct Stores(*mut f32);

impl<L: Lanes> Take<L, 1> for Stores {
    #[inline(always)]
    unsafe fn take(&mut self, column: usize, [vector]: [L; 1]) {
        // SAFETY: the caller's; there is room for a row.
        unsafe { vector.store(self.0.add(column)) }
    }
}
