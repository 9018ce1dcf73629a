//! HQQ (Badri and Shaji 2023): a grid that fits the weight better than its range does, without
//! calibration.
//!
//! The error is split: `w = s (q - z) + e`, with `e` sparse in the sense of an lp norm, p = 0.7. In turn, `e` is
//! shrunk from what rounding leaves, and the grid is fitted to `w - e`. Where HQQ fits a real zero point to
//! a fixed scale, the scale is fitted here as well, and the zero point stays a code, so that every layout
//! with integer zero points holds the result. The best grid met, by squared error, is taken.

use rayon::prelude::*;

use super::error::{SolveError, check};
use super::grid::{Grid, Scheme, empty};
use crate::dequant::codes::Codes;

/// Turns per group.
const TURNS: usize = 20;
/// The norm's exponent.
const NORM: f32 = 0.7;
/// How strongly `e` is held to what rounding leaves, in the first turn, relative to the scale.
const BETA: f32 = 10.0;
/// What that grows by in each turn.
const GROWTH: f32 = 1.01;

/// Fits every group of a weight, `[rows, columns]`. Of the scheme, bits, group and symmetry count.
///
/// # Errors
/// If a number is not finite, or shapes do not fit.
pub fn solve(
    weight: &[f32],
    rows: usize,
    columns: usize,
    scheme: &Scheme,
) -> Result<Codes, SolveError> {
    scheme.check()?;
    check("weight", weight, rows, columns)?;
    let mut found = empty(rows, columns, scheme);
    let (group, groups) = (found.group, found.groups().max(1));
    let width = columns.max(1);
    weight
        .par_chunks(width)
        .zip(found.codes.par_chunks_mut(width))
        .zip(found.scales.par_chunks_mut(groups).zip(found.zeros.par_chunks_mut(groups)))
        .for_each(|((values, codes), (scales, zeros))| {
            let parts = values.chunks(group).zip(codes.chunks_mut(group));
            for ((values, codes), (scale, zero)) in parts.zip(scales.iter_mut().zip(zeros)) {
                let grid = fit(values, scheme);
                for (value, code) in values.iter().zip(codes) {
                    *code = grid.code(*value, scheme.top()) as u8;
                }
                (*scale, *zero) = (grid.scale, grid.zero as u8);
            }
        });
    Ok(found)
}

fn fit(values: &[f32], scheme: &Scheme) -> Grid {
    let top = scheme.top();
    let cost = |grid: Grid| -> f64 {
        let off = values.iter().map(|value| value - grid.value(grid.code(*value, top)));
        off.map(|off| f64::from(off) * f64::from(off)).sum()
    };
    let start = Scheme { shrinks: 16, ..*scheme }.fit(values, &[]);
    let mut best = (cost(start), start);
    let (mut grid, mut beta) = (start, BETA);
    for _ in 0..TURNS {
        // The least squares scale of codes to w - e, and the zero point that then is nearest.
        let (mut steps, mut fitted, mut drift) = (0.0_f64, 0.0_f64, 0.0_f64);
        for value in values {
            let code = grid.code(*value, top);
            let left = (value - grid.value(code)) / grid.scale;
            let size = left.abs();
            let shrunk =
                if size > 0.0 { (size - size.powf(NORM - 1.0) / beta).max(0.0) } else { 0.0 };
            let held = value - grid.scale * shrunk.copysign(left);
            let step = f64::from(code - grid.zero);
            steps += step * step;
            fitted += step * f64::from(held);
            drift += f64::from(code) - f64::from(held / grid.scale);
        }
        beta *= GROWTH;
        if steps == 0.0 || fitted <= 0.0 {
            break;
        }
        let scale = scheme.stored((fitted / steps) as f32);
        let zero = if scheme.symmetric {
            grid.zero
        } else {
            ((drift / values.len() as f64) as f32).round_ties_even().clamp(0.0, top)
        };
        let next = Grid { scale, zero };
        if next == grid {
            break;
        }
        grid = next;
        let found = cost(grid);
        if found < best.0 {
            best = (found, grid);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dequant::Float;
    use crate::quantize::solve::grid::{round_to_nearest, values};

    #[test]
    fn it_beats_rounding_to_the_range() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let weight: Vec<f32> = (0..64 * 128).map(|_| next() * next() * next()).collect();
        for (bits, symmetric) in [(2, false), (3, false), (4, true), (4, false), (8, false)] {
            let scheme = Scheme { bits, group: Some(64), symmetric, scale: Float::F16, shrinks: 0 };
            let cost = |codes: &Codes| -> f32 {
                values(codes).iter().zip(&weight).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let plain = cost(&round_to_nearest(&weight, 64, 128, &[], &scheme).unwrap());
            let codes = solve(&weight, 64, 128, &scheme).unwrap();
            let fitted = cost(&codes);
            assert!(fitted < plain * 0.99, "{bits} bits: {fitted} for {plain}");
            assert!(codes.codes.iter().all(|code| u32::from(*code) < 1 << bits));
        }
    }
}
