//! AWQ (Lin et al. 2023): the inputs of a layer that matter are scaled down and their weights up, so that
//! rounding costs less where it costs most; then each group's range is cut where that costs less.
//!
//! A scale is `s = xmean^r / (wmean^(1 - r) + 1e-4)`, divided by the root of its extremes' product, for the best
//! of twenty ratios `r`. What is minimised is the squared error of the outputs of the layers that share the
//! input, from the Hessian: no tokens are run again.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::error::{SolveError, check};
use super::grid::{Scheme, round_to_nearest, values};
use super::linalg::{View, multiply, quadratic};

/// Ratios that are tried.
const RATIOS: usize = 20;
/// Parts that a range is cut by, in steps of a twentieth.
const CUTS: usize = 10;
/// Steps of a cut.
const GRID: f32 = 20.0;

/// Rows whose cost is told together, and those of them that a task rounds: what is held beside a weight.
const TOGETHER: usize = 256;
const FEW: usize = 16;

/// What was found for layers that share an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    /// By column: weights are multiplied by it, the input is divided.
    pub scales: Vec<f32>,
    /// The ratio that was best; `None` where no scaling was.
    pub ratio: Option<f32>,
    /// The squared error of the outputs then.
    pub error: f64,
    /// And without scaling.
    pub plain: f64,
}

/// Searches the scale of the input that `layers`, each `[rows, columns]`, share. `mean` is the mean magnitude
/// of each column of the input.
///
/// # Errors
/// If a number is not finite, or shapes do not fit.
pub fn search(
    layers: &[(&[f32], usize)],
    hessian: &[f32],
    mean: &[f32],
    scheme: &Scheme,
) -> Result<Scales, SolveError> {
    let columns = mean.len();
    scheme.check()?;
    check("Hessian", hessian, columns, columns)?;
    check("activation means", mean, 1, columns)?;
    for (weight, rows) in layers {
        check("weight", weight, *rows, columns)?;
    }
    let weights = magnitudes(layers, columns, scheme);
    let cost = |scales: &[f32]| -> Result<f64, SolveError> {
        let mut total = 0.0;
        for (weight, _) in layers {
            for part in weight.chunks(TOGETHER * columns.max(1)) {
                total += quadratic(&difference(part, scales, scheme)?, hessian, columns);
            }
        }
        Ok(total)
    };
    let plain = cost(&vec![1.0; columns])?;
    let mut best = Scales { scales: vec![1.0; columns], ratio: None, error: plain, plain };
    for step in 0..RATIOS {
        let ratio = step as f32 / RATIOS as f32;
        let Some(scales) = scaled(mean, &weights, ratio) else { continue };
        let error = cost(&scales)?;
        if error < best.error {
            best = Scales { scales, ratio: Some(ratio), error, ..best };
        }
    }
    Ok(best)
}

/// The scales of a ratio; `None` where they are not finite.
fn scaled(mean: &[f32], weights: &[f32], ratio: f32) -> Option<Vec<f32>> {
    let of = |(x, w): (&f32, &f32)| (x.powf(ratio) / (w.powf(1.0 - ratio) + 1e-4)).max(1e-4);
    let mut scales: Vec<f32> = mean.iter().zip(weights).map(of).collect();
    let low = scales.iter().copied().fold(f32::INFINITY, f32::min);
    let high = scales.iter().copied().fold(0.0, f32::max);
    let middle = (low * high).sqrt();
    for scale in &mut scales {
        *scale /= middle;
    }
    scales.iter().all(|scale| scale.is_finite() && *scale > 0.0).then_some(scales)
}

/// The mean over rows of each weight's part of the largest of its group.
fn magnitudes(layers: &[(&[f32], usize)], columns: usize, scheme: &Scheme) -> Vec<f32> {
    let group = scheme.group_of(columns);
    let mut sums = vec![0.0_f64; columns];
    let mut rows = 0;
    for (weight, count) in layers {
        rows += count;
        for row in weight.chunks(columns.max(1)) {
            for (values, sums) in row.chunks(group).zip(sums.chunks_mut(group)) {
                let most = values.iter().map(|value| value.abs()).fold(0.0, f32::max) + 1e-6;
                for (value, sum) in values.iter().zip(sums) {
                    *sum += f64::from(value.abs() / most);
                }
            }
        }
    }
    sums.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}

