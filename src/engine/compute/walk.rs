//! The weights of some rows, vector by vector, whatever kind they are of.

use super::lanes::{LANES, Lanes};
use super::source::{Row, Source};

/// What is done with the weights of `R` rows, vector by vector.
pub(super) trait Take<L, const R: usize> {
    /// Takes those of the next 16 columns, which begin at `column`.
    ///
    /// # Safety
    /// The processor has the instructions of `L`, and the weight the columns.
    unsafe fn take(&mut self, column: usize, vectors: [L; R]);
}

/// Gives the weights of rows to `take`, whole steps of them, in order.
///
/// # Safety
/// The processor has the instructions of `L`, and the weight the rows.
#[inline(always)]
pub(super) unsafe fn walk<L: Lanes, S: Source, T: Take<L, R>, const R: usize>(
    source: &S,
    rows: [Row; R],
    take: &mut T,
) {
    // SAFETY: the caller's.
    unsafe {
        match source.group() {
            2 if S::VECTORS > 2 => parts::<L, S, T, R, 2>(source, rows, take),
            4 if S::VECTORS > 2 => parts::<L, S, T, R, 4>(source, rows, take),
            _ => wholes::<L, S, T, R>(source, rows, take),
        }
    }
}

/// The same where groups are a number of steps.
///
/// # Safety
/// As of `walk`.
#[inline(always)]
unsafe fn wholes<L: Lanes, S: Source, T: Take<L, R>, const R: usize>(
    source: &S,
    rows: [Row; R],
    take: &mut T,
) {
    let (steps, each) = (source.steps(), source.group() / S::VECTORS);
    let (mut step, mut group) = (0, 0);
    // SAFETY: the caller's.
    unsafe {
        while step < steps {
            let shared = opened::<L, S, R>(source, &rows, group);
            group += 1;
            let end = steps.min(step + each);
            while step < end {
                let mut held = held::<L, S, R>(source, &rows, step);
                for at in 0..S::VECTORS {
                    let vectors = vectors::<L, S, R>(source, &shared, &mut held, at);
                    take.take((step * S::VECTORS + at) * LANES, vectors);
                }
                step += 1;
            }
        }
    }
}

/// The same where a step has several groups, of `EACH` vectors.
///
/// # Safety
/// As of `walk`.
#[inline(always)]
unsafe fn parts<L: Lanes, S: Source, T: Take<L, R>, const R: usize, const EACH: usize>(
    source: &S,
    rows: [Row; R],
    take: &mut T,
) {
    let mut group = 0;
    // SAFETY: the caller's.
    unsafe {
        for step in 0..source.steps() {
            let mut held = held::<L, S, R>(source, &rows, step);
            for part in 0..S::VECTORS / EACH {
                let shared = opened::<L, S, R>(source, &rows, group);
                group += 1;
                for own in 0..EACH {
                    let at = part * EACH + own;
                    let vectors = vectors::<L, S, R>(source, &shared, &mut held, at);
                    take.take((step * S::VECTORS + at) * LANES, vectors);
                }
            }
        }
    }
}

/// What a group shares in each row.
///
/// # Safety
/// As of `walk`; the rows have the group.
#[inline(always)]
unsafe fn opened<L: Lanes, S: Source, const R: usize>(
    source: &S,
    rows: &[Row; R],
    group: usize,
) -> [S::Group<L>; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut shared = [source.open::<L>(rows[0], group); R];
        for r in 1..R {
            shared[r] = source.open::<L>(rows[r], group);
        }
        shared
    }
}

/// Vector `at` of a step of each row.
///
/// # Safety
/// As of `walk`; the vectors before it were taken.
#[inline(always)]
unsafe fn vectors<L: Lanes, S: Source, const R: usize>(
    source: &S,
    shared: &[S::Group<L>; R],
    held: &mut [S::Step<L>; R],
    at: usize,
) -> [L; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut vectors = [source.vector::<L>(shared[0], &mut held[0], at); R];
        for r in 1..R {
            vectors[r] = source.vector::<L>(shared[r], &mut held[r], at);
        }
        vectors
    }
}

/// A step of each row.
///
/// # Safety
/// As of `walk`; the rows have the step.
#[inline(always)]
unsafe fn held<L: Lanes, S: Source, const R: usize>(
    source: &S,
    rows: &[Row; R],
    step: usize,
) -> [S::Step<L>; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut held = [source.step::<L>(rows[0], step); R];
        for r in 1..R {
            held[r] = source.step::<L>(rows[r], step);
        }
        held
    }
}
