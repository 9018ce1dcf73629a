//! The grid of a group: its scale and zero point, and rounding to it.
//!
//! `w = scale * (q - zero)`, `0 <= q < 2^bits`. The range of a group includes 0; a symmetric one is as wide
//! below as above, with zero point `2^(bits - 1)` and scale `2 * max|w| / (2^bits - 1)`, as GPTQ and AWQ
//! have it. Scales are rounded to the type that they are stored in before anything is rounded to them.

use half::{bf16, f16};
use rayon::prelude::*;

use super::error::{SolveError, check};
use crate::dequant::Float;
use crate::dequant::codes::Codes;

/// How a weight is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheme {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Columns per group; `None` for a scale per row.
    pub group: Option<usize>,
    /// Whether zero points are all `2^(bits - 1)`.
    pub symmetric: bool,
    /// The type that scales are stored in.
    pub scale: Float,
    /// How many narrower ranges are tried per group, the one with the least squared error being taken; 0 takes the
    /// whole range.
    pub shrinks: u32,
}

/// The narrowest range that is tried, as a part of the whole.
const NARROWEST: f32 = 0.5;

impl Scheme {
    /// Checks the numbers.
    ///
    /// # Errors
    /// If there are no such bits or groups.
    pub fn check(&self) -> Result<(), SolveError> {
        if !(2..=8).contains(&self.bits) {
            return Err(SolveError::Scheme("codes have 2 to 8 bits"));
        }
        if self.group == Some(0) {
            return Err(SolveError::Scheme("a group has at least one column"));
        }
        Ok(())
    }

    /// The largest code.
    pub(super) fn top(&self) -> f32 {
        ((1_u32 << self.bits.min(8)) - 1) as f32
    }

    /// Columns per group of a weight.
    pub(super) fn group_of(&self, columns: usize) -> usize {
        self.group.unwrap_or(columns).min(columns).max(1)
    }

    /// The scale as it is stored, never 0 or infinite.
    pub(super) fn stored(&self, scale: f32) -> f32 {
        match self.scale {
            Float::F32 => scale.clamp(f32::MIN_POSITIVE, f32::MAX),
            Float::F16 => f16::from_f32(scale.clamp(6e-8, 65504.0)).to_f32(),
            Float::BF16 => {
                bf16::from_f32(scale.clamp(f32::MIN_POSITIVE, bf16::MAX.to_f32())).to_f32()
            }
        }
    }

    /// Scale and zero point of a group whose values reach from `low` to `high`.
    pub(super) fn grid(&self, low: f32, high: f32) -> Grid {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let top = self.top();
        if self.symmetric {
            let most = high.max(-low);
            let scale = if most > 0.0 { most / (top / 2.0) } else { 1.0 };
            return Grid { scale: self.stored(scale), zero: (top + 1.0) / 2.0 };
        }
        let scale = if high > low { high / top - low / top } else { 1.0 };
        let scale = self.stored(scale);
        Grid { scale, zero: (-low / scale).round_ties_even().clamp(0.0, top) }
    }

    /// The parts of the whole range that are tried, the whole first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = f32> {
        let steps = self.shrinks;
        (0..=steps).map(move |step| 1.0 - (1.0 - NARROWEST) * step as f32 / steps.max(1) as f32)
    }

    /// The grid that suits a group best; `weight` says how much each value matters, all alike if it is
    /// empty.
    pub(super) fn fit(&self, values: &[f32], weight: &[f32]) -> Grid {
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let mut best = (f32::INFINITY, self.grid(low, high));
        if self.shrinks == 0 {
            return best.1;
        }
        for part in self.ranges() {
            let grid = self.grid(low * part, high * part);
            let mut error = 0.0;
            for (at, value) in values.iter().enumerate() {
                let off = value - grid.value(grid.code(*value, self.top()));
                error += off * off * weight.get(at).copied().unwrap_or(1.0);
            }
            if error < best.0 {
                best = (error, grid);
            }
        }
        best.1
    }
}

/// Scale and zero point of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero: f32,
}

impl Grid {
    /// The code of a value: ties to even, clamped.
    #[inline(always)]
    pub(super) fn code(self, value: f32, top: f32) -> f32 {
        ((value / self.scale).round_ties_even() + self.zero).clamp(0.0, top)
    }

    /// The value of a code.
    #[inline(always)]
    pub(super) fn value(self, code: f32) -> f32 {
        self.scale * (code - self.zero)
    }
}

/// Codes without anything in them.
pub(super) fn empty(rows: usize, columns: usize, scheme: &Scheme) -> Codes {
    let group = scheme.group_of(columns);
    let groups = columns.div_ceil(group);
    Codes {
        rows,
        columns,
        bits: scheme.bits,
        group,
        symmetric: scheme.symmetric,
        codes: vec![0; rows * columns],
        scales: vec![0.0; rows * groups],
        zeros: vec![0; rows * groups],
        index: None,
    }
}

/// Rounds every value to its group's grid. `importance` says how much each column matters where narrower
/// ranges are tried, all alike if it is empty.
///
/// # Errors
/// If a number is not finite, or shapes do not fit.
pub fn round_to_nearest(
    weight: &[f32],
    rows: usize,
    columns: usize,
    importance: &[f32],
    scheme: &Scheme,
) -> Result<Codes, SolveError> {
    scheme.check()?;
    check("weight", weight, rows, columns)?;
    if !importance.is_empty() {
        check("importance", importance, 1, columns)?;
    }
    let mut found = empty(rows, columns, scheme);
    let (group, groups) = (found.group, found.groups());
    let rows = weight.chunks(columns.max(1)).zip(found.codes.chunks_mut(columns.max(1)));
    let grids = found.scales.chunks_mut(groups.max(1)).zip(found.zeros.chunks_mut(groups.max(1)));
    for ((values, codes), (scales, zeros)) in rows.zip(grids) {
        let parts = values.chunks(group).zip(codes.chunks_mut(group));
        for (at, ((values, codes), (scale, zero))) in
            parts.zip(scales.iter_mut().zip(zeros)).enumerate()
        {
            let matter = importance.get(at * group..).unwrap_or_default();
            let grid = scheme.fit(values, matter);
            for (value, code) in values.iter().zip(codes) {
                *code = grid.code(*value, scheme.top()) as u8;
            }
            (*scale, *zero) = (grid.scale, grid.zero as u8);
        }
    }
    Ok(found)
}

