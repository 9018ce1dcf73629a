//! The descriptions of families, and how they are read. Pure.
//!
//! A description is a JSON file of `families/`: what it leaves out is as in the one that it is `like`, what it says
//! `when` the configuration says something is put over it. Everything else about a model follows from it and from
//! `config.json`; no code knows a family.

use serde_json::{Map, Value};

use super::expression::Condition;
use super::family::Family;
use super::{ConfigError, LmError};

macro_rules! families {
    ($($name:literal),* $(,)?) => {
        /// The descriptions, by `model_type`.
        const FAMILIES: &[(&str, &str)] = &[$(($name, include_str!(concat!("families/", $name, ".json")))),*];
    };
}
families!(
    "arcee",
    "bert",
    "bloom",
    "camembert",
    "cohere",
    "cohere2",
    "cwm",
    "deepseek_v2",
    "deepseek_v3",
    "distilbert",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone",
    "exaone4",
    "exaone_moe",
    "falcon",
    "flex_olmo",
    "flint",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granite_swa",
    "granitemoe",
    "granitemoe_swa",
    "granitemoeshared",
    "helium",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hy_v3",
    "hyperclovax",
    "internlm3",
    "iquestcoder",
    "jais2",
    "llama",
    "llama4_text",
    "mellum",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "mpnet",
    "nemotron",
    "nomic_bert",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_5_vl",
    "qwen2_5_vl_text",
    "qwen2_moe",
    "qwen2_vl",
    "qwen2_vl_text",
    "qwen3",
    "qwen3_moe",
    "qwen3_vl_text",
    "roberta",
    "sarvam_mla",
    "sarvam_moe",
    "seed_oss",
    "smollm3",
    "solar_open",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "xlm-roberta",
    "youtu",
);

/// Where a model may bring a description of its own: this key of its `config.json`.
const OWN: &str = "tenpak_family";
/// The most descriptions that one is like, one after the other.
const DEPTH: usize = 8;

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
        // Of a model of several media, the part about text.
        let text = text(config).filter(|_| own.is_none());
        let (name, config) = match text {
            Some(text)
                if described(&kind(&text)).is_some() || described(&kind(config)).is_none() =>
            {
                (kind(&text), text)
            }
            _ => (kind(config), config.clone()),
        };
        let found = match own {
            Some(own) => own.clone(),
            None => described(&name).ok_or_else(|| LmError::Architecture {
                name: name.clone(),
                why: unknown(&config),
            })?,
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
