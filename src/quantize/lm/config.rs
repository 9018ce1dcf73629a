//! A model's numbers: what its family's description makes of its `config.json`. Pure.

use std::sync::Arc;

use serde_json::Value;

use super::expression::{Number, Place, Rule};
use super::family::{Bias, Family, Order};
use super::numbers::{self, Numbers, Temperature};
use super::rope::{self, Rope};
use super::{ConfigError, LmError};

/// The numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LmConfig {
    /// The family: its `model_type`.
    pub family: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head of queries and keys.
    pub head_dim: usize,
    /// What norms add to a variance.
    pub epsilon: f64,
    /// Keys that a query sees back, itself included, by block; `None`: all before it.
    pub windows: Vec<Option<usize>>,
    /// The longest sequence.
    pub positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// What is known of the family.
    pub(super) about: Arc<Family>,
    pub(super) numbers: Numbers,
    pub(super) by_layer: Vec<Layer>,
    /// Kinds of rotary positions.
    pub(super) ropes: Vec<Rope>,
}

/// What differs by layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Positions in the same run of so many are seen.
    pub(super) chunk: Option<usize>,
    /// Which of the model's kinds of rotary positions.
    pub(super) rope: Option<usize>,
    pub(super) scale: f64,
    pub(super) has_head_norms: bool,
    pub(super) has_temperature: bool,
    pub(super) has_experts: bool,
}

