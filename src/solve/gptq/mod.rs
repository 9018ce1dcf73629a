//! GPTQ (Frantar et al. 2022): columns are rounded one after the other, and the error of each is made up
//! for by those that are left, as the inverse of the Hessian says.
//!
//! With `U^T U` the inverse Hessian: `e = (w_i - q_i) / U_ii`, `w_j -= e U_ij` for `j > i`; within a block of
//! 128 columns at once, behind it by one product. Rows do not depend on each other: tiles of 128 of them
//! are solved side by side, each from the first column to the last.

use gemm::Parallelism;
use rayon::prelude::*;

use super::grid::{Grid, Scheme, empty};
use super::linalg::{View, inverse_factor, multiply};
use super::{SolveError, check};
use crate::quant::codes::Codes;

/// Columns of a block.
const BLOCK: usize = 128;
/// Rows of a tile.
const TILE: usize = 128;
/// What damping is multiplied by when there is no factor.
const RAISE: f32 = 4.0;
/// The most damping that is tried.
const MAX_DAMPING: f32 = 1.0;

/// In which order columns are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// As they are stored.
    Stored,
    /// By falling activation, groups being made of columns in that order: the codes have an
    /// [index](Codes::index).
    Activation,
    /// By falling activation within each group, groups by that of their strongest column: groups stay
    /// those of stored columns, and there is no index.
    GroupAware,
}

/// How a weight is solved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptqOptions {
    /// The grid.
    pub scheme: Scheme,
    /// What is added to the Hessian's diagonal, as a part of its mean.
    pub damping: f32,
    /// The order of columns.
    pub order: Order,
}

/// What layers that share their inputs share: the order of columns and the factor of the Hessian.
#[derive(Debug, Clone)]
pub struct Factor {
    columns: usize,
    options: GptqOptions,
    /// The stored column of each place in the order.
    order: Vec<usize>,
    /// The upper factor of the inverse Hessian, in that order.
    upper: Vec<f32>,
    /// The Hessian's diagonal, as stored.
    diagonal: Vec<f32>,
    /// The damping that was needed.
    pub damping: f32,
    /// How often damping was raised for want of a factor; more than 0 is worth telling.
    pub raised: u32,
    /// Columns whose inputs are all 0: their weights become 0.
    pub dead: usize,
}

/// Codes, and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// The codes.
    pub codes: Codes,
    /// The sum of `e^2`: the squared error of the layer's output, damped, in the Hessian's scale.
    pub error: f64,
}

impl Factor {
    /// Factors the inverse of a Hessian, `[columns, columns]`, of which the lower half is read.
    pub fn new(hessian: &[f32], columns: usize, options: &GptqOptions) -> Result<Self, SolveError> {
        options.scheme.check()?;
        check("Hessian", hessian, columns, columns)?;
        let mut diagonal: Vec<f32> = (0..columns).map(|at| hessian[at * columns + at]).collect();
        let dead: Vec<bool> = diagonal.iter().map(|value| *value <= 0.0).collect();
        let alive = dead.iter().filter(|dead| !**dead).count();
        let mean =
            diagonal.iter().map(|value| f64::from(*value)).sum::<f64>() / alive.max(1) as f64;
        let mean = if mean > 0.0 { mean as f32 } else { 1.0 };
        let order = order(&diagonal, options);
        let mut damping = options.damping.clamp(0.0, MAX_DAMPING);
        let mut raised = 0;
        loop {
            let mut matrix = vec![0.0; columns * columns];
            for (row, from) in order.iter().enumerate() {
                for (column, other) in order.iter().enumerate().take(row + 1) {
                    let (low, high) = (*from.min(other), *from.max(other));
                    let dead = dead[low] || dead[high];
                    matrix[row * columns + column] = match (row == column, dead) {
                        (true, true) => mean,
                        (true, false) => diagonal[*from] + damping * mean,
                        (false, true) => 0.0,
                        (false, false) => hessian[high * columns + low],
                    };
                }
            }
            if let Some(upper) = inverse_factor(matrix, columns) {
                for (value, dead) in diagonal.iter_mut().zip(&dead) {
                    if *dead {
                        *value = 0.0;
                    }
                }
                let (dead, options) = (columns - alive, *options);
                return Ok(Self {
                    columns,
                    options,
                    order,
                    upper,
                    diagonal,
                    damping,
                    raised,
                    dead,
                });
            }
            if damping >= MAX_DAMPING {
                return Err(SolveError::Indefinite { damping });
            }
            damping = (damping.max(0.001) * RAISE).min(MAX_DAMPING);
            raised += 1;
        }
    }

    /// What it was made for.
    pub fn options(&self) -> &GptqOptions {
        &self.options
    }

