//! GPTQ (Frantar et al. 2022): columns are rounded one after the other, and the error of each is made up
//! for by those that are left, as the inverse of the Hessian says.
//!
//! With `U^T U` the inverse Hessian: `e = (w_i - q_i) / U_ii`, `w_j -= e U_ij` for `j > i`; within a block of
//! 128 columns at once, behind it by one product, and behind some blocks by one larger product. Rows do not
//! depend on each other: tiles of 128 of them are solved side by side.

use std::ops::Range;

use rayon::prelude::*;

use super::grid::{Scheme, empty};
use super::linalg::{POOL, View, inverse_factor, multiply};
use super::{SolveError, check};
use crate::quant::codes::Codes;

mod tile;

use tile::{Job, TILE, Tile};

/// Columns of a block.
const BLOCK: usize = 128;
/// Columns behind which what is left is made up for by one product, at most.
const REACH: usize = 512;
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
            let of = |row: usize, column: usize| {
                let (low, high) = (row.min(column), row.max(column));
                match (row == column, dead[row] || dead[column]) {
                    (true, true) => mean,
                    (true, false) => diagonal[row] + damping * mean,
                    (false, true) => 0.0,
                    (false, false) => hessian[high * columns + low],
                }
            };
            // The lower half, rows and columns reversed.
            let mut matrix = vec![0.0; columns * columns];
            matrix.par_chunks_mut(columns.max(1)).enumerate().for_each(|(at, values)| {
                let row = order[columns - 1 - at];
                for (value, column) in values[..=at].iter_mut().zip(order.iter().rev()) {
                    *value = of(row, *column);
                }
            });
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
        let job = Job { factor: self, of: &of, importance: &importance };
        let mut values = self.transposed(weight, rows);
        let width = rows.next_multiple_of(TILE);
        let mut tiles: Vec<Tile> =
            (0..rows.div_ceil(TILE)).map(|_| Tile::new(columns, groups)).collect();
        let reach = (REACH / group).max(1) * group.min(REACH);
        let mut errors = vec![0.0; reach.min(columns) * width];
        for outer in (0..columns).step_by(reach) {
            let end = (outer + reach).min(columns);
            for first in (outer..end).step_by(BLOCK) {
                let next = (first + BLOCK).min(end);
                tiles.par_iter_mut().enumerate().for_each(|(at, tile)| {
                    tile.block(&job, &values, (width, at * TILE), first..next)
                });
                for (at, place) in (first..next).enumerate() {
                    let row = &mut errors[(place - outer) * width..(place - outer + 1) * width];
                    for (to, tile) in row.chunks_mut(TILE).zip(&tiles) {
                        to.copy_from_slice(&tile.errors[at * TILE..(at + 1) * TILE]);
                    }
                }
                let done = &errors[(first - outer) * width..];
                self.make_up(&mut values, width, done, first..next, next..end);
            }
            self.make_up(&mut values, width, &errors, outer..end, end..columns);
        }
        let lines = codes.codes.par_chunks_mut(TILE * columns.max(1)).zip(&tiles);
        lines.for_each(|(codes, tile)| tile.write(&self.order, codes));
        let grids =
            codes.scales.chunks_mut(TILE * groups).zip(codes.zeros.chunks_mut(TILE * groups));
        for ((scales, zeros), tile) in grids.zip(&tiles) {
            for (at, (scale, zero)) in scales.iter_mut().zip(zeros).enumerate() {
                let from = at % groups * TILE + at / groups;
                (*scale, *zero) = (tile.scales[from], tile.zeros[from] as u8);
            }
        }
        let error = tiles.iter().map(|tile| tile.error).sum();
        if self.options.order == Order::Activation {
            let mut index = vec![0; columns];
            for (place, column) in self.order.iter().enumerate() {
                index[*column] = of[place] as u32;
            }
            codes.index = Some(index);
        }
        Ok(Solved { codes, error })
    }

    /// The weight, `[columns, rows]`, columns in the factor's order, rows padded to whole tiles.
    fn transposed(&self, weight: &[f32], rows: usize) -> Vec<f32> {
        let (columns, width) = (self.columns, rows.next_multiple_of(TILE));
        let mut values = vec![0.0; columns * width];
        let blocks = values.par_chunks_mut(BLOCK * width.max(1)).zip(self.order.par_chunks(BLOCK));
        blocks.for_each(|(values, order)| {
            for first in (0..rows).step_by(TILE) {
                for (values, column) in values.chunks_mut(width).zip(order) {
                    // The weight of a dead column says nothing.
                    if self.diagonal[*column] > 0.0 {
                        for row in first..(first + TILE).min(rows) {
                            values[row] = weight[row * columns + column];
                        }
                    }
                }
            }
        });
        values
    }

    /// Takes the errors, `[done, width]`, of the places `done` out of the values of the places `behind`.
    fn make_up(
        &self,
        values: &mut [f32],
        width: usize,
        errors: &[f32],
        done: Range<usize>,
        behind: Range<usize>,
    ) {
        if behind.is_empty() {
            return;
        }
        let from = done.start * self.columns + behind.start;
        let a = View { data: &self.upper[from..], row: 1, column: self.columns };
        let b = View { data: errors, row: width, column: 1 };
        let to = (&mut values[behind.start * width..], width);
        multiply(to, [behind.len(), width, done.len()], 1.0, -1.0, a, b, POOL);
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

#[cfg(test)]
mod tests;
