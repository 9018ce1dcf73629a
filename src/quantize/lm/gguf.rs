//! What GGUF calls the tensors of models of the Llama family, and in which order it has their rows. Pure.
//!
//! Query and key weights of Llama and Mistral have their rows in another order there: GGUF rotates neighbouring
//! pairs, transformers the halves of a head.

use serde_json::Value;

/// What the layers outside of blocks are called, and there.
const OUTSIDE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
/// What each part of a block is called, and there; of two that are called alike the first.
const BLOCK: [(&str, &str); 13] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_up_proj", "ffn_up"),
];

/// What GGUF calls a tensor; `None` if it has no name for it.
pub fn renamed(name: &str) -> Option<String> {
    let (layer, end) = name.rsplit_once('.')?;
    if let Some((_, there)) = OUTSIDE.iter().find(|(ours, _)| *ours == layer) {
        return Some(format!("{there}.{end}"));
    }
    let (block, part) = layer.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, there) = BLOCK.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("blk.{block}.{there}.{end}"))
}

/// The tensor that GGUF calls so.
pub fn original(name: &str) -> Option<String> {
    let (layer, end) = name.rsplit_once('.')?;
    if let Some((ours, _)) = OUTSIDE.iter().find(|(_, there)| *there == layer) {
        return Some(format!("{ours}.{end}"));
    }
    let (block, part) = layer.strip_prefix("blk.")?.split_once('.')?;
    let (ours, _) = BLOCK.iter().find(|(_, there)| *there == part)?;
    Some(format!("model.layers.{block}.{ours}.{end}"))
}

/// Whether GGUF has rows of such a model, by its `model_type`, in another order.
pub fn is_permuted(model_type: &str) -> bool {
    matches!(model_type, "llama" | "mistral")
}

/// How many heads the rows of a weight are permuted in there, by the model's `config.json`; none for those that
/// are not.
pub fn heads(config: &Value, name: &str) -> Option<u64> {
    let (query, key) = (name.contains(".self_attn.q_proj."), name.contains(".self_attn.k_proj."));
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let heads = number("num_attention_heads");
    let own = if key { number("num_key_value_heads").or(heads) } else { heads };
    own.filter(|heads| is_permuted(kind) && (query || key) && *heads > 0)
}

/// The row of the model's weight that row `row` of the permuted one is, in heads of `size` rows.
pub fn source_row(row: usize, size: usize) -> usize {
    let (head, within) = (row / size, row % size);
    head * size + within % 2 * (size / 2) + within / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved() {
        // Two heads of six rows: halves become pairs.
        let rows: Vec<usize> = (0..12).map(|row| source_row(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn names_go_there_and_back() {
        for (ours, there) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(renamed(ours).as_deref(), Some(there));
            assert_eq!(original(there).as_deref(), Some(ours));
        }
        assert_eq!(
            renamed("model.layers.0.mlp.gate_up_proj.weight").unwrap(),
            "blk.0.ffn_up.weight"
        );
        for name in ["weight", "model.layers.weight", "encoder.layer.0.output.weight"] {
            assert_eq!(renamed(name), None);
        }
        for name in ["weight", "blk.weight", "blk.0.nothing.weight"] {
            assert_eq!(original(name), None);
        }
    }
}
