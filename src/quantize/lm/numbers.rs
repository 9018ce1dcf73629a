//! Numbers that only some families have. Pure.

use serde_json::Value;

use super::activation::Activation;
use super::expression::Word;
use super::family::Family;
use super::{ConfigError, LmError};

/// Numbers of the whole model that few families have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Numbers {
    pub(super) embedding: f64,
    pub(super) residual: f64,
    pub(super) logits: f64,
    pub(super) logits_cap: Option<f64>,
    /// Rows of learned positions before the first.
    pub(super) offset: usize,
    pub(super) types: usize,
    /// Width of a head of values.
    pub(super) value_dim: usize,
    pub(super) attention_cap: Option<f64>,
    pub(super) clip: Option<f64>,
    /// Buckets of distances.
    pub(super) buckets: usize,
    /// How queries grow.
    pub(super) temperature: Option<Temperature>,
    pub(super) latent: Option<Latent>,
    pub(super) activation: Activation,
    pub(super) experts: Option<Experts>,
}

/// How queries grow with their position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Temperature {
    pub(super) floor: f64,
    pub(super) scale: f64,
    /// The number of the first position.
    pub(super) first: f64,
}

impl Temperature {
    /// What a query at a position is multiplied by.
    pub(super) fn at(self, position: usize) -> f32 {
        (((position as f64 + self.first) / self.floor).floor().ln_1p() * self.scale + 1.0) as f32
    }
}

/// Attention through few dimensions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Latent {
    pub(super) q_rank: Option<usize>,
    pub(super) kv_rank: usize,
    pub(super) plain: usize,
    pub(super) turned: usize,
    pub(super) epsilon: f64,
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Experts {
    pub(super) count: usize,
    pub(super) top: usize,
    pub(super) intermediate: usize,
    pub(super) score: Score,
    pub(super) normalized: bool,
    pub(super) scale: f64,
    /// Groups of experts, how many are chosen, and how many scores count for one.
    pub(super) groups: Option<(usize, usize, usize)>,
    /// Width of the expert that all tokens go to.
    pub(super) shared: Option<usize>,
    pub(super) activation: Activation,
    /// gpt-oss: alpha and limit.
    pub(super) limit: Option<(f64, f64)>,
}

/// What scores of experts are made of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Score {
    Softmax,
    Sigmoid,
    /// Softmax over those that were chosen.
    SoftmaxOfTop,
    /// Phi-MoE's, of two.
    Sparsemixer,
}

/// The activation of this name.
pub(super) fn activation(word: &Word, config: &Value) -> Result<Activation, LmError> {
    let name = word.find(config);
    Activation::named(name).ok_or_else(|| LmError::Piece(format!("the activation {name:?}")))
}

/// The widths of attention through few dimensions.
pub(super) fn latent(family: &Family, config: &Value) -> Result<Option<Latent>, ConfigError> {
    let Some(own) = &family.attention.latent else { return Ok(None) };
    Ok(Some(Latent {
        q_rank: own.q_rank.find(config)?.map(|_| own.q_rank.size(config)).transpose()?,
        kv_rank: own.kv_rank.size(config)?,
        plain: own.plain.size(config)?,
        turned: own.turned.size(config)?,
        epsilon: match &own.epsilon {
            Some(epsilon) => epsilon.number(config)?,
            None => family.epsilon.number(config)?,
        },
    }))
}

/// The numbers of experts.
pub(super) fn experts(family: &Family, config: &Value) -> Result<Option<Experts>, LmError> {
    let Some(own) = &family.experts else { return Ok(None) };
    let score = match own.score.find(config) {
        "softmax" => Score::Softmax,
        "sigmoid" => Score::Sigmoid,
        "softmax_of_top" => Score::SoftmaxOfTop,
        "sparsemixer" => Score::Sparsemixer,
        other => return Err(LmError::Piece(format!("routing by {other:?}"))),
    };
    let shared = match &own.shared {
        Some(shared) => {
            let times =
                shared.count.as_ref().map_or(Ok(1), |count| match count.find(config)? {
                    Some(_) => count.count(config),
                    None => Ok(0),
                })?;
            match times {
                0 => None,
                times => Some(times.saturating_mul(shared.intermediate.size(config)?)),
            }
        }
        None => None,
    };
    let groups = match &own.groups {
        Some(groups) => {
            let (count, top) = (groups.count.find(config)?, groups.top.find(config)?);
            match count.is_some() && top.is_some() {
                true => Some((groups.count.size(config)?, groups.top.size(config)?, groups.best)),
                false => None,
            }
        }
        None => None,
    };
    Ok(Some(Experts {
        count: own.count.size(config)?,
        top: own.top.size(config)?,
        intermediate: own.intermediate.size(config)?,
        score,
        normalized: own.normalized.as_ref().map_or(Ok(false), |own| own.flag(config))?,
        scale: match &own.scale {
            Some(scale) => scale.find(config)?.unwrap_or(1.0),
            None => 1.0,
        },
        groups: groups.filter(|(count, ..)| *count > 1),
        shared,
        activation: activation(own.activation.as_ref().unwrap_or(&family.mlp.activation), config)?,
        limit: match &own.limit {
            Some(limit) => Some((limit.alpha.number(config)?, limit.limit.number(config)?)),
            None => None,
        },
    }))
}
