//! What a description of a family says. Pure.

use serde::Deserialize;

use super::expression::{Number, Rule, Word};

/// A family.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    /// Whether tokens see only those before them, and the next one is predicted.
    pub(crate) causal: bool,
    pub(crate) sizes: Sizes,
    /// What norms add to a variance.
    pub(crate) epsilon: Number,
    /// Whether the head is the embedding.
    pub(crate) tied: Number,
    /// What names may begin with; the first under which the embedding is found.
    pub(crate) prefixes: Vec<String>,
    pub(crate) embedding: Embedding,
    /// What the names of a block's tensors begin with; `{}` is its number.
    pub(crate) block: String,
    pub(crate) norm: Norm,
    pub(crate) norms: Norms,
    /// Whether attention and MLP read the same states.
    #[serde(default)]
    pub(crate) parallel: bool,
    pub(crate) attention: Attention,
    pub(crate) rope: Option<Rope>,
    pub(crate) mlp: Mlp,
    pub(crate) experts: Option<Experts>,
    /// What the output of attention and MLP is multiplied by.
    pub(crate) residual: Option<Number>,
    pub(crate) head: Option<Head>,
    /// A piece of this model that is not described.
    pub(crate) missing: Option<String>,
}

/// Sizes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sizes {
    pub(crate) vocabulary: Number,
    pub(crate) hidden: Number,
    pub(crate) layers: Number,
    pub(crate) heads: Number,
    pub(crate) kv_heads: Number,
    pub(crate) head_dim: Number,
    pub(crate) intermediate: Number,
    pub(crate) positions: Number,
}

/// From tokens to states.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Embedding {
    pub(crate) tokens: String,
    /// Learned positions.
    pub(crate) positions: Option<String>,
    /// The row of the first position.
    pub(crate) offset: Option<Number>,
    /// Token types, of which all tokens have the first.
    pub(crate) types: Option<String>,
    /// How many of them there are.
    pub(crate) type_count: Option<Number>,
    pub(crate) norm: Option<String>,
    /// What tokens' rows are multiplied by.
    pub(crate) scale: Option<Number>,
}

/// A kind of norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Norm {
    /// Divided by the root of the mean square, times a weight.
    Rms,
    /// The same, times one plus the weight.
    RmsPlusOne,
    /// The same without a weight.
    RmsPlain,
    /// Less the mean, divided by the deviation, times a weight, plus a bias if there is one.
    Layer,
    /// The same, times one plus the weight.
    LayerPlusOne,
    /// The same without weight and bias.
    LayerPlain,
}

/// Norms around the halves of a block, by their names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Norms {
    /// Of what attention reads.
    pub(crate) attention: Option<String>,
    /// Of what attention gives, before it is added.
    pub(crate) attention_out: Option<String>,
    /// Of the sum.
    pub(crate) attention_sum: Option<String>,
    /// Of what the MLP reads; in parallel blocks, that of attention if this is missing.
    pub(crate) mlp: Option<String>,
    /// Of what the MLP gives, before it is added.
    pub(crate) mlp_out: Option<String>,
    /// Of the sum.
    pub(crate) mlp_sum: Option<String>,
    /// Of what the head reads.
    pub(crate) last: Option<String>,
}

/// Attention.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attention {
    pub(crate) q: Option<String>,
    pub(crate) k: Option<String>,
    pub(crate) v: Option<String>,
    /// q, k and v in one.
    pub(crate) qkv: Option<Fused>,
    /// q, k and v through few dimensions.
    pub(crate) latent: Option<Latent>,
    pub(crate) o: String,
    /// Whether weights are stored by columns.
    #[serde(default)]
    pub(crate) transposed: bool,
    pub(crate) norms: Option<HeadNorms>,
    /// q, k and v are cut to this magnitude.
    pub(crate) clip: Option<Number>,
    /// Of scores; one over the root of a head's width if this is missing.
    pub(crate) scale: Option<Number>,
    /// Whether scores are divided by the number of the layer, from one on.
    #[serde(default)]
    pub(crate) by_layer: bool,
    /// Scores go through `cap * tanh(score / cap)`.
    pub(crate) cap: Option<Number>,
    /// Logits that take part in the softmax of each head, and nothing else.
    pub(crate) sinks: Option<String>,
    /// Keys that a query sees back.
    pub(crate) window: Option<Window>,
    /// Keys of the same chunk are seen.
    pub(crate) chunk: Option<Window>,
    pub(crate) bias: Option<Bias>,
    /// Queries grow with the logarithm of their position.
    pub(crate) temperature: Option<Temperature>,
}

