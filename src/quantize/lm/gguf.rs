//! What GGUF calls the tensors of models whose blocks are called as Llama's are, and in which order it has their rows;
//! and the numbers of a model that its metadata has. Pure.

use serde_json::Value;

use super::LmConfig;
use super::family::{Bias, Norm};
use super::numbers::Score;

pub use crate::gguf::names::source_row;
use crate::gguf::names::{Change, Family};

/// The family that a `config.json` names; if it is none that is known, one whose parts are called as Llama's are.
fn family(config: &Value) -> Option<Family> {
    let model = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    Family::of_model(model).or_else(|| Family::of_model("qwen3"))
}

/// The tensor that GGUF calls so in the file of a model with this `config.json`.
pub fn original(config: &Value, name: &str) -> Option<String> {
    let found = family(config)?.originals(name, &[], [1, 1])?;
    found.into_iter().next().map(|own| own.name)
}

/// How many heads the rows of a weight are permuted in there, by the model's `config.json`; none for those that
/// are not.
pub fn heads(config: &Value, name: &str) -> Option<u64> {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let query = number("num_attention_heads")?;
    let own = [query, number("num_key_value_heads").unwrap_or(query)];
    match family(config)?.renamed(name, own)?.1 {
        Change::Heads(heads) => Some(heads).filter(|heads| *heads > 0),
        _ => None,
    }
}

/// The numbers of a model that GGUF's metadata has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) hidden: usize,
    /// Width of the MLP; of an expert, where no block has another.
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Width of a head of queries and keys, and of values.
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) vocabulary: usize,
    pub(crate) positions: usize,
    /// Whether norms are by the mean square.
    pub(crate) is_rms: bool,
    pub(crate) epsilon: f64,
    pub(crate) is_parallel: bool,
    pub(crate) is_tied: bool,
    /// Dimensions of a head that turn, if there are rotary positions.
    pub(crate) turned: Option<usize>,
    /// Whether neighbours turn, and not halves.
    pub(crate) is_interleaved: bool,
    /// The base of frequencies of layers that see all, and of those with a window.
    pub(crate) theta: Option<f64>,
    pub(crate) local_theta: Option<f64>,
    /// By layer: what is seen back, whether positions turn, whether there are experts.
    pub(crate) windows: Vec<Option<usize>>,
    pub(crate) turns: Vec<bool>,
    pub(crate) sparse: Vec<bool>,
    /// Positions in the same run of so many are seen, on some layers.
    pub(crate) chunk: Option<usize>,
    /// Where queries grow: after how many positions, by which factor.
    pub(crate) temperature: Option<(f64, f64)>,
    pub(crate) has_alibi: bool,
    pub(crate) has_head_norms: bool,
    pub(crate) clip: Option<f64>,
    /// What logits are multiplied by.
    pub(crate) logits: f64,
    /// Of attention through few dimensions: the ranks of queries and of keys.
    pub(crate) ranks: Option<(Option<usize>, usize)>,
    pub(crate) experts: Option<Experts>,
}

/// Numbers of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Experts {
    pub(crate) count: usize,
    pub(crate) top: usize,
    pub(crate) intermediate: usize,
    /// Width of the one that all tokens go to.
    pub(crate) shared: Option<usize>,
    pub(crate) routing: Routing,
    pub(crate) scale: f64,
    /// Groups, how many are chosen, and how many scores count for one, where some are not.
    pub(crate) groups: Option<(usize, usize, usize)>,
}

/// How tokens are sent to experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Weights are a softmax, and then made to sum up to one or not.
    Softmax { normalized: bool },
    /// Weights are sigmoids.
    Sigmoid { normalized: bool },
    /// Some other way.
    Other,
}

impl LmConfig {
    /// The numbers that GGUF's metadata has.
    pub(crate) fn facts(&self) -> Facts {
        let (about, numbers) = (&*self.about, &self.numbers);
        let rope = |local: bool| {
            let layers = self.by_layer.iter().zip(&self.windows);
            let mut of = layers.filter(|(_, window)| window.is_some() == local);
            let at = of.find_map(|(layer, _)| layer.rope)?;
            self.ropes.get(at)
        };
        let (whole, local) = (rope(false), rope(true));
        let any = whole.or(local);
        let experts = numbers.experts.as_ref().map(|own| Experts {
            count: own.count,
            top: own.top,
            intermediate: own.intermediate,
            shared: own.shared,
            routing: match own.score {
                Score::Softmax => Routing::Softmax { normalized: own.normalized },
                Score::SoftmaxOfTop => Routing::Softmax { normalized: true },
                Score::Sigmoid => Routing::Sigmoid { normalized: own.normalized },
                Score::Sparsemixer => Routing::Other,
            },
            scale: own.scale,
            groups: own.groups.filter(|(count, top, _)| top < count),
        });
        let wide = experts.map_or(0, |own| own.intermediate);
        Facts {
            hidden: self.hidden,
            intermediate: if self.intermediate == 0 { wide } else { self.intermediate },
            layers: self.layers,
            heads: self.heads,
            // Through few dimensions each head has keys of its own.
            kv_heads: if numbers.latent.is_some() { self.heads } else { self.kv_heads },
            head_dim: self.head_dim,
            value_dim: numbers.value_dim,
            vocabulary: self.vocabulary,
            positions: self.positions,
            is_rms: matches!(about.norm, Norm::Rms | Norm::RmsPlusOne | Norm::RmsPlain),
            epsilon: self.epsilon,
            is_parallel: about.parallel,
            is_tied: self.tied,
            turned: any.map(|rope| rope.width),
            is_interleaved: any.is_some_and(|rope| rope.interleaved),
            theta: any.map(|rope| rope.theta),
            local_theta: local.map(|rope| rope.theta),
            windows: self.windows.clone(),
            turns: self.by_layer.iter().map(|layer| layer.rope.is_some()).collect(),
            sparse: self.by_layer.iter().map(|layer| layer.has_experts).collect(),
            chunk: self.by_layer.iter().find_map(|layer| layer.chunk),
            temperature: numbers.temperature.map(|own| (own.floor, own.scale)),
            has_alibi: matches!(about.attention.bias, Some(Bias::Alibi { .. })),
            has_head_norms: self.has_head_norms(),
            clip: numbers.clip,
            logits: numbers.logits,
            ranks: numbers.latent.as_ref().map(|own| (own.q_rank, own.kv_rank)),
            experts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn heads_are_those_of_query_and_key() {
        let config =
            json!({"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 2});
        let of = |name: &str| heads(&config, &format!("model.layers.3.self_attn.{name}.weight"));
        assert_eq!([of("q_proj"), of("k_proj"), of("v_proj")], [Some(8), Some(2), None]);
        let other = json!({"model_type": "qwen2", "num_attention_heads": 8});
        assert_eq!(heads(&other, "model.layers.3.self_attn.q_proj.weight"), None);
        let name = |config, there| original(config, there).unwrap();
        assert_eq!(name(&other, "blk.2.attn_q.bias"), "model.layers.2.self_attn.q_proj.bias");
        let seed = json!({"model_type": "seed_oss"});
        let norm = "model.layers.2.post_attention_layernorm.weight";
        assert_eq!(name(&seed, "blk.2.post_attention_norm.weight"), norm);
        assert_eq!(name(&other, "blk.2.ffn_norm.weight"), norm);
    }
}