/// What rounding scaled rows changes of them, scaled back.
fn difference(weight: &[f32], scales: &[f32], scheme: &Scheme) -> Result<Vec<f32>, SolveError> {
    let columns = scales.len();
    let width = columns.max(1);
    let mut off = weight.to_vec();
    let part = |(off, plain): (&mut [f32], &[f32])| {
        scale_columns(off, scales);
        let codes = round_to_nearest(off, off.len() / width, columns, &[], scheme)?;
        let rounded = values(&codes);
        let rows = off.chunks_mut(width).zip(rounded.chunks(width)).zip(plain.chunks(width));
        for ((off, rounded), plain) in rows {
            for (((off, rounded), plain), scale) in
                off.iter_mut().zip(rounded).zip(plain).zip(scales)
            {
                *off = rounded / scale - plain;
            }
        }
        Ok(())
    };
    let parts = off.par_chunks_mut(FEW * width).zip(weight.par_chunks(FEW * width));
    parts.map(part).collect::<Result<(), _>>()?;
    Ok(off)
}

/// Multiplies the columns of a weight.
pub fn scale_columns(weight: &mut [f32], scales: &[f32]) {
    for row in weight.chunks_mut(scales.len().max(1)) {
        row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
    }
}

/// Cuts the range of every group of a weight, `[rows, columns]`, where the squared error of the output, by the
/// group's own part of the Hessian, falls. The Hessian is that of the input the weight reads.
///
/// # Errors
/// If a number is not finite, or shapes do not fit.
pub fn clip(
    weight: &mut [f32],
    columns: usize,
    hessian: &[f32],
    scheme: &Scheme,
) -> Result<(), SolveError> {
    scheme.check()?;
    check("Hessian", hessian, columns, columns)?;
    let rows = weight.len() / columns.max(1);
    check("weight", weight, rows, columns)?;
    let group = scheme.group_of(columns);
    weight.par_chunks_mut(ROWS * columns.max(1)).for_each(|part| {
        for first in (0..columns).step_by(group) {
            let width = group.min(columns - first);
            let own = View { data: &hessian[first * columns + first..], row: columns, column: 1 };
            cut(part, (columns, first, width), own, scheme);
        }
    });
    Ok(())
}

/// Rows that are cut together.
const ROWS: usize = 64;

/// Cuts one group, `width` columns from `first` on, of every row; `hessian` is the group's own.
fn cut(
    part: &mut [f32],
    (columns, first, width): (usize, usize, usize),
    hessian: View<'_>,
    scheme: &Scheme,
) {
    let rows = part.len() / columns;
    let top = scheme.top();
    let mut most = vec![0.0_f32; rows];
    let mut best = vec![(f32::INFINITY, 0.0_f32); rows];
    let mut off = vec![0.0_f32; rows * width];
    let mut product = vec![0.0_f32; rows * width];
    let values = |row: &'_ [f32]| -> Range<usize> { first..(first + width).min(row.len()) };
    for (row, most) in part.chunks(columns).zip(&mut most) {
        for value in &row[values(row)] {
            *most = most.max(value.abs());
        }
    }
    for step in 0..CUTS {
        let kept = 1.0 - step as f32 / GRID;
        for ((row, most), off) in part.chunks(columns).zip(&most).zip(off.chunks_mut(width)) {
            let limit = most * kept;
            let (mut low, mut high) = (0.0_f32, 0.0_f32);
            for value in &row[values(row)] {
                let value = value.clamp(-limit, limit);
                (low, high) = (low.min(value), high.max(value));
            }
            let grid = scheme.grid(low, high);
            for (off, value) in off.iter_mut().zip(&row[values(row)]) {
                *off = grid.value(grid.code(value.clamp(-limit, limit), top)) - value;
            }
        }
        let errors = View { data: &off, row: width, column: 1 };
        let shape = [rows, width, width];
        multiply((&mut product, width), shape, 0.0, 1.0, errors, hessian, Parallelism::None);
        let lines = product.chunks(width).zip(off.chunks(width));
        for (((product, off), best), most) in lines.zip(&mut best).zip(&most) {
            let error: f32 = product.iter().zip(off).map(|(a, b)| a * b).sum();
            if error < best.0 {
                *best = (error, most * kept);
            }
        }
    }
    for (row, (_, limit)) in part.chunks_mut(columns).zip(&best) {
        for value in &mut row[first..first + width] {
            *value = value.clamp(-limit, *limit);
        }
    }
}
