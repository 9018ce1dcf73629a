//! Attention over one sequence, with rotary positions where the model has them.

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::{LmConfig, LmError};

/// What blocks need of a sequence of some length: what is seen from where, and rotations.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) tokens: usize,
    pub(super) causal: bool,
    /// Keys that a query sees back, by block.
    pub(super) windows: Vec<Option<usize>>,
    /// Cosines and sines, `[tokens, head_dim / 2]`; empty without rotary positions.
    pub(super) turns: Vec<(f32, f32)>,
    pub(super) epsilon: f64,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Context {
    /// For sequences of `tokens` tokens.
    ///
    /// # Errors
    /// If the model reads fewer tokens.
    pub fn new(config: &LmConfig, tokens: usize) -> Result<Self, LmError> {
        if tokens == 0 || tokens > config.positions {
            return Err(LmError::Sequence { tokens, least: 1, most: config.positions });
        }
        Ok(Self {
            tokens,
            causal: config.is_causal(),
            windows: config.windows.clone(),
            turns: if config.is_causal() { turns(config, tokens) } else { Vec::new() },
            epsilon: config.epsilon,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        })
    }

    /// Attention of block `layer`: q `[tokens, heads * head_dim]`, k and v `[tokens, kv_heads * head_dim]`
    /// give `[tokens, heads * head_dim]`; the tokens are those of one sequence or of several, one behind the
    /// other. `norms` are put on the heads of q and k first.
    pub(super) fn attend(
        &self,
        layer: usize,
        heads: [Tensor; 3],
        norms: [Option<&Tensor>; 2],
    ) -> Result<Tensor, LmError> {
        let tokens = heads[0].dim(0)?;
        if tokens == self.tokens {
            return self.attend_one(layer, heads, norms);
        }
        if tokens == 0 || !tokens.is_multiple_of(self.tokens) {
            return Err(LmError::Defect("tokens of no whole number of sequences"));
        }
        let one = |first: usize| {
            let [q, k, v] = heads.each_ref().map(|heads| heads.narrow(0, first, self.tokens));
            self.attend_one(layer, [q?, k?, v?], norms)
        };
        let seen: Result<Vec<Tensor>, LmError> =
            (0..tokens).step_by(self.tokens).map(one).collect();
        Ok(Tensor::cat(&seen?, 0)?)
    }

    /// The same for one sequence.
    fn attend_one(
        &self,
        layer: usize,
        [q, k, v]: [Tensor; 3],
        norms: [Option<&Tensor>; 2],
    ) -> Result<Tensor, LmError> {
        let tokens = self.tokens;
        let split = |x: Tensor, heads: usize| -> Result<Tensor, LmError> {
            Ok(x.reshape((tokens, heads, self.head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let (mut q, mut k, v) =
            (split(q, self.heads)?, split(k, self.kv_heads)?, split(v, self.kv_heads)?);
        if let [Some(on_q), Some(on_k)] = norms {
            (q, k) = (rms_norm(&q, on_q, self.epsilon)?, rms_norm(&k, on_k, self.epsilon)?);
        }
        if !self.turns.is_empty() {
            (q, k) = (self.turn(&q)?, self.turn(&k)?);
        }
        let shared = self.heads / self.kv_heads;
        let q = (q * (1.0 / (self.head_dim as f64).sqrt()))?;
        let q = q.reshape((self.kv_heads, shared * tokens, self.head_dim))?;
        let weights = self.softmax(layer, &q.matmul(&k.t()?)?)?;
        let seen = weights.matmul(&v)?.reshape((self.heads, tokens, self.head_dim))?;
        Ok(seen.transpose(0, 1)?.reshape((tokens, self.heads * self.head_dim))?)
    }

    /// How much of each key a query takes, from the scores: rows of `tokens` keys, query after query, head
    /// after head. Nothing of keys that it does not see.
    fn softmax(&self, layer: usize, scores: &Tensor) -> Result<Tensor, LmError> {
        let window = self.windows.get(layer).copied().flatten().unwrap_or(usize::MAX);
        by_rows(scores, |row, keys| {
            let query = row % self.tokens;
            let end = if self.causal { query + 1 } else { self.tokens };
            let start = if self.causal { end.saturating_sub(window) } else { 0 };
            let (before, rest) = keys.split_at_mut(start);
            let (seen, behind) = rest.split_at_mut(end - start);
            before.fill(0.0);
            behind.fill(0.0);
            let most = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for key in seen.iter_mut() {
                *key = (*key - most).exp();
                sum += *key;
            }
            for key in seen {
                *key /= sum;
            }
        })
    }

    /// Turns the two halves of each head, `[heads, tokens, head_dim]`, into each other.
    fn turn(&self, x: &Tensor) -> Result<Tensor, LmError> {
        let half = self.head_dim / 2;
        by_rows(x, |row, head| {
            let position = row % self.tokens;
            let turns = self.turns.iter().skip(position * half);
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        })
    }
}

/// Rows that one task changes.
const ROWS: usize = 32;

/// A tensor with each run along its last dimension changed, given with its number. The rows do not
/// depend on each other, and so not on the number of threads.
pub(super) fn by_rows(
    x: &Tensor,
    change: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Tensor, LmError> {
    let width = x.dim(D::Minus1)?.max(1);
    let mut values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    values.par_chunks_mut(ROWS * width).enumerate().for_each(|(part, rows)| {
        for (row, values) in rows.chunks_mut(width).enumerate() {
            change(part * ROWS + row, values);
        }
    });
    Ok(Tensor::from_vec(values, x.dims(), &Device::Cpu)?)
}

/// Cosines and sines of every position.
fn turns(config: &LmConfig, tokens: usize) -> Vec<(f32, f32)> {
    let frequencies = config.frequencies();
    let of = |at: usize| {
        frequencies.iter().map(move |frequency| {
            let angle = at as f64 * frequency;
            (angle.cos() as f32, angle.sin() as f32)
        })
    };
    (0..tokens).flat_map(of).collect()
}

/// Divided by the root of the mean square of the last dimension, times `weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor, LmError> {
    let weight: Vec<f32> = weight.to_vec1()?;
    by_rows(x, |_, values| {
        let square: f64 = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let by = (1.0 / (square / values.len().max(1) as f64 + epsilon).sqrt()) as f32;
        for (value, weight) in values.iter_mut().zip(&weight) {
            *value *= by * weight;
        }
    })
}

/// Less the mean of the last dimension, divided by its deviation, times weight, plus bias.
pub(super) fn layer_norm(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    epsilon: f64,
) -> Result<Tensor, LmError> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    Ok(rms_norm(&centred, weight, epsilon)?.broadcast_add(bias)?)
}