    /// Solves a weight, `[rows, columns]`.
    pub fn solve(&self, weight: &[f32], rows: usize) -> Result<Solved, SolveError> {
        let columns = self.columns;
        check("weight", weight, rows, columns)?;
        let mut codes = empty(rows, columns, &self.options.scheme);
        let (group, groups) = (codes.group, codes.groups());
        // The group of each place in the order.
        let of: Vec<usize> = match self.options.order {
            Order::Activation => (0..columns).map(|place| place / group).collect(),
            _ => self.order.iter().map(|column| column / group).collect(),
        };
        let importance: Vec<f32> = self.order.iter().map(|column| self.diagonal[*column]).collect();
        let job = Job { factor: self, of: &of, importance: &importance, groups };
        let firsts: Vec<usize> = (0..rows).step_by(TILE).collect();
        let tiles: Vec<Tile> = firsts
            .par_iter()
            .map(|first| {
                let count = TILE.min(rows - first);
                let mut tile =
                    Tile::new(&job, &weight[first * columns..(first + count) * columns], count);
                tile.solve(&job);
                tile
            })
            .collect();
        let mut error = 0.0;
        for (first, tile) in firsts.into_iter().zip(tiles) {
            error += tile.error;
            for row in 0..tile.rows {
                let to = &mut codes.codes[(first + row) * columns..(first + row + 1) * columns];
                for (place, column) in self.order.iter().enumerate() {
                    to[*column] = tile.codes[place * TILE + row];
                }
                for at in 0..groups {
                    let to = (first + row) * groups + at;
                    codes.scales[to] = tile.scales[at * TILE + row];
                    codes.zeros[to] = tile.zeros[at * TILE + row] as u8;
                }
            }
        }
        if self.options.order == Order::Activation {
            let mut index = vec![0; columns];
            for (place, column) in self.order.iter().enumerate() {
                index[*column] = of[place] as u32;
            }
            codes.index = Some(index);
        }
        Ok(Solved { codes, error })
    }
}

/// The stored column of each place.
fn order(diagonal: &[f32], options: &GptqOptions) -> Vec<usize> {
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    let stronger = |a: f32, b: f32| b.total_cmp(&a);
    let group = options.scheme.group_of(diagonal.len());
    match options.order {
        Order::Stored => {}
        Order::Activation => order.sort_by(|a, b| stronger(diagonal[*a], diagonal[*b])),
        Order::GroupAware => {
            let most: Vec<f32> = diagonal
                .chunks(group)
                .map(|part| part.iter().copied().fold(0.0, f32::max))
                .collect();
            order.sort_by(|a, b| {
                let (of_a, of_b) = (a / group, b / group);
                stronger(most[of_a], most[of_b])
                    .then(of_a.cmp(&of_b))
                    .then(stronger(diagonal[*a], diagonal[*b]))
            });
        }
    }
    order
}

/// What all tiles share.
struct Job<'a> {
    factor: &'a Factor,
    of: &'a [usize],
    importance: &'a [f32],
    groups: usize,
}

/// Some rows, column by column: `[columns, TILE]`, in the factor's order.
struct Tile {
    rows: usize,
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    error: f64,
}

impl Tile {
    fn new(job: &Job<'_>, weight: &[f32], rows: usize) -> Self {
        let columns = job.factor.columns;
        let mut values = vec![0.0; columns * TILE];
        for (place, column) in job.factor.order.iter().enumerate() {
            // The weight of a dead column says nothing.
            if job.factor.diagonal[*column] > 0.0 {
                for row in 0..rows {
                    values[place * TILE + row] = weight[row * columns + column];
                }
            }
        }
        let grids = job.groups * TILE;
        Self {
            rows,
            values,
            codes: vec![0; columns * TILE],
            scales: vec![1.0; grids],
            zeros: vec![0.0; grids],
            error: 0.0,
        }
    }

    fn solve(&mut self, job: &Job<'_>) {
        let columns = job.factor.columns;
        let upper = &job.factor.upper;
        let scheme = &job.factor.options.scheme;
        let mut errors = vec![0.0; BLOCK * TILE];
        let mut known = None;
        for first in (0..columns).step_by(BLOCK) {
            let next = (first + BLOCK).min(columns);
            for place in first..next {
                let group = job.of[place];
                if known != Some(group) {
                    self.fit(job, place, group);
                    known = Some(group);
                }
                let scales = &self.scales[group * TILE..(group + 1) * TILE];
                let zeros = &self.zeros[group * TILE..(group + 1) * TILE];
                let row = &upper[place * columns..(place + 1) * columns];
                let error = &mut errors[(place - first) * TILE..(place - first + 1) * TILE];
                let (own, later) = self.values[place * TILE..next * TILE].split_at_mut(TILE);
                let codes = &mut self.codes[place * TILE..(place + 1) * TILE];
                let grids = (scales, zeros, scheme.top());
                step(crate::simd::Simd::best(), own, later, codes, error, grids, &row[place..next]);
            }
            let done = &errors[..(next - first) * TILE];
            for lane in 0..self.rows {
                let squares = done.iter().skip(lane).step_by(TILE).map(|e| f64::from(*e).powi(2));
                self.error += squares.sum::<f64>();
            }
            if next < columns {
                let a = View { data: &upper[first * columns + next..], row: 1, column: columns };
                let b = View { data: done, row: TILE, column: 1 };
                let to = (&mut self.values[next * TILE..], TILE);
                let shape = [columns - next, TILE, next - first];
                multiply(to, shape, 1.0, -1.0, a, b, Parallelism::None);
            }
        }
    }

