//! What a description of a family says, and how it is read. Pure.
//!
//! A description is a JSON file of `families/`: what it leaves out is as in the one that it is `like`, what it says
//! `when` the configuration says something is put over it. Everything else about a model follows from it and from
//! `config.json`; no code knows a family.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::expression::{Condition, Number, Rule, Word};
use super::{ConfigError, LmError};

macro_rules! families {
    ($($name:literal),* $(,)?) => {
        /// The descriptions, by `model_type`.
        const FAMILIES: &[(&str, &str)] = &[$(($name, include_str!(concat!("families/", $name, ".json")))),*];
    };
}
families!(
    "arcee", "bert", "bloom", "camembert", "cohere", "cohere2", "deepseek_v2", "deepseek_v3",
    "distilbert", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj",
    "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "llama",
    "llama4_text", "ministral", "ministral3", "mistral", "mixtral", "mpnet", "nemotron",
    "nomic_bert", "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi", "phi3", "phimoe", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "roberta", "seed_oss", "smollm3", "stablelm", "starcoder2",
    "xlm-roberta",
);

/// Where a model may bring a description of its own: this key of its `config.json`.
const OWN: &str = "tenpak_family";
/// The most descriptions that one is like, one after the other.
const DEPTH: usize = 8;

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
    #[serde(default)]
    pub(crate) rope: Option<Rope>,
    pub(crate) mlp: Mlp,
    #[serde(default)]
    pub(crate) experts: Option<Experts>,
    /// What the output of attention and MLP is multiplied by.
    #[serde(default)]
    pub(crate) residual: Option<Number>,
    #[serde(default)]
    pub(crate) head: Option<Head>,
    /// A piece of this model that is not described.
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) positions: Option<String>,
    /// The row of the first position.
    #[serde(default)]
    pub(crate) offset: Option<Number>,
    /// Token types, of which all tokens have the first.
    #[serde(default)]
    pub(crate) types: Option<String>,
    /// How many of them there are.
    #[serde(default)]
    pub(crate) type_count: Option<Number>,
    #[serde(default)]
    pub(crate) norm: Option<String>,
    /// What tokens' rows are multiplied by.
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) attention: Option<String>,
    /// Of what attention gives, before it is added.
    #[serde(default)]
    pub(crate) attention_out: Option<String>,
    /// Of the sum.
    #[serde(default)]
    pub(crate) attention_sum: Option<String>,
    /// Of what the MLP reads; in parallel blocks, that of attention if this is missing.
    #[serde(default)]
    pub(crate) mlp: Option<String>,
    /// Of what the MLP gives, before it is added.
    #[serde(default)]
    pub(crate) mlp_out: Option<String>,
    /// Of the sum.
    #[serde(default)]
    pub(crate) mlp_sum: Option<String>,
    /// Of what the head reads.
    #[serde(default)]
    pub(crate) last: Option<String>,
}

/// Attention.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attention {
    #[serde(default)]
    pub(crate) q: Option<String>,
    #[serde(default)]
    pub(crate) k: Option<String>,
    #[serde(default)]
    pub(crate) v: Option<String>,
    /// q, k and v in one.
    #[serde(default)]
    pub(crate) qkv: Option<Fused>,
    /// q, k and v through few dimensions.
    #[serde(default)]
    pub(crate) latent: Option<Latent>,
    pub(crate) o: String,
    /// Whether weights are stored by columns.
    #[serde(default)]
    pub(crate) transposed: bool,
    #[serde(default)]
    pub(crate) norms: Option<HeadNorms>,
    /// q, k and v are cut to this magnitude.
    #[serde(default)]
    pub(crate) clip: Option<Number>,
    /// Of scores; one over the root of a head's width if this is missing.
    #[serde(default)]
    pub(crate) scale: Option<Number>,
    /// Whether scores are divided by the number of the layer, from one on.
    #[serde(default)]
    pub(crate) by_layer: bool,
    /// Scores go through `cap * tanh(score / cap)`.
    #[serde(default)]
    pub(crate) cap: Option<Number>,
    /// Logits that take part in the softmax of each head, and nothing else.
    #[serde(default)]
    pub(crate) sinks: Option<String>,
    /// Keys that a query sees back.
    #[serde(default)]
    pub(crate) window: Option<Window>,
    /// Keys of the same chunk are seen.
    #[serde(default)]
    pub(crate) chunk: Option<Window>,
    #[serde(default)]
    pub(crate) bias: Option<Bias>,
    /// Queries grow with the logarithm of their position.
    #[serde(default)]
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
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) norm: Option<Norm>,
    /// Whether they come after positions.
    #[serde(default)]
    pub(crate) late: bool,
    /// On which layers; all if this is missing.
    #[serde(default)]
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
    #[serde(default)]
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

/// Queries at a position are multiplied by `log(floor((position + 1) / floor) + 1) * scale + 1`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Temperature {
    pub(crate) floor: Number,
    pub(crate) scale: Number,
    #[serde(default)]
    pub(crate) layers: Option<Rule>,
}

