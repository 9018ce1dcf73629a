//! States as 16-bit integers, for products with integer codes.
//!
//! The columns of a block share a scale: the largest is worth 32767 of them, so that no value is off by more than
//! 1/65534 of the largest in its block. What a state becomes depends on it alone.

use rayon::prelude::*;

use super::lanes::{Isa, Kernel, Lanes};
use super::states::States;

/// The most states that are multiplied at a time.
pub(super) const WIDEST: usize = 8;
/// What the largest value of a block becomes.
const LARGEST: f32 = 32767.0;
/// Adding this leaves an integer in the low bits of an f32, and rounds to it.
const MAGIC: f32 = 12_582_912.0;

/// States in parts.
#[derive(Default)]
pub(super) struct Rounded {
    /// Part after part, pair of columns after pair: the pairs of its states.
    pairs: Vec<i16>,
    /// Part after part, block after block: the scales of its states, then the sums of what they are worth.
    factors: Vec<f32>,
    /// Columns of a state, and blocks.
    columns: usize,
    blocks: usize,
}

/// States that are multiplied together: 1, 2, 4 or 8.
pub(super) struct Part<'a> {
    pub(super) first: usize,
    pub(super) width: usize,
    pub(super) pairs: &'a [i16],
    pub(super) factors: &'a [f32],
}

impl Rounded {
    /// Rounds states, in blocks of so many columns.
    pub(super) fn fill(&mut self, isa: Isa, x: &States, block: usize) {
        self.columns = x.width();
        self.blocks = self.columns.div_ceil(block);
        self.pairs.clear();
        self.pairs.resize(x.len() * self.columns, 0);
        self.factors.clear();
        self.factors.resize(x.len() * 2 * self.blocks, 0.0);
        let (mut pairs, mut factors) = (self.pairs.as_mut_slice(), self.factors.as_mut_slice());
        let mut parts = Vec::new();
        for (first, width) in widths(x.len()) {
            let (own, rest) = pairs.split_at_mut(width * self.columns);
            let (shared, others) = factors.split_at_mut(width * 2 * self.blocks);
            parts.push((first, width, own, shared));
            (pairs, factors) = (rest, others);
        }
        let round = |(first, width, pairs, factors): (usize, usize, &mut [i16], &mut [f32])| {
            for at in 0..width {
                let (pairs, factors) = (&mut *pairs, &mut *factors);
                isa.run(Round { state: x.row(first + at), block, width, at, pairs, factors });
            }
        };
        if x.len() <= WIDEST {
            parts.into_iter().for_each(round);
        } else {
            parts.into_par_iter().for_each(round);
        }
    }

    /// Its parts, of so many states.
    pub(super) fn parts(&self, states: usize) -> impl Iterator<Item = Part<'_>> {
        widths(states).map(|(first, width)| {
            let (pairs, factors) = (first * self.columns, first * 2 * self.blocks);
            Part {
                first,
                width,
                pairs: &self.pairs[pairs..pairs + width * self.columns],
                factors: &self.factors[factors..factors + width * 2 * self.blocks],
            }
        })
    }
}

/// Parts of so many states: the first state, and how many.
fn widths(states: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let width = 1 << (states - next).checked_ilog2()?.min(WIDEST.ilog2());
        let first = next;
        next += width;
        Some((first, width))
    })
}

/// Rounds a state into its place among those of its part.
struct Round<'a> {
    state: &'a [f32],
    block: usize,
    width: usize,
    at: usize,
    pairs: &'a mut [i16],
    factors: &'a mut [f32],
}

impl Kernel for Round<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { state, block, width, at, pairs, factors } = self;
        let all = pairs.chunks_mut(block * width).zip(factors.chunks_exact_mut(2 * width));
        for (own, (pairs, factors)) in state.chunks(block).zip(all) {
            // Of magnitudes the bits are in order, and those of what is no number above all.
            let most = own.iter().fold(0, |most: u32, value| most.max(value.to_bits() << 1)) >> 1;
            let most = f32::from_bits(most);
            let (scale, sum) = if !most.is_finite() {
                (f32::NAN, f32::NAN)
            } else if most < f32::MIN_POSITIVE * 65536.0 {
                (0.0, 0.0)
            } else {
                let by = LARGEST / most;
                let integer = |value: f32| {
                    (value * by + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed()
                };
                let sum: i32 = own.iter().map(|value| integer(*value)).sum();
                if width == 1 {
                    for (to, value) in pairs.iter_mut().zip(own) {
                        *to = integer(*value) as i16;
                    }
                } else {
                    let to = pairs.chunks_exact_mut(2 * width);
                    for (to, value) in to.zip(own.as_chunks::<2>().0) {
                        if let Some(to) = to.get_mut(2 * at..2 * at + 2) {
                            to.copy_from_slice(&value.map(|value| integer(value) as i16));
                        }
                    }
                }
                let scale = most / LARGEST;
                (scale, sum as f32 * scale)
            };
            factors[at] = scale;
            factors[width + at] = sum;
        }
    }
}
