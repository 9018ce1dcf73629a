//! Rotary positions: which dimensions turn, how fast, and how scaling changes that. Pure.
//!
//! Scaling is read as transformers writes it: `rope_parameters` of version 5, one for all layers or one for each
//! type of layer, or `rope_theta` and `rope_scaling` of version 4.

use serde_json::Value;

use super::expression::Number;
use super::family::Rope as Described;
use super::{ConfigError, LmError};

/// How rotary frequencies are scaled.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// As trained.
    Plain,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones as they are, smooth between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The context that the model was first trained with.
        original: f64,
    },
    /// The base grows with sequences that are longer than the model's positions.
    Dynamic {
        /// The factor.
        factor: f64,
        /// The model's positions.
        positions: f64,
    },
    /// YaRN: dimensions that turn seldom are divided by a factor, others are as they are, a ramp between.
    Yarn {
        /// The factor.
        factor: f64,
        /// Where the ramp begins and ends, in pairs.
        ramp: (f64, f64),
    },
    /// Each pair divided by a factor of its own, one for short sequences, one for long.
    Long {
        /// The factors of sequences up to `original`.
        short: Vec<f64>,
        /// The factors of longer ones.
        long: Vec<f64>,
        /// The context that the model was first trained with.
        original: f64,
    },
}

/// Rotary positions of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of frequencies.
    pub theta: f64,
    /// How frequencies are scaled.
    pub scaling: Scaling,
    /// Dimensions of a head that turn: an even number.
    pub width: usize,
    /// What frequencies are made of: `width`, or one less.
    dims: usize,
    /// Whether neighbours turn into each other, and not halves.
    pub interleaved: bool,
    /// What cosines and sines are multiplied by.
    pub factor: f64,
    /// What scores are multiplied by on top.
    pub(super) attention: f64,
}

impl Rope {
    /// The frequency of each pair, in radians per position, for sequences of so many tokens.
    pub fn frequencies(&self, tokens: usize) -> Vec<f64> {
        let width = self.dims as f64;
        let theta = match &self.scaling {
            Scaling::Dynamic { factor, positions } if width > 2.0 => {
                let longer = (tokens as f64).max(*positions) / positions;
                self.theta * (factor * longer - (factor - 1.0)).powf(width / (width - 2.0))
            }
            _ => self.theta,
        };
        let of = |pair: usize| {
            let plain = theta.powf(-(2.0 * pair as f64) / width);
            self.scaling.scaled(plain, pair, tokens)
        };
        (0..self.width / 2).map(of).collect()
    }

    /// How many times the positions of the configuration sequences may be long.
    pub(super) fn reach(&self) -> f64 {
        match self.scaling {
            Scaling::Dynamic { factor, .. } => factor.max(1.0),
            _ => 1.0,
        }
    }
}

impl Scaling {
    /// The frequency of a pair whose frequency was `plain`.
    fn scaled(&self, plain: f64, pair: usize, tokens: usize) -> f64 {
        match self {
            Self::Plain | Self::Dynamic { .. } => plain,
            Self::Linear { factor } => plain / factor,
            Self::Llama3 { factor, low, high, original } => {
                let wavelength = std::f64::consts::TAU / plain;
                if wavelength < original / high {
                    plain
                } else if wavelength > original / low {
                    plain / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            }
            Self::Yarn { factor, ramp: (low, high) } => {
                let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain / factor * divided + plain * (1.0 - divided)
            }
            Self::Long { short, long, original } => {
                let factors = if tokens as f64 > *original { long } else { short };
                plain / factors.get(pair).copied().unwrap_or(1.0)
            }
        }
    }
}

/// What a configuration says that is needed for positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model<'a> {
    pub(super) config: &'a Value,
    pub(super) head_dim: usize,
    pub(super) positions: usize,
    pub(super) layer: usize,
}

/// The positions of layers of a kind, as `layer_types` names it; `slides` where they have a window.
pub(super) fn read(
    described: &Described,
    model: Model<'_>,
    kind: Option<&str>,
    slides: bool,
) -> Result<Rope, LmError> {
    let config = model.config;
    let object = |key: &str| config.get(key).filter(|value| value.is_object());
    let all = object("rope_parameters").or_else(|| object("rope_scaling"));
    let of_kind =
        |all: &'_ Value| kind.and_then(|kind| all.get(kind)).is_some_and(Value::is_object);
    let by_kind = all.filter(|all| of_kind(all));
    let local = described.local.as_ref().filter(|_| slides && by_kind.is_none());
    let local = local.map_or(Ok(None), |local| local.find(config))?;
    if let Some(theta) = local {
        return whole(described, model, None, theta);
    }
    let own = match by_kind {
        Some(all) => kind.and_then(|kind| all.get(kind)),
        None => all,
    };
    let by_layer = described.thetas.as_ref().and_then(|key| config.get(key)?.get(model.layer));
    let theta = by_layer.or_else(|| own.and_then(|own| own.get("rope_theta")));
    let theta = theta.and_then(Value::as_f64);
    let theta = match (theta, config.get("rope_theta").and_then(Value::as_f64), &described.theta) {
        (Some(theta), _, _) | (None, Some(theta), _) => theta,
        (None, None, Some(theta)) => theta.find(config)?.unwrap_or(10000.0),
        (None, None, None) => 10000.0,
    };
    whole(described, model, own, theta)
}