/// q, k and v in one weight.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fused {
    pub(crate) name: String,
    pub(crate) order: Order,
}

/// The order of rows of q, k and v in one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// All of q, all of k, all of v.
    Concat,
    /// For each head of k: its heads of q, that of k, that of v.
    Groups,
}

/// q, k and v through few dimensions (DeepSeek's MLA).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Latent {
    /// Down, its norm, and up; down alone gives q if there is no rank.
    pub(crate) q_down: String,
    pub(crate) q_norm: String,
    pub(crate) q_up: String,
    pub(crate) q: String,
    pub(crate) q_rank: Number,
    pub(crate) kv_down: String,
    pub(crate) kv_norm: String,
    pub(crate) kv_up: String,
    pub(crate) kv_rank: Number,
    /// Widths of a head: without positions, with, and of v.
    pub(crate) plain: Number,
    pub(crate) turned: Number,
    pub(crate) value: Number,
    /// What the norms add.
    pub(crate) epsilon: Option<Number>,
}

/// Norms on q and k.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadNorms {
    pub(crate) q: String,
    pub(crate) k: String,
    pub(crate) over: Over,
    /// The kind, if it is not the model's.
    pub(crate) norm: Option<Norm>,
    /// Whether they come after positions.
    #[serde(default)]
    pub(crate) late: bool,
    /// On which layers; all if this is missing.
    pub(crate) layers: Option<Rule>,
}

/// What a norm on q or k is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Over {
    /// Each head, with one weight.
    Head,
    /// Each head, each with a weight of its own, `[heads, width]`.
    EachHead,
    /// Each head, each with a tensor of its own, whose name has its number at `{}`.
    ManyHeads,
    /// All heads.
    Whole,
}

/// A limit on what is seen, on some layers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    pub(crate) size: Number,
    pub(crate) layers: Option<Rule>,
}

/// What is added to scores.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Bias {
    /// A slope by head times the position of the key; `scaled` with the scores, and `short` in BF16.
    Alibi { scaled: bool, short: bool },
    /// A weight by head and bucket of the distance, as T5 has them, of all layers.
    Buckets { name: String, count: Number, furthest: usize },
}

/// Queries at a position, counted from `first` (1 if it is missing), are multiplied by
/// `log(floor(position / floor) + 1) * scale + 1`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Temperature {
    pub(crate) floor: Number,
    pub(crate) scale: Number,
    pub(crate) first: Option<Number>,
    pub(crate) layers: Option<Rule>,
}

/// Rotary positions. Scaling is read as transformers writes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rope {
    /// The base, where the configuration has none.
    pub(crate) theta: Option<Number>,
    /// A key with the base of each layer, which comes before all else.
    pub(crate) thetas: Option<String>,
    /// The part of a head that is turned.
    pub(crate) part: Option<Number>,
    /// The width that is turned, instead.
    pub(crate) width: Option<Number>,
    /// Whether pairs are neighbours, and not the halves.
    pub(crate) interleaved: Option<Number>,
    /// Which layers have them; all if this is missing.
    pub(crate) layers: Option<Rule>,
    /// The base, unscaled, of layers with a window.
    pub(crate) local: Option<Number>,
    /// Whether YaRN's `mscale_all_dim` scales attention too.
    #[serde(default)]
    pub(crate) scales_attention: bool,
}

