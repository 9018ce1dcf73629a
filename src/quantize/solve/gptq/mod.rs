//! GPTQ (Frantar et al. 2022): columns are rounded one after the other, and the error of each is made up
//! for by those that are left, as the inverse of the Hessian says.
//!
//! With `U^T U` the inverse Hessian: `e = (w_i - q_i) / U_ii`, `w_j -= e U_ij` for `j > i`; within a block of
//! 128 columns at once, behind it by one product, and behind some blocks by one larger product. Rows do not
//! depend on each other: tiles of 128 of them are solved side by side.

use std::ops::Range;

use rayon::prelude::*;

use super::error::{SolveError, check};
use super::grid::{Scheme, empty};
use super::linalg::{POOL, View, inverse_factor, multiply, permute};
use crate::dequant::codes::Codes;

mod tile;

use tile::{BLOCK, Job, TILE, Tile};

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
    /// By falling activation, groups being those of stored columns, whose grids are found before any column
    /// is rounded: there is no index.
    Static,
    /// By falling activation within each group, groups by that of their strongest column: groups stay
    /// those of stored columns, and there is no index.
    GroupAware,
}

/// How a weight is solved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GptqOptions {
    /// The grid.
    pub scheme: Scheme,
    /// What is added to the Hessian's diagonal, as a part of its mean.
    pub damping: f32,
    /// The order of columns.
    pub order: Order,
}

impl GptqOptions {
    /// With all there is to say.
    pub const fn new(scheme: Scheme, damping: f32, order: Order) -> Self {
        Self { scheme, damping, order }
    }
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
    /// What was added to it.
    added: f32,
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
    /// The sum of `e^2` by row: the squared error of the row's output, damped, in the Hessian's scale.
    pub errors: Vec<f64>,
}

impl Factor {
    /// Factors the inverse of the Hessian, `[columns, columns]`, that `hessian` gives whole: in its own place, so
    /// that it is asked for again where damping has to rise.
    ///
    /// # Errors
    /// What `hessian` fails of; a Hessian that is not finite, or has no factor with any damping.
    pub fn new<E: From<SolveError>>(
        mut hessian: impl FnMut() -> Result<Vec<f32>, E>,
        columns: usize,
        options: &GptqOptions,
    ) -> Result<Self, E> {
        options.scheme.check()?;
        let mut damping = options.damping.clamp(0.0, MAX_DAMPING);
        let mut raised = 0;
        loop {
            let mut matrix = hessian()?;
            check("Hessian", &matrix, columns, columns)?;
            let mut diagonal: Vec<f32> = (0..columns).map(|at| matrix[at * columns + at]).collect();
            let is_dead = |value: &f32| *value <= 0.0;
            let dead = diagonal.iter().filter(|value| is_dead(value)).count();
            let sum = diagonal.iter().map(|value| f64::from(*value)).sum::<f64>();
            let mean = sum / (columns - dead).max(1) as f64;
            let mean = if mean > 0.0 { mean as f32 } else { 1.0 };
            let order = order(&diagonal, options);
            let reversed: Vec<usize> = order.iter().rev().copied().collect();
            permute(&mut matrix, &reversed);
            let lines = matrix.par_chunks_mut(columns.max(1)).zip(&reversed).enumerate();
            lines.for_each(|(at, (values, row))| {
                for (value, column) in values[..at].iter_mut().zip(&reversed) {
                    if is_dead(&diagonal[*row]) || is_dead(&diagonal[*column]) {
                        *value = 0.0;
                    }
                }
                let own = diagonal[*row];
                values[at] = if is_dead(&own) { mean } else { own + damping * mean };
            });
            if let Some(upper) = inverse_factor(matrix, columns) {
                diagonal.iter_mut().for_each(|value| *value = value.max(0.0));
                let (options, added) = (*options, damping * mean);
                return Ok(Self {
                    columns,
                    options,
                    order,
                    upper,
                    diagonal,
                    added,
                    damping,
                    raised,
                    dead,
                });
            }
            if damping >= MAX_DAMPING {
                return Err(SolveError::Indefinite { damping }.into());
            }
            damping = (damping.max(0.001) * RAISE).min(MAX_DAMPING);
            raised += 1;
        }
    }

    /// What it was made for.
    pub fn options(&self) -> &GptqOptions {
        &self.options
    }

    /// The squared error of a row's output, of what the [solver](Self::solve) says of it and what the row's
    /// weights are off by.
    pub fn undamped(&self, error: f64, off: &[f32]) -> f64 {
        let lines = off.iter().zip(&self.diagonal);
        let squares = lines.filter(|(_, own)| **own > 0.0).map(|(off, _)| f64::from(*off).powi(2));
        (error - f64::from(self.added) * squares.sum::<f64>()).max(0.0)
    }

    /// Solves a weight, `[rows, columns]`, which is gone as soon as it has been brought in order: there is one
    /// copy of it at a time.
    ///
    /// # Errors
    /// If a number is not finite, or the shape is not the factor's.
    pub fn solve(&self, weight: Vec<f32>, rows: usize) -> Result<Solved, SolveError> {
        let columns = self.columns;
        check("weight", &weight, rows, columns)?;
        let mut codes = empty(rows, columns, &self.options.scheme);
        let (group, groups) = (codes.group, codes.groups());
        // The group of each place in the order.
        let of: Vec<usize> = match self.options.order {
            Order::Activation => (0..columns).map(|place| place / group).collect(),
            _ => self.order.iter().map(|column| column / group).collect(),
        };
        let importance: Vec<f32> = self.order.iter().map(|column| self.diagonal[*column]).collect();
        let (scheme, upper) = (&self.options.scheme, self.upper.as_slice());
        let fixed = self.options.order == Order::Static;
        let job = Job { scheme, upper, of: &of, importance: &importance, fixed };
        let mut values = self.transposed(&weight, rows);
        drop(weight);
        let width = rows.next_multiple_of(TILE);
        let mut tiles: Vec<Tile> =
            (0..rows.div_ceil(TILE)).map(|_| Tile::new(columns, groups)).collect();
        if fixed {
            let members = members(&of, groups);
            tiles.par_iter_mut().enumerate().for_each(|(at, tile)| {
                tile.fix(&job, &values, (width, at * TILE), &members);
            });
        }
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
        let mut by_row: Vec<f64> = tiles.iter().flat_map(|tile| tile.cost).collect();
        by_row.truncate(rows);
        if self.options.order == Order::Activation {
            let mut index = vec![0; columns];
            for (place, column) in self.order.iter().enumerate() {
                index[*column] = of[place] as u32;
            }
            codes.index = Some(index);
        }
        Ok(Solved { codes, errors: by_row })
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

/// The places of each group; `of` is the group of each place.
fn members(of: &[usize], groups: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); groups];
    for (place, group) in of.iter().enumerate() {
        if let Some(group) = members.get_mut(*group) {
            group.push(place);
        }
    }
    members
}

/// The stored column of each place.
fn order(diagonal: &[f32], options: &GptqOptions) -> Vec<usize> {
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    let stronger = |a: f32, b: f32| b.total_cmp(&a);
    let group = options.scheme.group_of(diagonal.len());
    match options.order {
        Order::Stored => {}
        Order::Activation | Order::Static => {
            order.sort_by(|a, b| stronger(diagonal[*a], diagonal[*b]));
        }
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
