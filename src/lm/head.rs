//! The end of a causal model: from hidden states to the probability of what came next.

use bytes::Bytes;
use candle_core::{D, Device, Tensor};

use super::attention::rms_norm;
use super::checkpoint::floats;
use super::{LmConfig, LmError, checkpoint::Checkpoint};
use crate::quant::{self, Float};

/// Rows of the head that are multiplied at a time: the whole of a large vocabulary would not fit.
pub(super) const SLICE: usize = 8192;
/// Elements of a matrix that is converted as a whole.
const SMALL: usize = 16 << 20;

/// The last norm and the head.
#[derive(Debug, Clone)]
pub struct Head {
    pub(super) norm: Tensor,
    pub(super) weight: Rows,
    pub(super) epsilon: f64,
}

/// A matrix that stays as it is stored until rows are read.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// Floats of some type.
    Stored { float: Float, bytes: Bytes, rows: usize, columns: usize },
    /// A small matrix, or a quantized one, dequantized; f32 `[rows, columns]`.
    Made(Tensor),
}

impl Rows {
    pub(super) fn read(from: &Checkpoint, name: &str, shape: [usize; 2]) -> Result<Self, LmError> {
        // A small one is converted once, not for every slice that is read.
        if from.is_quantized(name) || shape.iter().product::<usize>() <= SMALL {
            return Ok(Self::Made(from.tensor(name, &shape)?));
        }
        let (float, bytes) = from.plain(name, &shape)?;
        let [rows, columns] = shape;
        Ok(Self::Stored { float, bytes, rows, columns })
    }

    pub(super) fn count(&self) -> Result<usize, LmError> {
        match self {
            Self::Stored { rows, .. } => Ok(*rows),
            Self::Made(tensor) => Ok(tensor.dim(0)?),
        }
    }

    /// Rows `first` to `first + count`, f32 `[count, columns]`.
    pub(super) fn slice(&self, first: usize, count: usize) -> Result<Tensor, LmError> {
        match self {
            Self::Made(tensor) => Ok(tensor.narrow(0, first, count)?),
            Self::Stored { float, bytes, columns, .. } => {
                let row = columns * float.size() as usize;
                let bytes = bytes.get(first * row..(first + count) * row).unwrap_or_default();
                let values = floats(&quant::convert(bytes, *float, Float::F32));
                Ok(Tensor::from_vec(values, (count, *columns), &Device::Cpu)?)
            }
        }
    }
}

impl Head {
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        prefix: &str,
        embedding: &str,
    ) -> Result<Self, LmError> {
        let name = if config.tied { embedding } else { "lm_head.weight" };
        Ok(Self {
            norm: from.tensor(&format!("{prefix}norm.weight"), &[config.hidden])?,
            weight: Rows::read(from, name, [config.vocabulary, config.hidden])?,
            epsilon: config.epsilon,
        })
    }

    /// Logits, f32 `[tokens, vocabulary]`, of hidden states, f32 `[tokens, hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, LmError> {
        let normed = rms_norm(hidden, &self.norm, self.epsilon)?;
        let rows = self.weight.count()?;
        let mut slices = Vec::new();
        for first in (0..rows).step_by(SLICE) {
            let slice = self.weight.slice(first, SLICE.min(rows - first))?;
            slices.push(normed.matmul(&slice.t()?)?);
        }
        Ok(Tensor::cat(&slices, D::Minus1)?)
    }

    /// What it cost, in nats, that `next` came after each of these hidden states, f32 `[tokens, hidden]`.
    pub fn losses(&self, hidden: &Tensor, next: &[u32]) -> Result<Vec<f64>, LmError> {
        let normed = rms_norm(hidden, &self.norm, self.epsilon)?;
        let rows = self.weight.count()?;
        // Running maximum, sum of exponentials below it, and the logit of what came.
        let mut state = vec![(f64::NEG_INFINITY, 0.0, 0.0); next.len()];
        for first in (0..rows).step_by(SLICE) {
            let count = SLICE.min(rows - first);
            let slice = self.weight.slice(first, count)?;
            let logits = normed.matmul(&slice.t()?)?;
            let top = logits.max_keepdim(D::Minus1)?;
            let sums = logits.broadcast_sub(&top)?.exp()?.sum(D::Minus1)?.to_vec1::<f32>()?;
            let top = top.squeeze(1)?.to_vec1::<f32>()?;
            // Of a token that is not in the slice, any; it is not looked at.
            let within = |next: &u32| (*next as usize).checked_sub(first).filter(|at| *at < count);
            let places: Vec<u32> =
                next.iter().map(|next| within(next).map_or(0, |at| at as u32)).collect();
            let places = Tensor::from_vec(places, (next.len(), 1), &Device::Cpu)?;
            let picked = logits.gather(&places, 1)?.squeeze(1)?.to_vec1::<f32>()?;
            let slices = top.iter().zip(&sums).zip(picked.iter().zip(next));
            for (((top, added), (logit, next)), (most, sum, chosen)) in slices.zip(&mut state) {
                let new = most.max(f64::from(*top));
                *sum =
                    *sum * (*most - new).exp() + f64::from(*added) * (f64::from(*top) - new).exp();
                *most = new;
                if within(next).is_some() {
                    *chosen = f64::from(*logit);
                }
            }
        }
        Ok(state.into_iter().map(|(most, sum, chosen)| most + sum.ln() - chosen).collect())
    }
}
