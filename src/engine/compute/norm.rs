//! Norms, rotations and gates: what stands between products. Each state on its own.

use rayon::prelude::*;

use super::states::States;

/// Values that are worth another thread.
const MANY: usize = 32 << 10;

/// Does something with each row, on several threads where there are many.
fn by_rows(states: &mut States, change: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let (width, stride, many) =
        (states.width(), states.stride().max(1), states.len() * states.width() > MANY);
    let own = |(row, values): (usize, &mut [f32])| {
        if let Some(values) = values.get_mut(..width) {
            change(row, values);
        }
    };
    if many {
        states.slots().par_chunks_mut(stride).enumerate().for_each(own);
    } else {
        states.slots().chunks_mut(stride).enumerate().for_each(own);
    }
}

/// Each `weight.len()` values divided by the root of their mean square, times `weight`.
pub fn rms_norm(states: &mut States, weight: &[f32], epsilon: f64) {
    by_rows(states, |_, row| {
        for values in row.chunks_mut(weight.len().max(1)) {
            let mut partial = [0.0_f64; 8];
            let (eights, rest) = values.as_chunks::<8>();
            for eight in eights {
                for (sum, value) in partial.iter_mut().zip(eight) {
                    *sum += f64::from(*value) * f64::from(*value);
                }
            }
            let rest: f64 = rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
            let square = partial.iter().sum::<f64>() + rest;
            let by = (1.0 / (square / values.len() as f64 + epsilon).sqrt()) as f32;
            for (value, weight) in values.iter_mut().zip(weight) {
                *value *= by * weight;
            }
        }
    });
}

/// Cosine and sine of each pair of a head, for each state.
#[derive(Debug, Default)]
pub struct Turns {
    values: Vec<(f32, f32)>,
    pairs: usize,
}

impl Turns {
    /// For states at these positions; `frequencies` in radians per position.
    pub fn new(frequencies: &[f64], positions: impl Iterator<Item = usize>) -> Self {
        let of = |position: usize| {
            frequencies.iter().map(move |frequency| {
                let angle = position as f64 * frequency;
                (angle.cos() as f32, angle.sin() as f32)
            })
        };
        Self { values: positions.flat_map(of).collect(), pairs: frequencies.len() }
    }

    /// Turns each head of each state: its halves are what is turned into each other.
    pub fn apply(&self, states: &mut States) {
        by_rows(states, |row, values| {
            let turns =
                self.values.get(row * self.pairs..(row + 1) * self.pairs).unwrap_or_default();
            for head in values.chunks_mut((2 * self.pairs).max(1)) {
                let (first, second) = head.split_at_mut(self.pairs.min(head.len()));
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        });
    }
}

/// SiLU of `gate`, times `up`.
pub fn gated(gate: &mut States, up: &States) {
    by_rows(gate, |row, values| {
        for (value, up) in values.iter_mut().zip(up.row(row)) {
            *value = *value / (1.0 + (-*value).exp()) * up;
        }
    });
}

/// `to += more`.
pub fn add(to: &mut States, more: &States) {
    by_rows(to, |row, values| {
        for (value, more) in values.iter_mut().zip(more.row(row)) {
            *value += more;
        }
    });
}

/// `bias` is added to each row.
pub fn add_bias(to: &mut States, bias: &[f32]) {
    by_rows(to, |_, values| {
        for (value, bias) in values.iter_mut().zip(bias) {
            *value += bias;
        }
    });
}
