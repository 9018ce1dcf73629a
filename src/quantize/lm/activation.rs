//! What MLPs do between their layers.

use candle_core::Tensor;

use super::LmError;
use super::parallel::by_rows;

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    Gelu,
    /// By tanh.
    GeluTanh,
    /// By a sigmoid.
    GeluQuick,
    Relu,
    ReluSquared,
}

impl Activation {
    /// By the name that transformers has for it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh"
            | "gelu_accurate" => Self::GeluTanh,
            "quick_gelu" => Self::GeluQuick,
            "relu" => Self::Relu,
            "relu2" => Self::ReluSquared,
            _ => return None,
        })
    }

    /// By operations that candle can differentiate.
    pub(super) fn of(self, x: &Tensor) -> Result<Tensor, LmError> {
        Ok(match self {
            Self::Silu => x.silu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::GeluTanh => x.gelu()?,
            Self::GeluQuick => (x * (((x * -1.702)?.exp()? + 1.0)?.recip()?))?,
            Self::Relu => x.relu()?,
            Self::ReluSquared => x.relu()?.sqr()?,
        })
    }

    /// Of the gate, times `up`.
    pub(super) fn gated(self, gate: Tensor, up: Tensor) -> Result<Tensor, LmError> {
        if self != Self::Silu {
            return Ok((self.of(&gate)? * up)?);
        }
        let width = up.dim(1)?;
        let up: Vec<f32> = up.flatten_all()?.to_vec1()?;
        by_rows(&gate, |row, values| {
            for (value, up) in values.iter_mut().zip(up.iter().skip(row * width)) {
                *value = *value / (1.0 + (-*value).exp()) * up;
            }
        })
    }
}

/// gpt-oss: SiLU of `alpha` times the gate, times one more than `up`, both cut.
pub(super) fn clamped(
    gate: &Tensor,
    up: &Tensor,
    alpha: f64,
    limit: f64,
) -> Result<Tensor, LmError> {
    let gate = gate.minimum(limit)?;
    let up = up.clamp(-limit, limit)?;
    let open = (((&gate * -alpha)?.exp()? + 1.0)?.recip()? * gate)?;
    Ok((open * (up + 1.0)?)?)
}
