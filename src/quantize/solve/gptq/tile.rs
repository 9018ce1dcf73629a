//! Some rows of a weight, whose columns are rounded one after the other.

use std::ops::Range;

use super::super::grid::{Grid, Scheme};

/// Columns of a block.
pub(super) const BLOCK: usize = 128;
/// Rows of a tile.
pub(super) const TILE: usize = 128;

/// What all tiles share.
pub(super) struct Job<'a> {
    pub(super) scheme: &'a Scheme,
    /// The upper factor of the inverse Hessian, `[columns, columns]`.
    pub(super) upper: &'a [f32],
    /// The group of each place.
    pub(super) of: &'a [usize],
    /// The Hessian's diagonal at each place.
    pub(super) importance: &'a [f32],
    /// Whether all grids were [fixed](Tile::fix) before the first column.
    pub(super) fixed: bool,
}

/// Some rows, column by column: `[columns, TILE]`, in the factor's order.
pub(super) struct Tile {
    codes: Vec<u8>,
    /// `[groups, TILE]`, as are the zero points.
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<f32>,
    /// Of the block at hand: values and errors, `[BLOCK, TILE]`.
    values: Vec<f32>,
    pub(super) errors: Vec<f32>,
    /// The group that the last column was of.
    group: Option<usize>,
    /// The sum of squared errors, by row.
    pub(super) cost: [f64; TILE],
}

impl Tile {
    pub(super) fn new(columns: usize, groups: usize) -> Self {
        Self {
            codes: vec![0; columns * TILE],
            scales: vec![1.0; groups * TILE],
            zeros: vec![0.0; groups * TILE],
            values: vec![0.0; BLOCK * TILE],
            errors: vec![0.0; BLOCK * TILE],
            group: None,
            cost: [0.0; TILE],
        }
    }

    /// Fits the grid of every group to its values as they are now; `members` are the places of each group.
    pub(super) fn fix(
        &mut self,
        job: &Job<'_>,
        all: &[f32],
        (width, lane): (usize, usize),
        members: &[Vec<usize>],
    ) {
        for (group, places) in members.iter().enumerate() {
            let of = |place: &usize| &all[place * width + lane..place * width + lane + TILE];
            let values: Vec<&[f32]> = places.iter().map(of).collect();
            let importance: Vec<f32> = places.iter().map(|place| job.importance[*place]).collect();
            self.set(group, fit(job.scheme, &values, &importance));
        }
    }

    fn set(&mut self, group: usize, (scales, zeros): ([f32; TILE], [f32; TILE])) {
        self.scales[group * TILE..(group + 1) * TILE].copy_from_slice(&scales);
        self.zeros[group * TILE..(group + 1) * TILE].copy_from_slice(&zeros);
    }

    /// Rounds the places `block`; `all` are the values, `[columns, width]`, of which the tile's begin at `lane`.
    pub(super) fn block(
        &mut self,
        job: &Job<'_>,
        all: &[f32],
        (width, lane): (usize, usize),
        block: Range<usize>,
    ) {
        let (columns, scheme) = (job.of.len(), job.scheme);
        let of = |place: usize| &all[place * width + lane..place * width + lane + TILE];
        for (place, values) in block.clone().zip(self.values.chunks_mut(TILE)) {
            values.copy_from_slice(of(place));
        }
        for (at, place) in block.clone().enumerate() {
            let group = job.of[place];
            if !job.fixed && self.group != Some(group) {
                let rest = job.of[place..].iter().take_while(|of| **of == group).count();
                // What lies behind the block does not know the block's errors yet.
                let own = self.values.chunks(TILE).take(block.len()).skip(at);
                let behind = (block.end..place + rest).map(|place| -> &[f32] { of(place) });
                let values: Vec<&[f32]> = own.chain(behind).take(rest).collect();
                let grids = fit(scheme, &values, &job.importance[place..place + rest]);
                self.set(group, grids);
                self.group = Some(group);
            }
            let scales = &self.scales[group * TILE..(group + 1) * TILE];
            let zeros = &self.zeros[group * TILE..(group + 1) * TILE];
            let row = &job.upper[place * columns + place..place * columns + block.end];
            let error = &mut self.errors[at * TILE..(at + 1) * TILE];
            let (own, later) = self.values[at * TILE..block.len() * TILE].split_at_mut(TILE);
            let codes = &mut self.codes[place * TILE..(place + 1) * TILE];
            let grids = (scales, zeros, scheme.top());
            step(crate::chunk::simd::Simd::best(), own, later, codes, error, grids, row);
        }
        for errors in self.errors.chunks(TILE).take(block.len()) {
            for (cost, error) in self.cost.iter_mut().zip(errors) {
                *cost += f64::from(*error).powi(2);
            }
        }
    }

    /// Writes the codes row by row, columns as stored.
    pub(super) fn write(&self, order: &[usize], codes: &mut [u8]) {
        for (row, codes) in codes.chunks_mut(order.len().max(1)).enumerate() {
            for (place, column) in order.iter().enumerate() {
                codes[*column] = self.codes[place * TILE + row];
            }
        }
    }
}

/// The grids of a group, whose columns these are, for each lane.
fn fit(scheme: &Scheme, values: &[&[f32]], importance: &[f32]) -> ([f32; TILE], [f32; TILE]) {
    let (mut low, mut high) = ([0.0_f32; TILE], [0.0_f32; TILE]);
    for column in values {
        for ((value, low), high) in column.iter().zip(&mut low).zip(&mut high) {
            (*low, *high) = (low.min(*value), high.max(*value));
        }
    }
    let (mut scales, mut zeros) = ([1.0; TILE], [0.0; TILE]);
    let mut best = [f32::INFINITY; TILE];
    for part in scheme.ranges() {
        let (mut scale, mut zero) = ([1.0; TILE], [0.0; TILE]);
        for lane in 0..TILE {
            let Grid { scale: s, zero: z } = scheme.grid(low[lane] * part, high[lane] * part);
            (scale[lane], zero[lane]) = (s, z);
        }
        let mut error = [0.0; TILE];
        if scheme.shrinks > 0 {
            let simd = crate::chunk::simd::Simd::best();
            cost(simd, values, importance, (&scale, &zero, scheme.top()), &mut error);
        }
        for lane in 0..TILE {
            if error[lane] < best[lane] {
                best[lane] = error[lane];
                (scales[lane], zeros[lane]) = (scale[lane], zero[lane]);
            }
        }
    }
    (scales, zeros)
}

type Grids<'a> = (&'a [f32], &'a [f32], f32);

crate::chunk::simd::for_each_simd! {
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

crate::chunk::simd::for_each_simd! {
    /// Adds to `error` what rounding `values` to these grids costs.
    fn cost(values: &[&[f32]], importance: &[f32], grids: Grids<'_>, error: &mut [f32; TILE]) = cost_body
}

#[inline(always)]
fn cost_body(
    values: &[&[f32]],
    importance: &[f32],
    (scales, zeros, top): Grids<'_>,
    error: &mut [f32; TILE],
) {
    for (column, matter) in values.iter().zip(importance) {
        let lanes = column.iter().zip(scales.iter().zip(zeros)).zip(error.iter_mut());
        for ((value, (scale, zero)), error) in lanes {
            let grid = Grid { scale: *scale, zero: *zero };
            let off = value - grid.value(grid.code(*value, top));
            *error += off * off * matter;
        }
    }
}
