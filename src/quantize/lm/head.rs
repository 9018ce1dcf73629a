//! The end of a causal model: from hidden states to the probability of what came next.

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::norm::Norm;
use super::rows::Rows;
use super::{Checkpoint, LmConfig, LmError};

/// The last norm and the head.
#[derive(Debug)]
pub struct Head {
    pub(super) norm: Option<Norm>,
    weight: Rows,
    bias: Option<Tensor>,
    /// What logits are multiplied by, and then cut to.
    scale: f64,
    cap: Option<f64>,
}

impl Head {
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        prefix: &str,
        embedding: &str,
    ) -> Result<Self, LmError> {
        let (about, numbers) = (&*config.about, &config.numbers);
        let names = about.head.as_ref().map(|head| head.names.as_slice()).unwrap_or_default();
        let has = |name: &&String| from.has(&format!("{name}.weight"));
        let name = names.iter().find(has).or(names.first()).map(String::as_str);
        let own = format!("{}.weight", name.unwrap_or("lm_head"));
        let bias = format!("{}.bias", name.unwrap_or("lm_head"));
        let norm = |name: &String| {
            let name = format!("{prefix}{name}");
            Norm::read(from, &name, about.norm, &[config.hidden], config.epsilon)
        };
        let shape = [config.vocabulary, config.hidden];
        Ok(Self {
            norm: about.norms.last.as_ref().map(norm).transpose()?,
            weight: Rows::put_aside(from, if config.tied { embedding } else { &own }, shape)?,
            bias: match from.has(&bias) {
                true => Some(from.tensor(&bias, &[config.vocabulary])?),
                false => None,
            },
            scale: numbers.logits,
            cap: numbers.logits_cap,
        })
    }

    pub(super) fn normed(&self, hidden: &Tensor) -> Result<Tensor, LmError> {
        self.norm.as_ref().map_or_else(|| Ok(hidden.clone()), |norm| norm.of(hidden))
    }

    /// First and count of the tokens of the vocabulary that are to be looked at together, for so many states.
    pub(super) fn slices(&self, states: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        self.weight.slices(states)
    }

    /// Logits of some tokens of the vocabulary, and the weights of which they were made.
    pub(super) fn slice(
        &self,
        normed: &Tensor,
        (first, count): (usize, usize),
    ) -> Result<(Tensor, Tensor), LmError> {
        let weight = self.weight.slice(first, count)?;
        let mut logits = normed.matmul(&weight.t()?)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(&bias.narrow(0, first, count)?)?;
        }
        if self.scale != 1.0 {
            logits = (logits * self.scale)?;
        }
        if let Some(cap) = self.cap {
            logits = ((logits * (1.0 / cap))?.tanh()? * cap)?;
        }
        Ok((logits, weight))
    }

    /// The gradient of states by that of some logits, which have gone through cap and scale.
    pub(super) fn back(
        &self,
        of_logits: Tensor,
        logits: &Tensor,
        weight: &Tensor,
    ) -> Result<Tensor, LmError> {
        let mut found = of_logits;
        if let Some(cap) = self.cap {
            found = (found * (1.0 - (logits * (1.0 / cap))?.sqr()?)?)?;
        }
        if self.scale != 1.0 {
            found = (found * self.scale)?;
        }
        Ok(found.matmul(weight)?)
    }

    /// Logits, f32 `[tokens, vocabulary]`, of hidden states, f32 `[tokens, hidden]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, LmError> {
        let normed = self.normed(hidden)?;
        let mut slices = Vec::new();
        for slice in self.slices(hidden.dim(0)?) {
            slices.push(self.slice(&normed, slice)?.0);
        }
        Ok(Tensor::cat(&slices, D::Minus1)?)
    }

    /// What it cost, in nats, that `next` came after each of these hidden states, f32 `[tokens, hidden]`.
    ///
    /// # Errors
    /// If shapes do not fit, or a token is beyond the vocabulary.
    pub fn losses(&self, hidden: &Tensor, next: &[u32]) -> Result<Vec<f64>, LmError> {
        let normed = self.normed(hidden)?;
        // Running maximum, sum of exponentials below it, and the logit of what came.
        let mut state = vec![(f64::NEG_INFINITY, 0.0, 0.0); next.len()];
        for (first, count) in self.slices(next.len()) {
            let (logits, _) = self.slice(&normed, (first, count))?;
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

    /// What this model and another of the same vocabulary say of each token, given their hidden states, f32
    /// `[tokens, hidden]`, and what came `next`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn compare(
        &self,
        hidden: &Tensor,
        (other, its): (&Self, &Tensor),
        next: &[u32],
    ) -> Result<Vec<Compared>, LmError> {
        let (normed, its) = (self.normed(hidden)?, other.normed(its)?);
        let mut all = vec![Pair::default(); next.len()];
        for (first, count) in self.slices(next.len()) {
            let logits = |states: &Tensor, head: &Self| -> Result<Vec<f32>, LmError> {
                let (logits, _) = head.slice(states, (first, count))?;
                Ok(logits.flatten_all()?.to_vec1()?)
            };
            let (own, other) = (logits(&normed, self)?, logits(&its, other)?);
            let rows = own.par_chunks(count).zip(other.par_chunks(count));
            all.par_iter_mut().zip(next).zip(rows).for_each(|((pair, next), (own, other))| {
                pair.add(first, own, other, *next as usize);
            });
        }
        Ok(all.into_iter().map(Pair::compared).collect())
    }
}

