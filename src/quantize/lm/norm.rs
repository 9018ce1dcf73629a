//! Norms.

use candle_core::{D, Tensor};

use super::family::Norm as Kind;
use super::parallel::by_rows;
use super::{Checkpoint, LmError};

/// A norm over the last dimension.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Its weight's name, with `.weight`.
    pub name: String,
    /// f32 `[width]`: what it multiplies by; none of a norm without a weight.
    pub weight: Option<Tensor>,
    /// f32 `[width]`.
    pub bias: Option<Tensor>,
    /// What the weight is more than what is stored: 0 or 1.
    pub offset: f32,
    /// Whether it takes the mean away.
    pub(super) centred: bool,
    pub(super) epsilon: f64,
}

impl Norm {
    pub(super) fn read(
        from: &Checkpoint,
        path: &str,
        kind: Kind,
        shape: &[usize],
        epsilon: f64,
    ) -> Result<Self, LmError> {
        let (centred, offset, weighs) = match kind {
            Kind::Rms => (false, 0.0, true),
            Kind::RmsPlusOne => (false, 1.0, true),
            Kind::RmsPlain => (false, 0.0, false),
            Kind::Layer => (true, 0.0, true),
            Kind::LayerPlusOne => (true, 1.0, true),
            Kind::LayerPlain => (true, 0.0, false),
        };
        let (name, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        let weight = match weighs {
            true if offset != 0.0 => Some((from.tensor(&name, shape)? + f64::from(offset))?),
            true => Some(from.tensor(&name, shape)?),
            false => None,
        };
        let bias = match centred && weighs && from.has(&bias) {
            true => Some(from.tensor(&bias, shape)?),
            false => None,
        };
        Ok(Self { name, weight, bias, offset, centred, epsilon })
    }

    pub(super) fn of(&self, x: &Tensor) -> Result<Tensor, LmError> {
        let centred;
        let x = match self.centred {
            true => {
                centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
                &centred
            }
            false => x,
        };
        let normed = match &self.weight {
            Some(weight) if weight.rank() == 1 => {
                let weight: Vec<f32> = weight.to_vec1()?;
                rms(x, self.epsilon, |_| &weight)?
            }
            // A weight for each head, `[heads, width]`, of `[heads, tokens, width]`.
            Some(weight) => {
                let weight: Vec<Vec<f32>> = weight.to_vec2()?;
                let tokens = x.dim(D::Minus2)?.max(1);
                rms(x, self.epsilon, |row| weight.get(row / tokens).map_or(&[], Vec::as_slice))?
            }
            None => {
                let one = vec![1.0; x.dim(D::Minus1)?];
                rms(x, self.epsilon, |_| &one)?
            }
        };
        Ok(match &self.bias {
            Some(bias) => normed.broadcast_add(bias)?,
            None => normed,
        })
    }

    /// The same by operations that candle can differentiate.
    pub(super) fn differentiable(&self, x: &Tensor) -> Result<Tensor, LmError> {
        let width = x.dim(D::Minus1)? as f64;
        let x = match self.centred {
            true => x.broadcast_sub(&(x.sum_keepdim(D::Minus1)? / width)?)?,
            false => x.clone(),
        };
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / width)?;
        let by = (mean + self.epsilon)?.sqrt()?.recip()?;
        let mut normed = x.broadcast_mul(&by)?;
        if let Some(weight) = &self.weight {
            let weight = if weight.rank() == 2 { weight.unsqueeze(1)? } else { weight.clone() };
            normed = normed.broadcast_mul(&weight)?;
        }
        Ok(match &self.bias {
            Some(bias) => normed.broadcast_add(bias)?,
            None => normed,
        })
    }
}

/// Divided by the root of the mean square of the last dimension, times the weight of the row.
fn rms<'w>(
    x: &Tensor,
    epsilon: f64,
    weight: impl Fn(usize) -> &'w [f32] + Sync,
) -> Result<Tensor, LmError> {
    by_rows(x, |row, values| {
        let square: f64 = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let by = (1.0 / (square / values.len().max(1) as f64 + epsilon).sqrt()) as f32;
        for (value, weight) in values.iter_mut().zip(weight(row)) {
            *value *= by * weight;
        }
    })
}