/// The values that codes stand for, f32 `[rows, columns]`.
pub fn values(codes: &Codes) -> Vec<f32> {
    let (columns, groups) = (codes.columns.max(1), codes.groups().max(1));
    let mut values = vec![0.0; codes.codes.len()];
    let lines = values.par_chunks_mut(columns).zip(codes.codes.par_chunks(columns));
    let grids = codes.scales.par_chunks(groups).zip(codes.zeros.par_chunks(groups));
    lines.zip(grids).for_each(|((values, codes_of), (scales, zeros))| {
        let of = |code: u8, group: usize| {
            let scale = scales.get(group).copied().unwrap_or(0.0);
            let zero = zeros.get(group).copied().unwrap_or(0);
            scale * (f32::from(code) - f32::from(zero))
        };
        if let Some(index) = &codes.index {
            for ((value, code), group) in values.iter_mut().zip(codes_of).zip(index) {
                *value = of(*code, *group as usize);
            }
            return;
        }
        let parts = values.chunks_mut(codes.group.max(1)).zip(codes_of.chunks(codes.group.max(1)));
        for (group, (values, codes)) in parts.enumerate() {
            for (value, code) in values.iter_mut().zip(codes) {
                *value = of(*code, group);
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheme(bits: u32, group: usize, symmetric: bool, shrinks: u32) -> Scheme {
        Scheme { bits, group: Some(group), symmetric, scale: Float::F16, shrinks }
    }

    #[test]
    fn a_group_is_on_its_grid() {
        // -1 to 2 in 15 steps of 0.2: zero point 5.
        let weight = [-1.0, 2.0, 0.0, 0.21];
        let codes = round_to_nearest(&weight, 1, 4, &[], &scheme(4, 4, false, 0)).unwrap();
        assert_eq!((codes.codes, codes.zeros), (vec![0, 15, 5, 6], vec![5]));
        assert_eq!(codes.scales, [f16::from_f32(0.2).to_f32()]);
        let codes = round_to_nearest(&weight, 1, 4, &[], &scheme(4, 4, true, 0)).unwrap();
        assert_eq!((codes.codes, codes.zeros), (vec![4, 15, 8, 9], vec![8]));
    }

    #[test]
    fn groups_without_range_and_of_one_sign() {
        for symmetric in [false, true] {
            for weight in [[0.0; 3], [1.0, 1.5, 2.0], [-3.0, -2.0, -1.0], [1e-30, 0.0, 0.0]] {
                let codes =
                    round_to_nearest(&weight, 1, 3, &[], &scheme(8, 2, symmetric, 4)).unwrap();
                let found = values(&codes);
                let off = found.iter().zip(weight).map(|(a, b)| (a - b).abs());
                // Scales are rounded to f16: the end of a range may lie a little outside.
                assert!(off.fold(0.0, f32::max) <= 0.6 * codes.scales[0].max(codes.scales[1]));
            }
        }
    }

    #[test]
    fn what_cannot_be_rounded_is_named() {
        let wrong = |weight: &[f32], scheme: Scheme| {
            round_to_nearest(weight, 2, 2, &[], &scheme).unwrap_err().to_string()
        };
        let four = scheme(4, 2, false, 0);
        assert!(wrong(&[0.0; 3], four).contains("3 numbers where the shape needs 4"));
        let named = "row 1, column 0 is not finite";
        assert!(wrong(&[0.0, 1.0, f32::NAN, 0.0], four).contains(named));
        assert!(wrong(&[0.0; 4], scheme(9, 2, false, 0)).contains("2 to 8 bits"));
        assert!(wrong(&[0.0; 4], scheme(4, 0, false, 0)).contains("at least one column"));
    }

    proptest! {
        /// No value is further from its grid than half a step, and narrower ranges never cost more.
        #[test]
        fn rounding_is_to_the_nearest(
            weight in prop::collection::vec(-2.0_f32..2.0, 24),
            bits in 2_u32..=8, group in 1_usize..9, symmetric: bool,
        ) {
            let whole = scheme(bits, group, symmetric, 0);
            let codes = round_to_nearest(&weight, 2, 12, &[], &whole).unwrap();
            let cost = |codes: &Codes| -> f32 {
                let off = values(codes).into_iter().zip(&weight).map(|(a, b)| (a - b) * (a - b));
                off.sum()
            };
            for (at, (value, weight)) in values(&codes).into_iter().zip(&weight).enumerate() {
                let scale = codes.scales[at / 12 * codes.groups() + at % 12 / group];
                // A symmetric grid lacks the last half step above; a zero point is rounded itself.
                // Below 2^-14, f16 rounds a scale by up to 2^-25, and so a value by that times its code.
                let most = scale * 1.01 + whole.top() * 2_f32.powi(-25);
                prop_assert!((value - weight).abs() <= most, "{value} for {weight}");
            }
            let narrower = round_to_nearest(&weight, 2, 12, &[], &Scheme { shrinks: 10, ..whole });
            prop_assert!(cost(&narrower.unwrap()) <= cost(&codes) * 1.0001);
        }
    }
}
