//! A model as one GGUF file: llama.cpp's names, numbers and tokenizer in its header, then its tensors.
//!
//! For models of the Llama family. Vectors are f32.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ProduceError;
use super::method::announce;
use super::outline::{Content, From, Layers, Plan};
use super::recipe::{Method, Recipe};
use crate::format::dtype::{Dtype, Shape};
use crate::pack::model::{Part, PartKind};
use crate::quantize::lm::gguf as names;
use crate::quantize::source::ModelSource;

const ALIGNMENT: u64 = 32;
/// The file.
const FILE: &str = "model.gguf";
/// A model that can be written so.
#[derive(Debug, Clone)]
pub(super) struct Family<'a> {
    config: &'a Value,
    name: &'static str,
}

impl<'a> Family<'a> {
    /// What a config says; refuses what is not known here.
    pub(super) fn of(config: &'a Value) -> Result<Self, ProduceError> {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
        let name = match kind {
            "llama" | "mistral" => "llama",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            _ => return Err(ProduceError::GgufModel(kind.to_owned())),
        };
        let scaling = config.get("rope_scaling").filter(|scaling| !scaling.is_null());
        let scaling = scaling.or_else(|| config.get("rope_parameters"));
        let scaled = scaling.and_then(|scaling| {
            let kind = scaling.get("rope_type").or_else(|| scaling.get("type"))?;
            kind.as_str().filter(|kind| *kind != "default").map(str::to_owned)
        });
        if let Some(kind) = scaled {
            return Err(ProduceError::GgufPositions(kind));
        }
        Ok(Self { config, name })
    }

    /// The name of a tensor there.
    pub(super) fn rename(&self, name: &str) -> Result<String, ProduceError> {
        names::renamed(name).ok_or_else(|| ProduceError::GgufName(name.to_owned()))
    }

    /// How many heads the rows of a weight are permuted in; none for those that are not.
    pub(super) fn heads(&self, name: &str) -> Option<u64> {
        names::heads(self.config, name)
    }

    fn number(&self, key: &'static str) -> Result<u64, ProduceError> {
        let number = self.config.get(key).and_then(Value::as_u64);
        number.ok_or(ProduceError::Number(key))
    }
}

/// The type of a tensor, by its number there.
fn kind(recipe: &Recipe, from: From, dtype: Dtype) -> Option<u32> {
    match (from, recipe.method, dtype) {
        (From::Product(..), Method::Q4_0, _) => Some(2),
        (From::Product(..), Method::Q8_0, _) => Some(8),
        (From::Product(..), ..) => Some(12),
        (_, _, Dtype::F32) => Some(0),
        (_, _, Dtype::F16) => Some(1),
        (_, _, Dtype::BF16) => Some(30),
        _ => None,
    }
}