/// The MLP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mlp {
    /// None without a gate.
    pub(crate) gate: Option<String>,
    pub(crate) up: Option<String>,
    /// Gate and up in one, in this order.
    pub(crate) gate_up: Option<String>,
    pub(crate) down: String,
    pub(crate) activation: Word,
    #[serde(default)]
    pub(crate) transposed: bool,
}

/// A mixture of experts in place of the MLP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experts {
    pub(crate) layers: Option<Rule>,
    pub(crate) count: Number,
    /// How many a token goes to.
    pub(crate) top: Number,
    pub(crate) intermediate: Number,
    pub(crate) router: String,
    pub(crate) score: Word,
    /// Whether weights of the chosen are made to sum up to one.
    pub(crate) normalized: Option<Number>,
    /// What weights are multiplied by.
    pub(crate) scale: Option<Number>,
    /// What is added to scores, to choose only.
    pub(crate) correction: Option<String>,
    pub(crate) groups: Option<Groups>,
    /// Whether the weight multiplies what the expert reads.
    #[serde(default)]
    pub(crate) weighs_input: bool,
    /// Names, with `{}` for the expert.
    pub(crate) gate: Option<String>,
    pub(crate) up: Option<String>,
    pub(crate) down: Option<String>,
    pub(crate) stacked: Option<Stacked>,
    /// What some checkpoints call the same.
    pub(crate) also: Option<Also>,
    pub(crate) shared: Option<Shared>,
    pub(crate) activation: Option<Word>,
    /// gpt-oss: the gate is a SiLU of `alpha` times it, one is added to up, and both are cut.
    pub(crate) limit: Option<Limit>,
}

impl Experts {
    /// What gate, up and down of single experts are called. Of a stack that says nothing else: by its place.
    pub(crate) fn names(&self) -> [Option<String>; 3] {
        let own = [&self.gate, &self.up, &self.down];
        match &self.stacked {
            Some(stacked) if own.iter().all(|name| name.is_none()) => {
                let parent =
                    stacked.gate_up.rsplit_once('.').map_or("experts", |(parent, _)| parent);
                ["gate_proj", "up_proj", "down_proj"]
                    .map(|end| Some(format!("{parent}.{{}}.{end}")))
            }
            _ => own.map(Clone::clone),
        }
    }
}

/// How gpt-oss cuts gate and up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    pub(crate) alpha: Number,
    pub(crate) limit: Number,
}

/// Experts are chosen within the best groups of them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Groups {
    pub(crate) count: Number,
    pub(crate) top: Number,
    /// How many of a group's scores are summed up for it.
    pub(crate) best: usize,
}

/// All experts in tensors of three dimensions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stacked {
    pub(crate) gate_up: String,
    pub(crate) down: String,
    /// What their biases are called.
    pub(crate) biases: Option<[String; 2]>,
    /// Whether each expert is stored by columns.
    #[serde(default)]
    pub(crate) transposed: bool,
    /// Whether rows of gate and up alternate.
    #[serde(default)]
    pub(crate) interleaved: bool,
}

/// Other names of a router and of single experts, with `{}` for the expert.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Also {
    pub(crate) router: String,
    pub(crate) gate: String,
    pub(crate) up: String,
    pub(crate) down: String,
}

/// An expert that every token goes to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shared {
    pub(crate) gate: Option<String>,
    pub(crate) up: Option<String>,
    pub(crate) gate_up: Option<String>,
    pub(crate) down: String,
    pub(crate) intermediate: Number,
    /// How many times as wide it is.
    pub(crate) count: Option<Number>,
    /// A layer of one output, whose sigmoid multiplies what it gives.
    pub(crate) switch: Option<String>,
}

/// From states to logits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Without `.weight`; the first that is there.
    pub(crate) names: Vec<String>,
    /// What logits are multiplied by.
    pub(crate) scale: Option<Number>,
    /// Logits go through `cap * tanh(logit / cap)`.
    pub(crate) cap: Option<Number>,
}