    /// The grids of a group, whose first column in the order is at `place`.
    fn fit(&mut self, job: &Job<'_>, place: usize, group: usize) {
        let scheme = &job.factor.options.scheme;
        let count = job.of[place..].iter().take_while(|of| **of == group).count();
        let values = &self.values[place * TILE..(place + count) * TILE];
        let importance = &job.importance[place..place + count];
        let (mut low, mut high) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        for column in values.as_chunks::<TILE>().0 {
            for lane in 0..TILE {
                low[lane] = low[lane].min(column[lane]);
                high[lane] = high[lane].max(column[lane]);
            }
        }
        let scales = &mut self.scales[group * TILE..(group + 1) * TILE];
        let zeros = &mut self.zeros[group * TILE..(group + 1) * TILE];
        let mut best = [f32::INFINITY; TILE];
        for part in scheme.ranges() {
            let (mut scale, mut zero) = ([1.0; TILE], [0.0; TILE]);
            for lane in 0..TILE {
                let Grid { scale: s, zero: z } = scheme.grid(low[lane] * part, high[lane] * part);
                (scale[lane], zero[lane]) = (s, z);
            }
            let mut error = [0.0; TILE];
            if scheme.shrinks > 0 {
                let simd = crate::simd::Simd::best();
                cost(simd, values, importance, (&scale, &zero, scheme.top()), &mut error);
            }
            for lane in 0..TILE {
                if error[lane] < best[lane] {
                    best[lane] = error[lane];
                    (scales[lane], zeros[lane]) = (scale[lane], zero[lane]);
                }
            }
        }
    }
}

type Grids<'a> = (&'a [f32], &'a [f32], f32);

crate::simd::for_each_simd! {
    /// Rounds a column, `own`, and takes its error out of those behind it in the block; `upper` is the
    /// factor's row from the column on.
    fn step(own: &mut [f32], later: &mut [f32], codes: &mut [u8], error: &mut [f32], grids: Grids<'_>, upper: &[f32]) = step_body
}

#[inline(always)]
fn step_body(
    own: &mut [f32],
    later: &mut [f32],
    codes: &mut [u8],
    error: &mut [f32],
    (scales, zeros, top): Grids<'_>,
    upper: &[f32],
) {
    let pivot = upper.first().copied().unwrap_or(1.0);
    let Some(error) = error.first_chunk_mut::<TILE>() else { return };
    let lanes = own.iter().zip(codes).zip(scales.iter().zip(zeros)).zip(error.iter_mut());
    for (((value, code), (scale, zero)), error) in lanes {
        let grid = Grid { scale: *scale, zero: *zero };
        let rounded = grid.code(*value, top);
        *code = rounded as u8;
        *error = (*value - grid.value(rounded)) / pivot;
    }
    for (column, factor) in later.as_chunks_mut::<TILE>().0.iter_mut().zip(upper.iter().skip(1)) {
        for (value, error) in column.iter_mut().zip(error.iter()) {
            *value -= error * factor;
        }
    }
}

crate::simd::for_each_simd! {
    /// Adds to `error` what rounding `values` to these grids costs.
    fn cost(values: &[f32], importance: &[f32], grids: Grids<'_>, error: &mut [f32; TILE]) = cost_body
}

#[inline(always)]
fn cost_body(
    values: &[f32],
    importance: &[f32],
    (scales, zeros, top): Grids<'_>,
    error: &mut [f32; TILE],
) {
    for (column, matter) in values.as_chunks::<TILE>().0.iter().zip(importance) {
        let lanes = column.iter().zip(scales.iter().zip(zeros)).zip(error.iter_mut());
        for ((value, (scale, zero)), error) in lanes {
            let grid = Grid { scale: *scale, zero: *zero };
            let off = value - grid.value(grid.code(*value, top));
            *error += off * off * matter;
        }
    }
}

#[cfg(test)]
mod tests;