/// Plans the file, beside the model's files that are no weights.
pub(super) fn plan(
    checkpoint: &ModelSource,
    layers: &Layers,
    recipe: &Recipe,
    mut files: BTreeMap<String, Content>,
    left_out: Vec<String>,
) -> Result<Plan, ProduceError> {
    let family = Family::of(checkpoint.config()?)?;
    let mut products = Vec::new();
    let mut infos = Vec::new();
    let mut parts = Vec::new();
    let mut from = Vec::new();
    let mut at = 0;
    for (number, tensor) in checkpoint.tensors().iter().enumerate() {
        let name = family.rename(&tensor.name)?;
        let dims = tensor.shape.dims();
        let product = layers.quantized.iter().position(|own| own.tensor == number);
        let remade = layers.remade.iter().position(|own| own.tensor == number);
        let (source, dtype, stored) = match (product, remade) {
            (Some(product), _) => {
                let own = &layers.quantized[product];
                let [rows, columns] = *dims else {
                    return Err(ProduceError::Defect(name));
                };
                let becomes = announce(recipe, own.float, [rows, columns], 0)
                    .map_err(ProduceError::layer(&tensor.name))?;
                let stored = becomes.first().map(|(_, _, dims)| dims.clone());
                let stored = stored.ok_or_else(|| ProduceError::Defect(name.clone()))?;
                products.push(becomes);
                (From::Product(product, 0), Dtype::U8, stored)
            }
            (None, None) if family.heads(&tensor.name).is_some() && dims.len() > 1 => {
                return Err(ProduceError::GgufRows(tensor.name.clone()));
            }
            (None, Some(remade)) => (From::Remade(remade), Dtype::F32, dims.to_vec()),
            (None, None) => (From::Model(number), tensor.dtype, dims.to_vec()),
        };
        let unknown = || {
            let (name, dtype) = (tensor.name.clone(), tensor.dtype);
            ProduceError::GgufType { name, dtype }
        };
        let kind = kind(recipe, source, dtype).ok_or_else(unknown)?;
        let shape = Shape::new(stored).ok_or_else(unknown)?;
        let len = shape.byte_len(dtype).ok_or_else(unknown)?;
        infos.push((name.clone(), dims.to_vec(), kind, at));
        parts.push(Part { offset: at, len, kind: PartKind::Tensor { name, dtype, shape } });
        from.push(source);
        at += len;
        let padding = at.next_multiple_of(ALIGNMENT) - at;
        if padding > 0 {
            parts.push(Part { offset: at, len: padding, kind: PartKind::Content });
            from.push(From::Zeros(padding));
            at += padding;
        }
    }
    let header = header(&family, checkpoint, recipe, &infos)?;
    let begin = header.len() as u64;
    parts.iter_mut().for_each(|part| part.offset += begin);
    parts.insert(0, Part { offset: 0, len: begin, kind: PartKind::Content });
    files.insert(FILE.to_owned(), Content::Tensors { header, parts, from });
    Ok(Plan { files, products, left_out })
}

/// Writes keys and values.
#[derive(Default)]
struct Values {
    bytes: Vec<u8>,
    count: u64,
}

impl Values {
    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    fn u32(&mut self, key: &str, value: u64) {
        self.key(key, 4);
        self.bytes.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.key(key, 6);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.bytes, value);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key, 9);
        self.bytes.extend(8_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| text(&mut self.bytes, value));
    }

    fn i32s(&mut self, key: &str, values: &[i32]) {
        self.key(key, 9);
        self.bytes.extend(5_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value.as_bytes());
}

