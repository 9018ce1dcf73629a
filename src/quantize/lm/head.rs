//! The end of a causal model: from hidden states to the probability of what came next.

use candle_core::{D, Device, Tensor};

use super::attention::rms_norm;
use super::rows::Rows;
use super::{Checkpoint, LmConfig, LmError};

/// The last norm and the head.
#[derive(Debug)]
pub struct Head {
    pub(super) norm: Tensor,
    pub(super) weight: Rows,
    pub(super) epsilon: f64,
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
            weight: Rows::put_aside(from, name, [config.vocabulary, config.hidden])?,
            epsilon: config.epsilon,
        })
    }

    /// Logits, f32 `[tokens, vocabulary]`, of hidden states, f32 `[tokens, hidden]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, LmError> {
        let normed = rms_norm(hidden, &self.norm, self.epsilon)?;
        let mut slices = Vec::new();
        for (first, count) in self.weight.slices(hidden.dim(0)?) {
            slices.push(normed.matmul(&self.weight.slice(first, count)?.t()?)?);
        }
        Ok(Tensor::cat(&slices, D::Minus1)?)
    }

    /// What it cost, in nats, that `next` came after each of these hidden states, f32 `[tokens, hidden]`.
    ///
    /// # Errors
    /// If shapes do not fit, or a token is beyond the vocabulary.
    pub fn losses(&self, hidden: &Tensor, next: &[u32]) -> Result<Vec<f64>, LmError> {
        let normed = rms_norm(hidden, &self.norm, self.epsilon)?;
        // Running maximum, sum of exponentials below it, and the logit of what came.
        let mut state = vec![(f64::NEG_INFINITY, 0.0, 0.0); next.len()];
        for (first, count) in self.weight.slices(next.len()) {
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
