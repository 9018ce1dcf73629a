//! Attention over one sequence, with rotary positions where the model has them.

use candle_core::{D, Device, Tensor};

use super::{LmConfig, LmError};

/// What blocks need of a sequence of some length: masks and rotations.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[tokens, head_dim / 2]`; none without rotary positions.
    turns: Option<(Tensor, Tensor)>,
    /// Additive, `[tokens, tokens]`, by block; equal ones share their memory.
    masks: Vec<Option<Tensor>>,
    pub(super) epsilon: f64,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Context {
    /// For sequences of `tokens` tokens.
    pub fn new(config: &LmConfig, tokens: usize) -> Result<Self, LmError> {
        if tokens == 0 || tokens > config.positions {
            return Err(LmError::Config(format!(
                "sequences of {tokens} tokens, and the model reads 1 to {}",
                config.positions
            )));
        }
        let mut known: Vec<(Option<usize>, Tensor)> = Vec::new();
        let mut masks = Vec::with_capacity(config.layers);
        for window in &config.windows {
            if !config.is_causal() {
                masks.push(None);
                continue;
            }
            let window = window.filter(|window| *window < tokens);
            let mask = match known.iter().find(|(one, _)| *one == window) {
                Some((_, mask)) => mask.clone(),
                None => {
                    let mask = mask(tokens, window)?;
                    known.push((window, mask.clone()));
                    mask
                }
            };
            masks.push(Some(mask));
        }
        Ok(Self {
            turns: if config.is_causal() { Some(turns(config, tokens)?) } else { None },
            masks,
            epsilon: config.epsilon,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        })
    }

    /// Attention of block `layer`: q `[tokens, heads * head_dim]`, k and v `[tokens, kv_heads * head_dim]`
    /// give `[tokens, heads * head_dim]`. `norms` are put on the heads of q and k first.
    pub(super) fn attend(
        &self,
        layer: usize,
        [q, k, v]: [Tensor; 3],
        norms: [Option<&Tensor>; 2],
    ) -> Result<Tensor, LmError> {
        let tokens = q.dim(0)?;
        let split = |x: Tensor, heads: usize| -> Result<Tensor, LmError> {
            Ok(x.reshape((tokens, heads, self.head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let (mut q, mut k, v) =
            (split(q, self.heads)?, split(k, self.kv_heads)?, split(v, self.kv_heads)?);
        if let [Some(on_q), Some(on_k)] = norms {
            (q, k) = (rms_norm(&q, on_q, self.epsilon)?, rms_norm(&k, on_k, self.epsilon)?);
        }
        if let Some((cos, sin)) = &self.turns {
            (q, k) = (turn(&q, cos, sin)?, turn(&k, cos, sin)?);
        }
        let shared = self.heads / self.kv_heads;
        let q = (q * (1.0 / (self.head_dim as f64).sqrt()))?;
        let q = q.reshape((self.kv_heads, shared * tokens, self.head_dim))?;
        let scores = q.matmul(&k.t()?)?.reshape((self.heads, tokens, tokens))?;
        let scores = match self.masks.get(layer).and_then(Option::as_ref) {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let weights = softmax(&scores)?.reshape((self.kv_heads, shared * tokens, tokens))?;
        let seen = weights.matmul(&v)?.reshape((self.heads, tokens, self.head_dim))?;
        Ok(seen.transpose(0, 1)?.reshape((tokens, self.heads * self.head_dim))?)
    }
}

/// 0 where a query sees a key, minus infinity elsewhere.
fn mask(tokens: usize, window: Option<usize>) -> Result<Tensor, LmError> {
    let seen =
        |query: usize, key: usize| key <= query && window.is_none_or(|window| query - key < window);
    let of =
        |query| (0..tokens).map(move |key| if seen(query, key) { 0.0 } else { f32::NEG_INFINITY });
    let values: Vec<f32> = (0..tokens).flat_map(of).collect();
    Ok(Tensor::from_vec(values, (tokens, tokens), &Device::Cpu)?)
}

/// Cosines and sines of every position.
fn turns(config: &LmConfig, tokens: usize) -> Result<(Tensor, Tensor), LmError> {
    let half = config.head_dim / 2;
    let frequency = |pair: usize| {
        let plain = config.theta.powf(-(2.0 * pair as f64) / config.head_dim as f64);
        config.rope.scaled(plain)
    };
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let table = |of: fn(f64) -> f64| {
        let values = (0..tokens)
            .flat_map(|at| frequencies.iter().map(move |f| of(at as f64 * f) as f32))
            .collect();
        Tensor::from_vec(values, (tokens, half), &Device::Cpu)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}

/// Turns the two halves of each head into each other.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, LmError> {
    let half = cos.dim(1)?;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[first, second], D::Minus1)?)
}

/// Along the last dimension.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor, LmError> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}

/// Divided by the root of the mean square of the last dimension, times `weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor, LmError> {
    let square = (x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?;
    Ok(x.broadcast_div(&square.sqrt()?)?.broadcast_mul(weight)?)
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
