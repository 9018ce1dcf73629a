//! What GGUF calls the tensors of models whose blocks are called as Llama's are, and in which order it has their rows.
//! Pure.

use serde_json::Value;

pub use crate::gguf::names::source_row;
use crate::gguf::names::{Change, Family};

/// The family that a `config.json` names; if it is none that is known, one whose parts are called as Llama's are.
fn family(config: &Value) -> Option<Family> {
    let model = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    Family::of_model(model).or_else(|| Family::of_model("qwen3"))
}

/// The tensor that GGUF calls so, of models whose parts are called as Llama's are.
pub fn original(name: &str) -> Option<String> {
    let found = Family::of_model("qwen3")?.originals(name, &[], [1, 1])?;
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
        assert_eq!(original("blk.2.attn_q.bias").unwrap(), "model.layers.2.self_attn.q_proj.bias");
    }
}