/// What two models say of the same token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Nats that it cost the one.
    pub loss: f64,
    /// Nats that it cost the other.
    pub other_loss: f64,
    /// The KL divergence of the other's distribution from the one's, in nats.
    pub divergence: f64,
    /// Whether both have the same first choice.
    pub same_top: bool,
}

/// One model's side of a [`Pair`]: running maximum and its token, sum of exponentials below it, and the logit of
/// what came.
#[derive(Debug, Clone, Copy)]
struct Side {
    most: f64,
    top: usize,
    sum: f64,
    chosen: f64,
}

impl Default for Side {
    fn default() -> Self {
        Self { most: f64::NEG_INFINITY, top: 0, sum: 0.0, chosen: f64::NAN }
    }
}

impl Side {
    /// Looks at the logits from `first` on; returns by what the sum so far is to be multiplied.
    fn look(&mut self, first: usize, logits: &[f32], next: usize) -> f64 {
        let (mut most, mut top) = (f32::NEG_INFINITY, 0);
        for (at, logit) in logits.iter().enumerate() {
            if *logit > most {
                (most, top) = (*logit, first + at);
            }
        }
        if let Some(logit) = next.checked_sub(first).and_then(|at| logits.get(at)) {
            self.chosen = f64::from(*logit);
        }
        if f64::from(most) <= self.most {
            return 1.0;
        }
        let scale = (self.most - f64::from(most)).exp();
        (self.most, self.top) = (f64::from(most), top);
        scale
    }

    fn log_sum(&self) -> f64 {
        self.most + self.sum.ln()
    }
}

/// Two models' logits of one token.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    own: Side,
    other: Side,
    /// The one's exponentials, each times the difference of both logits.
    crossed: f64,
}

impl Pair {
    fn add(&mut self, first: usize, own: &[f32], other: &[f32], next: usize) {
        let scale = self.own.look(first, own, next);
        let its = self.other.look(first, other, next);
        let (mut sum, mut its_sum, mut crossed) = (0.0, 0.0, 0.0);
        for (own, other) in own.iter().zip(other) {
            let (own, other) = (f64::from(*own), f64::from(*other));
            let part = (own - self.own.most).exp();
            sum += part;
            crossed += part * (own - other);
            its_sum += (other - self.other.most).exp();
        }
        self.own.sum = self.own.sum * scale + sum;
        self.crossed = self.crossed * scale + crossed;
        self.other.sum = self.other.sum * its + its_sum;
    }

    fn compared(self) -> Compared {
        let (own, other) = (self.own.log_sum(), self.other.log_sum());
        Compared {
            loss: own - self.own.chosen,
            other_loss: other - self.other.chosen,
            divergence: self.crossed / self.own.sum - own + other,
            same_top: self.own.top == self.other.top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, all at once.
    fn oracle(own: &[f32], other: &[f32], next: usize) -> Compared {
        let log = |logits: &[f32]| -> Vec<f64> {
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            logits.iter().map(|logit| f64::from(*logit) - sum.ln()).collect()
        };
        let (p, q) = (log(own), log(other));
        let top = |all: &[f64]| {
            let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            all.iter().position(|one| *one == most)
        };
        Compared {
            loss: -p[next],
            other_loss: -q[next],
            divergence: p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum(),
            same_top: top(&p) == top(&q),
        }
    }

    #[test]
    fn slices_sum_to_the_whole_however_they_are_cut() {
        let own = [1.5, -2.0, 0.25, 3.0, 2.5, -7.0, 0.0];
        let other = [1.0, -1.0, 0.5, 2.0, 2.75, -6.0, -0.5];
        for next in 0..own.len() {
            let expected = oracle(&own, &other, next);
            for cut in 1..=own.len() {
                let mut pair = Pair::default();
                for (at, (a, b)) in own.chunks(cut).zip(other.chunks(cut)).enumerate() {
                    pair.add(at * cut, a, b, next);
                }
                let found = pair.compared();
                assert_eq!(found.same_top, expected.same_top);
                for (a, b) in [
                    (found.loss, expected.loss),
                    (found.other_loss, expected.other_loss),
                    (found.divergence, expected.divergence),
                ] {
                    assert!((a - b).abs() < 1e-12, "{next} {cut}: {found:?} {expected:?}");
                }
            }
        }
        let mut same = Pair::default();
        same.add(0, &own, &own, 3);
        assert!(same.compared().divergence.abs() < 1e-15 && same.compared().same_top);
    }
}