/// Rotary positions. Scaling is read as transformers writes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rope {
    /// The base, where the configuration has none.
    #[serde(default)]
    pub(crate) theta: Option<Number>,
    /// The part of a head that is turned.
    #[serde(default)]
    pub(crate) part: Option<Number>,
    /// The width that is turned, instead.
    #[serde(default)]
    pub(crate) width: Option<Number>,
    /// Whether pairs are neighbours, and not the halves.
    #[serde(default)]
    pub(crate) interleaved: Option<Number>,
    /// Which layers have them; all if this is missing.
    #[serde(default)]
    pub(crate) layers: Option<Rule>,
    /// The base, unscaled, of layers with a window.
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) gate: Option<String>,
    #[serde(default)]
    pub(crate) up: Option<String>,
    /// Gate and up in one, in this order.
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) layers: Option<Rule>,
    pub(crate) count: Number,
    /// How many a token goes to.
    pub(crate) top: Number,
    pub(crate) intermediate: Number,
    pub(crate) router: String,
    pub(crate) score: Word,
    /// Whether weights of the chosen are made to sum up to one.
    #[serde(default)]
    pub(crate) normalized: Option<Number>,
    /// What weights are multiplied by.
    #[serde(default)]
    pub(crate) scale: Option<Number>,
    /// What is added to scores, to choose only.
    #[serde(default)]
    pub(crate) correction: Option<String>,
    #[serde(default)]
    pub(crate) groups: Option<Groups>,
    /// Whether the weight multiplies what the expert reads.
    #[serde(default)]
    pub(crate) weighs_input: bool,
    /// Names, with `{}` for the expert.
    #[serde(default)]
    pub(crate) gate: Option<String>,
    #[serde(default)]
    pub(crate) up: Option<String>,
    #[serde(default)]
    pub(crate) down: Option<String>,
    #[serde(default)]
    pub(crate) stacked: Option<Stacked>,
    #[serde(default)]
    pub(crate) shared: Option<Shared>,
    #[serde(default)]
    pub(crate) activation: Option<Word>,
    /// gpt-oss: the gate is a SiLU of `alpha` times it, one is added to up, and both are cut.
    #[serde(default)]
    pub(crate) limit: Option<Limit>,
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
    #[serde(default)]
    pub(crate) biases: Option<[String; 2]>,
    /// Whether each expert is stored by columns.
    #[serde(default)]
    pub(crate) transposed: bool,
    /// Whether rows of gate and up alternate.
    #[serde(default)]
    pub(crate) interleaved: bool,
}

/// An expert that every token goes to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shared {
    #[serde(default)]
    pub(crate) gate: Option<String>,
    #[serde(default)]
    pub(crate) up: Option<String>,
    #[serde(default)]
    pub(crate) gate_up: Option<String>,
    pub(crate) down: String,
    pub(crate) intermediate: Number,
    /// How many times as wide it is.
    #[serde(default)]
    pub(crate) count: Option<Number>,
    /// A layer of one output, whose sigmoid multiplies what it gives.
    #[serde(default)]
    pub(crate) switch: Option<String>,
}

/// From states to logits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Without `.weight`; the first that is there.
    pub(crate) names: Vec<String>,
    /// What logits are multiplied by.
    #[serde(default)]
    pub(crate) scale: Option<Number>,
    /// Logits go through `cap * tanh(logit / cap)`.
    #[serde(default)]
    pub(crate) cap: Option<Number>,
}

/// The `model_type` of every family that is described.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