fn whole(
    described: &Described,
    model: Model<'_>,
    own: Option<&Value>,
    theta: f64,
) -> Result<Rope, LmError> {
    let config = model.config;
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(ConfigError::Theta(theta).into());
    }
    let flag =
        |number: &Option<Number>| number.as_ref().map_or(Ok(false), |number| number.flag(config));
    let part = match own.and_then(|own| own.get("partial_rotary_factor")).and_then(Value::as_f64) {
        Some(part) => part,
        None => described.part.as_ref().map_or(Ok(None), |part| part.find(config))?.unwrap_or(1.0),
    };
    let dims = match &described.width {
        Some(width) => width.size(config)?,
        None => (model.head_dim as f64 * part) as usize,
    };
    // Of an odd number of dimensions, transformers turns one more.
    let width = dims.checked_next_multiple_of(2);
    let width = width.filter(|width| (1..=model.head_dim).contains(width));
    let width = width.ok_or(ConfigError::OddHead(dims))?;
    let (scaling, factor) = scaling(own, model, theta, dims)?;
    let mut attention = 1.0;
    if described.scales_attention
        && let Some(own) = own
        && !matches!(scaling, Scaling::Plain)
        && let Some(all) =
            own.get("mscale_all_dim").and_then(Value::as_f64).filter(|all| *all != 0.0)
    {
        let factor = own.get("factor").and_then(Value::as_f64).unwrap_or(1.0);
        attention = magnitude(factor, all).powi(2);
    }
    let interleaved = flag(&described.interleaved)?;
    Ok(Rope { theta, scaling, width, dims, interleaved, factor, attention })
}

/// By what YaRN makes attention sharper.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// Scaling, and what cosines and sines are multiplied by.
fn scaling(
    own: Option<&Value>,
    model: Model<'_>,
    theta: f64,
    width: usize,
) -> Result<(Scaling, f64), LmError> {
    let number = |key: &str| own.and_then(|own| own.get(key)).and_then(Value::as_f64);
    let kind = own.and_then(|own| own.get("rope_type").or_else(|| own.get("type")));
    let need = |key: &'static str| {
        number(key).filter(|value| *value > 0.0).ok_or(ConfigError::Scaling(key))
    };
    let positions = model.positions as f64;
    let of_config = model.config.get("original_max_position_embeddings").and_then(Value::as_f64);
    let original = number("original_max_position_embeddings").or(of_config);
    let original = original.filter(|original| *original > 0.0).unwrap_or(positions);
    Ok(match kind.and_then(Value::as_str) {
        // Sections of positions matter to pictures only.
        None | Some("default" | "mrope") => (Scaling::Plain, 1.0),
        Some("linear") => (Scaling::Linear { factor: need("factor")? }, 1.0),
        Some("dynamic") => (Scaling::Dynamic { factor: need("factor")?, positions }, 1.0),
        Some("llama3") => {
            let scaling = Scaling::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: need("original_max_position_embeddings")?,
            };
            (scaling, 1.0)
        }
        Some("yarn") => {
            let factor = number("factor").unwrap_or(positions / original);
            if !(factor > 0.0 && factor.is_finite()) {
                return Err(ConfigError::Scaling("factor").into());
            }
            let both = number("mscale").zip(number("mscale_all_dim"));
            let default = match both.filter(|(one, all)| *one != 0.0 && *all != 0.0) {
                Some((one, all)) => magnitude(factor, one) / magnitude(factor, all),
                None => magnitude(factor, 1.0),
            };
            let or = |key: &str, default| number(key).filter(|own| *own != 0.0).unwrap_or(default);
            let turns = |rotations: f64| {
                let dimensions =
                    width as f64 * (original / (rotations * std::f64::consts::TAU)).ln();
                dimensions / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (turns(or("beta_fast", 32.0)), turns(or("beta_slow", 1.0)));
            let truncates = own.and_then(|own| own.get("truncate")).and_then(Value::as_bool);
            if truncates != Some(false) {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            if !(low.is_finite() && high.is_finite()) {
                return Err(ConfigError::Theta(theta).into());
            }
            let scaling = Scaling::Yarn { factor, ramp: (low, high) };
            (scaling, number("attention_factor").unwrap_or(default))
        }
        Some("longrope" | "su") => {
            let list = |key: &'static str| {
                let list = own.and_then(|own| own.get(key)).and_then(Value::as_array);
                let list: Option<Vec<f64>> =
                    list.and_then(|list| list.iter().map(Value::as_f64).collect());
                list.filter(|list| {
                    list.len() == width.div_ceil(2) && list.iter().all(|one| *one > 0.0)
                })
                .ok_or(ConfigError::Scaling(key))
            };
            let factor = number("factor").unwrap_or(positions / original);
            let default = match factor <= 1.0 {
                true => 1.0,
                false => (1.0 + factor.ln() / original.ln()).sqrt(),
            };
            let scaling = Scaling::Long {
                short: list("short_factor")?,
                long: list("long_factor")?,
                original,
            };
            (scaling, number("attention_factor").unwrap_or(default))
        }
        Some(other) => return Err(LmError::Piece(format!("rope scaling {other:?}"))),
    })
}