impl LmConfig {
    /// What the names of the tensors begin with, of a model that `has` them.
    pub(super) fn prefix(&self, has: &dyn Fn(&str) -> bool) -> String {
        let prefixes = &self.about.prefixes;
        let is = |prefix: &&String| has(&format!("{prefix}{}.weight", self.about.embedding.tokens));
        prefixes.iter().find(is).or(prefixes.first()).cloned().unwrap_or_default()
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// If the family or a piece of it is not described, or a number is missing.
    pub fn parse(config: &Value) -> Result<Self, LmError> {
        let (family, name, config) = Family::of(config)?;
        let config = &config;
        let sizes = &family.sizes;
        let (hidden, layers) = (sizes.hidden.size(config)?, sizes.layers.size(config)?);
        if layers > MAX_LAYERS {
            let key = "the number of layers".to_owned();
            return Err(ConfigError::Dimension { key, value: layers.into() }.into());
        }
        let heads = sizes.heads.size(config)?;
        let kv_heads = sizes.kv_heads.size(config)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::KvHeads { heads, kv_heads }.into());
        }
        let latent = numbers::latent(&family, config)?;
        let head_dim = match (&latent, sizes.head_dim.find(config)?) {
            (Some(latent), _) => latent.plain + latent.turned,
            (None, Some(_)) => sizes.head_dim.size(config)?,
            (None, None) if hidden.is_multiple_of(heads) => hidden / heads,
            (None, None) => return Err(ConfigError::Heads { hidden, heads }.into()),
        };
        let offset =
            family.embedding.offset.as_ref().map_or(Ok(0), |offset| offset.count(config))?;
        let rows = sizes.positions.size(config)?;
        let positions = rows.checked_sub(offset).filter(|positions| *positions > 0);
        let positions = positions.ok_or_else(|| ConfigError::Missing("positions".to_owned()))?;
        let window = |window: &Option<super::family::Window>, at: Place| match window {
            Some(window) if holds(&window.layers, config, at)? => {
                match window.size.find(config)? {
                    Some(_) => window.size.size(config).map(Some),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        };
        let attention = &family.attention;
        let (mut windows, mut by_layer, mut ropes) = (Vec::new(), Vec::new(), Vec::new());
        // Widths of heads that turn; those through few dimensions have others.
        let turned = latent.as_ref().map_or(head_dim, |latent| latent.turned);
        let kinds = config.get("layer_types").and_then(Value::as_array);
        for layer in 0..layers {
            let mut at = Place { layer, layers, turned: false };
            at.turned = match &family.rope {
                Some(rope) => holds(&rope.layers, config, at)?,
                None => false,
            };
            let own = window(&attention.window, at)?;
            let kind = kinds.and_then(|kinds| kinds.get(layer)).and_then(Value::as_str);
            if let Some(kind) = kind.filter(|kind| !KINDS.contains(kind)) {
                return Err(LmError::Piece(format!("a layer of type {kind:?}")));
            }
            let model = rope::Model { config, head_dim: turned, positions: rows, layer };
            let kind = kind.or(Some(if own.is_some() { KINDS[0] } else { KINDS[1] }));
            let rope = match &family.rope {
                Some(rope) if at.turned => Some(rope::read(rope, model, kind, own.is_some())?),
                _ => None,
            };
            let scale = match &attention.scale {
                Some(scale) => scale.number(config)?,
                None => 1.0 / (head_dim as f64).sqrt(),
            };
            let scale = if attention.by_layer { scale / (layer + 1) as f64 } else { scale };
            let scale = scale * rope.as_ref().map_or(1.0, |rope| rope.attention);
            let norms = attention.norms.as_ref();
            let temperature = attention.temperature.as_ref();
            by_layer.push(Layer {
                chunk: window(&attention.chunk, at)?,
                rope: rope.map(|rope| {
                    ropes.iter().position(|known| *known == rope).unwrap_or_else(|| {
                        ropes.push(rope);
                        ropes.len() - 1
                    })
                }),
                scale,
                has_head_norms: norms
                    .map_or(Ok(false), |norms| holds(&norms.layers, config, at))?,
                has_temperature: temperature
                    .map_or(Ok(false), |own| holds(&own.layers, config, at))?,
                has_experts: family
                    .experts
                    .as_ref()
                    .map_or(Ok(false), |own| holds(&own.layers, config, at))?,
            });
            windows.push(own);
        }
        let reach = ropes.iter().map(Rope::reach).fold(1.0, f64::max);
        // A width that no layer has may be missing.
        let is_dense = by_layer.iter().any(|layer| !layer.has_experts);
        let intermediate = match is_dense {
            true => sizes.intermediate.size(config)?,
            false => sizes.intermediate.find(config)?.map_or(0, |wide| wide as usize),
        };
        let or = |number: &Option<Number>, default: f64| match number {
            Some(number) => Ok(number.find(config)?.unwrap_or(default)),
            None => Ok::<f64, ConfigError>(default),
        };
        let maybe = |number: &Option<Number>| match number {
            Some(number) => number.find(config),
            None => Ok(None),
        };
        let head = family.head.as_ref();
        let numbers = Numbers {
            embedding: or(&family.embedding.scale, 1.0)?,
            residual: or(&family.residual, 1.0)?,
            logits: head.map_or(Ok(1.0), |head| or(&head.scale, 1.0))?,
            logits_cap: head.map_or(Ok(None), |head| maybe(&head.cap))?.filter(|cap| *cap > 0.0),
            offset,
            types: match &family.embedding.type_count {
                Some(count) => count.count(config)?,
                None => 0,
            },
            value_dim: match &family.attention.latent {
                Some(latent) => latent.value.size(config)?,
                None => head_dim,
            },
            attention_cap: maybe(&attention.cap)?.filter(|cap| *cap > 0.0),
            clip: maybe(&attention.clip)?,
            buckets: match &attention.bias {
                Some(Bias::Buckets { count, .. }) => count.size(config)?,
                _ => 0,
            },
            temperature: match &attention.temperature {
                Some(own) => Some(Temperature {
                    floor: own.floor.number(config)?,
                    scale: own.scale.number(config)?,
                    first: or(&own.first, 1.0)?,
                }),
                None => None,
            },
            latent,
            activation: numbers::activation(&family.mlp.activation, config)?,
            experts: match by_layer.iter().any(|layer| layer.has_experts) {
                true => numbers::experts(&family, config)?,
                false => None,
            },
        };
        let this = Self {
            family: name,
            vocabulary: sizes.vocabulary.size(config)?,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            epsilon: family.epsilon.number(config)?,
            windows,
            positions: (positions as f64 * reach) as usize,
            tied: family.tied.flag(config)?,
            about: Arc::new(family),
            numbers,
            by_layer,
            ropes,
        };
        this.check()?;
        Ok(this)
    }

    /// What no single number tells.
    fn check(&self) -> Result<(), LmError> {
        let size = |key: &str, value: usize| ConfigError::Dimension {
            key: key.to_owned(),
            value: value.into(),
        };
        if let Some(own) = &self.numbers.experts {
            if own.top > own.count {
                return Err(size("the number of experts of a token", own.top).into());
            }
            if let Some((groups, top, best)) = own.groups
                && (!own.count.is_multiple_of(groups) || top > groups || best > own.count / groups)
            {
                return Err(size("the number of groups of experts", groups).into());
            }
        }
        let fused = self.about.attention.qkv.as_ref();
        let apart = [&self.about.attention.q, &self.about.attention.k, &self.about.attention.v];
        if fused.is_none() && self.numbers.latent.is_none() && apart.iter().any(|own| own.is_none())
        {
            return Err(ConfigError::Description(
                self.family.clone(),
                "it has no q, k and v".into(),
            )
            .into());
        }
        Ok(())
    }

    /// Whether the model predicts the next token.
    pub fn is_causal(&self) -> bool {
        self.about.causal
    }

    /// Whether [`Block::gradients`](super::Block::gradients) has some.
    pub fn has_gradients(&self) -> bool {
        self.is_causal() && self.numbers.experts.is_none() && self.numbers.latent.is_none()
    }

    /// The rotary frequency of each pair of a head, in radians per position, of the first layer that has them.
    pub fn frequencies(&self) -> Vec<f64> {
        self.ropes.first().map(|rope| rope.frequencies(self.positions)).unwrap_or_default()
    }

    /// Whether q and k have norms on each head.
    pub fn has_head_norms(&self) -> bool {
        self.by_layer.iter().any(|layer| layer.has_head_norms)
    }

    /// In which order one weight has rows of q, k and v.
    pub(super) fn order(&self) -> Order {
        self.about.attention.qkv.as_ref().map_or(Order::Concat, |fused| fused.order)
    }
}

/// The most blocks that are believed.
const MAX_LAYERS: usize = 1 << 14;

/// What transformers calls layers that see a window, and all.
const KINDS: [&str; 3] = ["sliding_attention", "full_attention", "chunked_attention"];

fn holds(rule: &Option<Rule>, config: &Value, at: Place) -> Result<bool, ConfigError> {
    rule.as_ref().map_or(Ok(true), |rule| rule.holds(config, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn llama() -> Value {
        json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 5e5})
    }

    #[test]
    fn old_and_new_spellings_say_the_same() {
        let old = LmConfig::parse(&llama()).unwrap();
        assert_eq!((old.ropes[0].theta, old.head_dim, old.kv_heads, old.tied), (5e5, 2, 2, false));
        let mut new = llama();
        new.as_object_mut().unwrap().remove("rope_theta");
        new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
        assert_eq!(LmConfig::parse(&new).unwrap(), old);
        assert_eq!(old.beyond_llama(), None);
    }

    #[test]
    fn windows_are_per_block() {
        let mut config = llama();
        config["sliding_window"] = json!(7);
        assert_eq!(LmConfig::parse(&config).unwrap().windows, [None; 3]);
        config["model_type"] = json!("mistral");
        assert_eq!(LmConfig::parse(&config).unwrap().windows, [Some(7); 3]);
        config["model_type"] = json!("qwen2");
        config["max_window_layers"] = json!(2);
        assert_eq!(LmConfig::parse(&config).unwrap().windows, [None; 3]);
        config["use_sliding_window"] = json!(true);
        assert_eq!(LmConfig::parse(&config).unwrap().windows, [None, None, Some(7)]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (key, value, said) in [
            ("model_type", json!("mamba"), "\"mamba\""),
            ("hidden_act", json!("xielu"), "xielu"),
            ("num_key_value_heads", json!(3), "4 is no multiple of num_key_value_heads 3"),
            ("hidden_size", json!(0), "hidden_size is 0"),
            ("hidden_size", json!(null), "hidden_size is missing"),
            ("hidden_size", json!(1.5), "hidden_size is 1.5"),
            ("layer_types", json!(["linear_attention"]), "linear_attention"),
            ("rope_scaling", json!({"rope_type": "axial", "factor": 2}), "axial"),
            ("rope_scaling", json!({"type": "linear"}), "without factor"),
        ] {
            let mut config = llama();
            config[key] = value;
            let error = LmConfig::parse(&config).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_model_may_bring_its_own_description() {
        let mut config = llama();
        config["model_type"] = json!("next_month");
        assert!(LmConfig::parse(&config).is_err());
        config["tenpak_family"] = json!({"like": "llama", "parallel": true, "residual": "depth"});
        config["depth"] = json!(0.5);
        let found = LmConfig::parse(&config).unwrap();
        assert_eq!((found.numbers.residual, found.family.as_str()), (0.5, "next_month"));
        assert!(found.beyond_llama().unwrap().contains("side by side"));
        config["tenpak_family"] = json!({"like": "llama", "sizes": {"nonsense": 1}});
        assert!(LmConfig::parse(&config).unwrap_err().to_string().contains("nonsense"));
    }
}
