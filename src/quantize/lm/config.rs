//! What `config.json` says of a model, in the names of transformers. Pure.

use serde_json::Value;

use super::{ConfigError, LmError};

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: Llama with norms on the heads of q and k.
    Qwen3,
    /// BERT: an encoder, with norms after each half block.
    Bert,
}

/// How positions turn queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Rope {
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
}

/// The numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LmConfig {
    /// The family.
    pub architecture: Architecture,
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
    /// Width of a head.
    pub head_dim: usize,
    /// What norms add to a variance.
    pub epsilon: f64,
    /// The base of rotary frequencies.
    pub theta: f64,
    /// How rotary frequencies are scaled.
    pub rope: Rope,
    /// Keys that a query sees back, itself included, by block; `None`: all before it.
    pub windows: Vec<Option<usize>>,
    /// The longest sequence.
    pub positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// The most blocks, and the largest dimension, that are believed.
const MAX_DIMENSION: u64 = 1 << 24;

impl LmConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If the architecture or a feature of it is not known, or a number is missing.
    pub fn parse(config: &Value) -> Result<Self, LmError> {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let architecture = match kind {
            "llama" => Architecture::Llama,
            "mistral" => Architecture::Mistral,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "bert" => Architecture::Bert,
            other => return Err(LmError::Architecture(other.to_owned())),
        };
        let is_bert = architecture == Architecture::Bert;
        let optional = |key: &'static str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|n| (1..=MAX_DIMENSION).contains(n))
                .and_then(|n| usize::try_from(n).ok())
                .map(Some)
                .ok_or_else(|| ConfigError::Dimension { key, value: value.clone() }),
        };
        let required = |key| optional(key)?.ok_or(ConfigError::Missing(key));
        let number = |key: &str| config.get(key).and_then(Value::as_f64);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let activation = config.get("hidden_act").and_then(Value::as_str);
        match (is_bert, activation) {
            (true, None | Some("gelu")) | (false, None | Some("silu")) => {}
            (_, other) => {
                let value = format!("{other:?}");
                return Err(LmError::Feature { what: "hidden_act", value });
            }
        }
        let (hidden, heads) = (required("hidden_size")?, required("num_attention_heads")?);
        let layers = required("num_hidden_layers")?;
        let kv_heads =
            if is_bert { heads } else { optional("num_key_value_heads")?.unwrap_or(heads) };
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::KvHeads { heads, kv_heads }.into());
        }
        let head_dim = match optional("head_dim")? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(ConfigError::Heads { hidden, heads }.into()),
        };
        if !is_bert && head_dim % 2 == 1 {
            return Err(ConfigError::OddHead(head_dim).into());
        }
        let position = config.get("position_embedding_type").and_then(Value::as_str);
        if is_bert && !matches!(position, None | Some("absolute")) {
            let value = format!("{position:?}");
            return Err(LmError::Feature { what: "position_embedding_type", value });
        }
        let (theta, rope) = rope(config)?;
        Ok(Self {
            architecture,
            vocabulary: required("vocab_size")?,
            hidden,
            intermediate: required("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            epsilon: if is_bert {
                number("layer_norm_eps").unwrap_or(1e-12)
            } else {
                number("rms_norm_eps").unwrap_or(1e-6)
            },
            theta,
            rope,
            windows: windows(config, architecture, layers, optional("sliding_window")?),
            positions: required("max_position_embeddings")?,
            tied: is_bert || flag("tie_word_embeddings"),
        })
    }

    /// The rotary frequency of each pair of a head, in radians per position.
    pub fn frequencies(&self) -> Vec<f64> {
        let of = |pair: usize| {
            let plain = self.theta.powf(-(2.0 * pair as f64) / self.head_dim as f64);
            self.rope.scaled(plain)
        };
        (0..self.head_dim / 2).map(of).collect()
    }

    /// Whether the model predicts the next token.
    pub fn is_causal(&self) -> bool {
        self.architecture != Architecture::Bert
    }
}

/// The window of each block.
fn windows(
    config: &Value,
    architecture: Architecture,
    layers: usize,
    window: Option<usize>,
) -> Vec<Option<usize>> {
    let kinds = config.get("layer_types").and_then(Value::as_array);
    let used = config.get("use_sliding_window").and_then(Value::as_bool);
    let full_below = config.get("max_window_layers").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let of = |layer: usize| {
        let slides = match architecture {
            Architecture::Mistral => true,
            Architecture::Qwen2 | Architecture::Qwen3 if used == Some(true) => {
                match kinds.and_then(|kinds| kinds.get(layer)).and_then(Value::as_str) {
                    Some(kind) => kind == "sliding_attention",
                    None => layer as u64 >= full_below,
                }
            }
            _ => false,
        };
        window.filter(|_| slides)
    };
    (0..layers).map(of).collect()
}

/// Base and scaling of rotary frequencies: `rope_parameters`, or `rope_theta` and `rope_scaling` as older
/// configurations have them.
fn rope(config: &Value) -> Result<(f64, Rope), LmError> {
    let object = |key: &str| config.get(key).filter(|value| value.is_object());
    let parameters = object("rope_parameters").or_else(|| object("rope_scaling"));
    let number = |key: &str| parameters.and_then(|p| p.get(key)).and_then(Value::as_f64);
    let theta = number("rope_theta").or_else(|| config.get("rope_theta").and_then(Value::as_f64));
    let theta = theta.unwrap_or(10000.0);
    let kind = parameters.and_then(|p| p.get("rope_type").or_else(|| p.get("type")));
    let need = |key: &'static str| {
        let value = number(key).filter(|value| *value > 0.0);
        value.ok_or(ConfigError::Scaling(key))
    };
    let rope = match kind.and_then(Value::as_str) {
        None | Some("default") => Rope::Plain,
        Some("linear") => Rope::Linear { factor: need("factor")? },
        Some("llama3") => Rope::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original: need("original_max_position_embeddings")?,
        },
        Some(other) => {
            let value = format!("{other:?}");
            return Err(LmError::Feature { what: "rope scaling", value });
        }
    };
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(ConfigError::Theta(theta).into());
    }
    Ok((theta, rope))
}

impl Rope {
    /// The frequency of a pair whose frequency was `plain`, in radians per position.
    pub fn scaled(self, plain: f64) -> f64 {
        match self {
            Self::Plain => plain,
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
        }
    }
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
        assert_eq!((old.theta, old.head_dim, old.kv_heads, old.tied), (5e5, 2, 2, false));
        let mut new = llama();
        new.as_object_mut().unwrap().remove("rope_theta");
        new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
        assert_eq!(LmConfig::parse(&new).unwrap(), old);
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
            ("hidden_act", json!("relu"), "relu"),
            ("num_key_value_heads", json!(3), "4 is no multiple of num_key_value_heads 3"),
            ("hidden_size", json!(0), "hidden_size is 0"),
            ("hidden_size", json!(null), "hidden_size is missing"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 2}), "yarn"),
            ("rope_scaling", json!({"type": "linear"}), "without factor"),
        ] {
            let mut config = llama();
            config[key] = value;
            let error = LmConfig::parse(&config).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
