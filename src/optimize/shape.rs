//! What of a model decides how long it takes: its dimensions, and its bytes as they are stored. Pure.

use serde_json::Value;

/// A model's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelShape {
    /// Blocks.
    pub layers: f64,
    /// Width of the residual stream.
    pub hidden: f64,
    /// Width of all queries.
    pub queries: f64,
    /// Width of all keys, which is that of all values.
    pub keys: f64,
    /// Heads of keys: a model is not split further without keeping them twice.
    pub kv_heads: f64,
    /// Rows of the head.
    pub vocabulary: f64,
}

/// A model as it is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// Weights of the linear layers of blocks.
    pub weights: f64,
    /// Their bytes, scales and zero points included.
    pub bytes: f64,
    /// Bytes of all tensors.
    pub all_bytes: f64,
    /// Bytes of an element of the head.
    pub head_element: f64,
}

impl ModelShape {
    /// Out of `config.json`, in the names that transformers uses for nearly all language models; none where
    /// they are not there.
    pub fn of(config: &Value) -> Option<Self> {
        // Models that also see have the language model's numbers apart.
        let config = config.get("text_config").filter(|own| own.is_object()).unwrap_or(config);
        let number = |key: &str| {
            let found = config.get(key)?.as_u64().filter(|own| (1..=1 << 24).contains(own))?;
            Some(found as f64)
        };
        let (hidden, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        let head = number("head_dim").unwrap_or(hidden / heads);
        let kv_heads = number("num_key_value_heads").unwrap_or(heads);
        Some(Self {
            layers: number("num_hidden_layers")?,
            hidden,
            queries: heads * head,
            keys: kv_heads * head,
            kv_heads,
            vocabulary: number("vocab_size")?,
        })
    }

    /// Bytes that a token of context takes in the cache, at 16 bits.
    pub fn cache(&self) -> f64 {
        self.layers * 2.0 * self.keys * 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dimensions_are_read_where_they_are() {
        let config = json!({"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2,
            "num_hidden_layers": 3, "vocab_size": 2048});
        let shape = ModelShape::of(&config).unwrap();
        assert_eq!((shape.queries, shape.keys, shape.cache()), (256.0, 64.0, 768.0));
        let seen = json!({ "text_config": config });
        assert_eq!(ModelShape::of(&seen), Some(shape));
        assert_eq!(ModelShape::of(&json!({"hidden_size": 256})), None);
        assert_eq!(ModelShape::of(&json!({"hidden_size": -1})), None);
    }
}