impl Family {
    /// The description of a model, by its `config.json`, and the part of that which is about text.
    ///
    /// # Errors
    /// If there is none, or it makes no sense.
    pub(crate) fn of(config: &Value) -> Result<(Self, String, Value), LmError> {
        let kind = |config: &Value| {
            config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let own = config.get(OWN).filter(|own| own.is_object());
        let name = kind(config);
        let (name, config) = match own.is_some() || described(&name).is_some() {
            true => (name, config.clone()),
            false => match text(config) {
                Some(text) => (kind(&text), text),
                None => (name, config.clone()),
            },
        };
        let found = match own {
            Some(own) => own.clone(),
            None => described(&name)
                .ok_or_else(|| LmError::Architecture { name: name.clone(), why: unknown(&config) })?,
        };
        let mut whole = inherited(found, 0)?;
        apply(&mut whole, &config)?;
        let family: Self = serde_json::from_value(whole)
            .map_err(|error| ConfigError::Description(name.clone(), error.to_string()))?;
        match family.missing {
            Some(what) => Err(LmError::Piece(what)),
            None => Ok((family, name, config)),
        }
    }
}

/// The description of this name, as it is written.
fn described(name: &str) -> Option<Value> {
    let (_, text) = FAMILIES.iter().find(|(own, _)| *own == name)?;
    serde_json::from_str(text).ok()
}

/// Of a model of several media, what it says of text: it may leave out there what it says of all.
fn text(config: &Value) -> Option<Value> {
    let mut text = ["text_config", "llm_config", "language_config", "thinker_config"]
        .iter()
        .find_map(|key| config.get(key).filter(|part| part.is_object()))?
        .clone();
    if let Some(inner) = self::text(&text) {
        return Some(inner);
    }
    let of_all = config.get("tie_word_embeddings");
    if let (Some(text), Some(tied)) = (text.as_object_mut(), of_all) {
        text.entry("tie_word_embeddings").or_insert_with(|| tied.clone());
    }
    Some(text)
}

/// A description over the one that it is like. What that says `when` comes first.
fn inherited(own: Value, depth: usize) -> Result<Value, ConfigError> {
    let Some(like) = own.get("like").and_then(Value::as_str) else { return Ok(own) };
    let wrong = || ConfigError::Description(like.to_owned(), "there is no such family".to_owned());
    let parent = described(like).filter(|_| depth < DEPTH).ok_or_else(wrong)?;
    let mut whole = inherited(parent, depth + 1)?;
    let mut own = own;
    if let Some(own) = own.as_object_mut() {
        own.remove("like");
        let cases = own.remove("when");
        if let (Some(Value::Array(mut cases)), Some(whole)) = (cases, whole.as_object_mut()) {
            match whole.entry("when").or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(all) => all.append(&mut cases),
                other => *other = Value::Array(cases),
            }
        }
    }
    merge(&mut whole, own);
    Ok(whole)
}

/// Puts over a description what it says `when` the configuration is as it is.
fn apply(whole: &mut Value, config: &Value) -> Result<(), ConfigError> {
    let cases = whole.as_object_mut().and_then(|whole| whole.remove("when"));
    for case in cases.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let wrong = |error: serde_json::Error| {
            ConfigError::Description("when".to_owned(), error.to_string())
        };
        let condition: Condition =
            serde_json::from_value(case.get("if").cloned().unwrap_or_default()).map_err(wrong)?;
        let branch = if condition.holds(config) { "then" } else { "else" };
        if let Some(over) = case.get(branch) {
            merge(whole, over.clone());
        }
    }
    Ok(())
}

/// Puts objects over each other; null takes away. What is a number, a word or a rule is one whole.
fn merge(under: &mut Value, over: Value) {
    let is_whole = |over: &Map<String, Value>| {
        ["key", "list", "within", "every", "from", "to"].iter().any(|key| over.contains_key(*key))
    };
    match (under, over) {
        (Value::Object(under), Value::Object(over)) if !is_whole(&over) => {
            for (key, value) in over {
                match value {
                    Value::Null => drop(under.remove(&key)),
                    value => merge(under.entry(key).or_insert(Value::Object(Map::new())), value),
                }
            }
        }
        (under, over) => *under = over,
    }
}

/// Pieces that no description has, by what of a configuration tells of them.
const PIECES: [(&str, &str); 10] = [
    ("ssm", "a state space (Mamba)"),
    ("mamba", "a state space (Mamba)"),
    ("linear_attention", "attention with a linear recurrence"),
    ("linear_conv", "attention with a linear recurrence"),
    ("lru_width", "a recurrent block"),
    ("rwkv", "attention with a linear recurrence"),
    ("conv_l_cache", "a short convolution"),
    ("index_topk", "attention to keys that an indexer chooses"),
    ("encoder_layers", "attention from a decoder to an encoder"),
    ("d_kv", "attention from a decoder to an encoder"),
];

/// Which piece of an unknown family has no description, if its configuration tells.
fn unknown(config: &Value) -> String {
    let text = config.to_string().to_lowercase();
    match PIECES.iter().find(|(key, _)| text.contains(key)) {
        Some((_, what)) => format!("; {what} is not described"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_description_can_be_read_and_has_a_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/quantize/lm/families");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(".json").to_owned())
            .collect();
        files.sort();
        let mut known: Vec<&str> = families().collect();
        known.sort_unstable();
        assert_eq!(files, known);
        for (name, text) in FAMILIES {
            assert!(text.lines().count() <= 40, "{name} is long");
            let whole: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            inherited(whole, 0).unwrap_or_else(|e| panic!("{name}: {e}"));
            let found = Family::of(&json!({ "model_type": name }));
            assert!(found.is_ok() || matches!(found, Err(LmError::Piece(_))), "{name}: {found:?}");
        }
    }

    #[test]
    fn null_takes_away_and_objects_are_put_over_each_other() {
        let mut whole = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 5});
        merge(&mut whole, json!({"a": {"c": 3, "f": {"g": 4}}, "d": [2], "e": null}));
        assert_eq!(whole, json!({"a": {"b": 1, "c": 3, "f": {"g": 4}}, "d": [2]}));
        merge(&mut whole, json!({"a": {"key": 3}}));
        assert_eq!(whole, json!({"a": {"key": 3}, "d": [2]}));
    }
}