/// The header, padded to where tensors begin.
fn header(
    family: &Family<'_>,
    checkpoint: &ModelSource,
    recipe: &Recipe,
    infos: &[(String, Vec<u64>, u32, u64)],
) -> Result<Vec<u8>, ProduceError> {
    let mut values = Values::default();
    let config = family.config;
    let float = |key: &str| config.get(key).and_then(Value::as_f64);
    let arch = family.name;
    let own = |key: &str| format!("{arch}.{key}");
    let heads = family.number("num_attention_heads")?.max(1);
    let width = family.number("hidden_size")?;
    let head = config.get("head_dim").and_then(Value::as_u64).unwrap_or(width / heads);
    let key_heads = config.get("num_key_value_heads").and_then(Value::as_u64).unwrap_or(heads);
    let base = config.get("rope_parameters").and_then(|rope| rope.get("rope_theta"));
    let base = base.and_then(Value::as_f64).or_else(|| float("rope_theta")).unwrap_or(10_000.0);
    values.text("general.architecture", arch);
    values.u32(
        "general.file_type",
        match recipe.method {
            Method::Q4_0 => 2,
            Method::Q8_0 => 7,
            _ => 14,
        },
    );
    values.u32("general.quantization_version", 2);
    values.u32("general.alignment", ALIGNMENT);
    for (key, value) in [
        ("block_count", family.number("num_hidden_layers")?),
        ("context_length", family.number("max_position_embeddings")?),
        ("embedding_length", width),
        ("feed_forward_length", family.number("intermediate_size")?),
        ("attention.head_count", heads),
        ("attention.head_count_kv", key_heads),
        ("attention.key_length", head),
        ("attention.value_length", head),
        ("rope.dimension_count", head),
        ("vocab_size", family.number("vocab_size")?),
    ] {
        values.u32(&own(key), value);
    }
    values.f32(&own("rope.freq_base"), base);
    let epsilon = float("rms_norm_eps").unwrap_or(1e-6);
    values.f32(&own("attention.layer_norm_rms_epsilon"), epsilon);
    tokenizer(checkpoint, config, &mut values)?;
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((infos.len() as u64).to_le_bytes());
    bytes.extend(values.count.to_le_bytes());
    bytes.append(&mut values.bytes);
    for (name, dims, kind, offset) in infos {
        text(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().rev().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(bytes)
}

/// The tokenizer, if it is one of byte pairs; another is left to the files that lie beside.
fn tokenizer(
    checkpoint: &ModelSource,
    config: &Value,
    values: &mut Values,
) -> Result<(), ProduceError> {
    let Some(tokenizer) = checkpoint.json("tokenizer.json")? else { return Ok(()) };
    let model = tokenizer.get("model");
    let part = |key: &str| model.and_then(|model| model.get(key));
    let kind = part("type").and_then(Value::as_str);
    let bytes =
        tokenizer.get("pre_tokenizer").is_some_and(|pre| pre.to_string().contains("ByteLevel"));
    let vocab = part("vocab").and_then(Value::as_object);
    let (Some("BPE"), true, Some(vocab)) = (kind, bytes, vocab) else { return Ok(()) };
    let mut tokens = BTreeMap::new();
    for (token, id) in vocab {
        tokens.extend(id.as_u64().map(|id| (id, (token.clone(), 1))));
    }
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let id = token.get("id").and_then(Value::as_u64);
        tokens.extend(id.map(|id| (id, (content.to_owned(), if special { 3 } else { 4 }))));
    }
    // As many tokens as there are rows of the embedding.
    let last = tokens.last_key_value().map_or(0, |(id, _)| id + 1);
    let size = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0).max(last);
    let size = size.min(1 << 24);
    let token = |id| tokens.get(&id).cloned().unwrap_or_else(|| (format!("[PAD{id}]"), 5));
    let (texts, kinds): (Vec<String>, Vec<i32>) = (0..size).map(token).unzip();
    let merges = part("merges").and_then(Value::as_array);
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => {
            let pair: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
            Some(pair.join(" "))
        }
        _ => None,
    };
    let merges: Vec<String> = merges.into_iter().flatten().filter_map(merge).collect();
    values.text("tokenizer.ggml.model", "gpt2");
    values.text("tokenizer.ggml.pre", "default");
    values.texts("tokenizer.ggml.tokens", &texts);
    values.i32s("tokenizer.ggml.token_type", &kinds);
    values.texts("tokenizer.ggml.merges", &merges);
    for (key, name) in
        [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
    {
        let id = config.get(key).map(|id| id.get(0).unwrap_or(id));
        if let Some(id) = id.and_then(Value::as_u64) {
            values.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_models_are_written() {
        let of = |text: &str| {
            let config = serde_json::from_str::<Value>(text).unwrap();
            Family::of(&config).map(|family| family.name).map_err(|error| error.to_string())
        };
        assert_eq!(of(r#"{"model_type":"mistral"}"#), Ok("llama"));
        assert_eq!(of(r#"{"model_type":"qwen2","rope_scaling":null}"#), Ok("qwen2"));
        assert!(of(r#"{"model_type":"bert"}"#).unwrap_err().contains("bert"));
        let scaled = r#"{"model_type":"llama","rope_scaling":{"rope_type":"llama3"}}"#;
        assert!(of(scaled).unwrap_err().contains("llama3"));
    }
}
