//! Which experts a token goes to, and how much of each it takes.

use candle_core::{D, Device, Tensor};

use super::numbers::{Experts as Numbers, Score};
use super::parallel::by_rows;
use super::{Checkpoint, LmConfig, LmError};

/// The router of a block.
#[derive(Debug, Clone)]
pub(super) struct Router {
    weight: Tensor,
    bias: Option<Tensor>,
    /// What is added to scores to choose only.
    correction: Option<Vec<f32>>,
    numbers: Numbers,
    pub(super) weighs_input: bool,
}

impl Router {
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        numbers: &Numbers,
        path: &str,
    ) -> Result<Self, LmError> {
        let about = config.about.experts.as_ref().ok_or(LmError::Defect("no experts"))?;
        let of = |end: &str| format!("{path}.{}.{end}", about.router);
        let bias = of("bias");
        let correction = match &about.correction {
            Some(name) => {
                let name = format!("{path}.{name}");
                // ERNIE has a row of them.
                let row = from.tensor(&name, &[numbers.count]);
                let row = row.or_else(|_| from.tensor(&name, &[1, numbers.count]));
                Some(row?.flatten_all()?.to_vec1()?)
            }
            None => None,
        };
        Ok(Self {
            weight: from.tensor(&of("weight"), &[numbers.count, config.hidden])?,
            bias: match from.has(&bias) {
                true => Some(from.tensor(&bias, &[numbers.count])?),
                false => None,
            },
            correction,
            numbers: numbers.clone(),
            weighs_input: about.weighs_input,
        })
    }

    /// How much each state, f32 `[tokens, hidden]`, takes of each expert: f32 `[tokens, experts]`, negative where
    /// it does not go to it.
    pub(super) fn route(&self, states: &Tensor) -> Result<Tensor, LmError> {
        let logits = states.matmul(&self.weight.t()?)?;
        let logits = match &self.bias {
            Some(bias) => logits.broadcast_add(bias)?,
            None => logits,
        };
        by_rows(&logits, |_, row| {
            let chosen = self.choose(row);
            row.fill(-1.0);
            for (expert, weight) in chosen {
                if let Some(own) = row.get_mut(expert) {
                    *own = weight.max(0.0);
                }
            }
        })
    }

    /// The experts of a token by its logits, and their weights.
    fn choose(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let own = &self.numbers;
        if own.score == Score::Sparsemixer {
            return sparsemixer(logits, own.top);
        }
        let scores: Vec<f32> = match own.score {
            Score::Softmax => softmax(logits),
            Score::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            Score::SoftmaxOfTop | Score::Sparsemixer => logits.to_vec(),
        };
        let mut choice: Vec<f32> = match &self.correction {
            Some(added) => scores.iter().zip(added).map(|(score, added)| score + added).collect(),
            None => scores.clone(),
        };
        if let Some((groups, top, best)) = own.groups {
            let size = (own.count / groups).max(1);
            let of_group = |group: &[f32]| {
                largest(group, best).iter().filter_map(|at| group.get(*at)).sum::<f32>()
            };
            let by_group: Vec<f32> = choice.chunks(size).map(of_group).collect();
            let kept = largest(&by_group, top);
            for (group, scores) in choice.chunks_mut(size).enumerate() {
                if !kept.contains(&group) {
                    scores.fill(f32::NEG_INFINITY);
                }
            }
        }
        let chosen = largest(&choice, own.top);
        let mut weights: Vec<f32> =
            chosen.iter().map(|at| scores.get(*at).copied().unwrap_or(0.0)).collect();
        if own.score == Score::SoftmaxOfTop {
            weights = softmax(&weights);
        }
        let sum: f32 = weights.iter().sum();
        let by = if own.normalized { own.scale as f32 / (sum + 1e-20) } else { own.scale as f32 };
        chosen.into_iter().zip(weights).map(|(at, weight)| (at, weight * by)).collect()
    }
}

/// The rows of the states that go to an expert, and how much each takes of it.
pub(super) fn rows(routes: &Tensor, expert: usize) -> Result<(Vec<u32>, Vec<f32>), LmError> {
    let column: Vec<f32> = routes.narrow(D::Minus1, expert, 1)?.flatten_all()?.to_vec1()?;
    let chosen = column.iter().enumerate().filter(|(_, weight)| **weight >= 0.0);
    Ok(chosen.map(|(row, weight)| (row as u32, *weight)).unzip())
}

/// These rows of a tensor.
pub(super) fn select(from: &Tensor, rows: &[u32]) -> Result<Tensor, LmError> {
    if rows.is_empty() {
        return Ok(Tensor::from_vec(Vec::<f32>::new(), (0, from.dim(1)?), &Device::Cpu)?);
    }
    Ok(from.index_select(&Tensor::from_slice(rows, rows.len(), &Device::Cpu)?, 0)?)
}

/// Each row times a number.
pub(super) fn weighed(x: &Tensor, by: &[f32]) -> Result<Tensor, LmError> {
    Ok(x.broadcast_mul(&Tensor::from_slice(by, (by.len(), 1), &Device::Cpu)?)?)
}

/// The places of the largest numbers, the largest first; of equal ones the first.
fn largest(of: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..of.len()).collect();
    let value = |at: &usize| of.get(*at).copied().unwrap_or(f32::NEG_INFINITY);
    order.sort_by(|a, b| value(b).total_cmp(&value(a)).then(a.cmp(b)));
    order.truncate(count);
    order
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = raised.iter().sum();
    raised.into_iter().map(|one| one / sum).collect()
}

/// Phi-MoE's choice (Liu et al., 2023), without its noise: each expert is the largest of those left, weighed among
/// those that are not much smaller.
fn sparsemixer(logits: &[f32], top: usize) -> Vec<(usize, f32)> {
    const JITTER: f32 = 0.01;
    let mut left = logits.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..top {
        let Some(at) = largest(&left, 1).first().copied() else { break };
        let most = left.get(at).copied().unwrap_or(0.0);
        let is_near = |logit: f32, own: f32| (most - own) / logit.abs().max(most) <= 2.0 * JITTER;
        let near = left.iter().zip(logits).filter(|(own, logit)| is_near(**logit, **own));
        let sum: f32 = near.map(|(own, _)| (own - most).exp()).sum();
        chosen.push((at, 1.0 / sum));
        if let Some(own) = left.get_mut(at) {
            *own = f32::NEG_INFINITY;
        }
    }
    chosen
}
