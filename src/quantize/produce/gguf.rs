//! A model as one GGUF file: llama.cpp's names, numbers and tokenizer in its header, then its tensors.
//!
//! For the families that `gguf::names` knows. What is not quantized is f32 where it is a vector and f16 where it is a
//! matrix, which every engine takes.

use std::collections::{BTreeMap, HashMap};

use super::ProduceError;
pub(super) use super::gguf_header::Family;
use super::gguf_header::{ALIGNMENT, header};
use super::gguf_positions::factors;
use super::method::{Announced, block};
use super::outline::{Content, From, Layers, Plan};
use super::recipe::Recipe;
use crate::dequant::Float;
use crate::format::dtype::{Dtype, Shape};
use crate::pack::model::{Part, PartKind};
use crate::quantize::source::ModelSource;

/// The file: the end of its name is what engines look for a quantization by.
fn file(recipe: &Recipe) -> String {
    format!("model-{}.gguf", block(recipe.method).name().to_uppercase())
}

/// The type of a tensor, by its number there.
fn kind(recipe: &Recipe, layers: &Layers, from: From, dtype: Dtype) -> Option<u32> {
    match (from, dtype) {
        (From::Product(own, _), _) => {
            let own = layers.quantized.get(own)?.recipe(recipe);
            Some(block(own.method).number())
        }
        (_, Dtype::F32) => Some(0),
        (_, Dtype::F16) => Some(1),
        _ => None,
    }
}

/// The tensors of the file, one behind the other.
#[derive(Default)]
struct Table {
    /// Name, shape, type and place of each.
    infos: Vec<(String, Vec<u64>, u32, u64)>,
    parts: Vec<Part>,
    from: Vec<From>,
    at: u64,
}

/// A tensor of the file before it has a place: where its bytes come from, the type and shape as which they are
/// stored, and the type by its number.
struct Made {
    from: From,
    dtype: Dtype,
    stored: Vec<u64>,
    kind: u32,
}

impl Table {
    /// Adds a tensor of shape `dims`; `None` if it is too large.
    fn push(&mut self, name: String, dims: Vec<u64>, made: Made) -> Option<()> {
        let shape = Shape::new(made.stored)?;
        let len = shape.byte_len(made.dtype)?;
        self.infos.push((name.clone(), dims, made.kind, self.at));
        let kind = PartKind::Tensor { name, dtype: made.dtype, shape };
        self.parts.push(Part { offset: self.at, len, kind });
        self.from.push(made.from);
        self.at += len;
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        if padding > 0 {
            self.parts.push(Part { offset: self.at, len: padding, kind: PartKind::Content });
            self.from.push(From::Zeros(padding));
            self.at += padding;
        }
        Some(())
    }
}

/// What is stacked in one tensor: the experts of a block, or norms of single heads.
#[derive(Default)]
struct Stack {
    /// By their places.
    members: BTreeMap<u64, Made>,
    /// The shape of each.
    dims: Vec<u64>,
}

impl Stack {
    /// All of them as one tensor, and its shape; `None` unless there are `count`, all alike.
    fn joined(self, count: u64, stacks: &mut Vec<Vec<From>>) -> Option<(Vec<u64>, Made)> {
        let complete = self.members.keys().copied().eq(0..count);
        let mut members = self.members.into_values();
        let first = members.next().filter(|_| complete)?;
        let mut all = vec![first.from];
        for own in members {
            if (own.dtype, &own.stored, own.kind) != (first.dtype, &first.stored, first.kind) {
                return None;
            }
            all.push(own.from);
        }
        let stacked = |dims: &[u64]| [&[count], dims].concat();
        let stored = stacked(&first.stored);
        stacks.push(all);
        let from = From::Stack(stacks.len() - 1);
        Some((stacked(&self.dims), Made { from, stored, ..first }))
    }
}

/// Plans the file, beside the model's files that are no weights. `products` is what each quantized weight becomes.
pub(super) fn plan(
    checkpoint: &ModelSource,
    layers: &Layers,
    recipe: &Recipe,
    products: Vec<Vec<Announced>>,
    mut files: BTreeMap<String, Content>,
    left_out: Vec<String>,
) -> Result<Plan, ProduceError> {
    let family = Family::of(checkpoint.config()?)?;
    let quantized: HashMap<usize, usize> =
        layers.quantized.iter().enumerate().map(|(at, own)| (own.tensor, at)).collect();
    let remade: HashMap<usize, usize> =
        layers.remade.iter().enumerate().map(|(at, own)| (own.tensor, at)).collect();
    let mut table = Table::default();
    let mut open: BTreeMap<String, Stack> = BTreeMap::new();
    let mut stacks = Vec::new();
    for (number, tensor) in checkpoint.tensors().iter().enumerate() {
        if family.is_left_out(&tensor.name) {
            continue;
        }
        let (name, _) = family.rename(&tensor.name)?;
        let dims = tensor.shape.dims();
        let (from, dtype, stored) = match (quantized.get(&number), remade.get(&number)) {
            (Some(product), _) => {
                let becomes = products.get(*product).and_then(|becomes| becomes.first());
                let stored = becomes.map(|(_, _, dims)| dims.clone());
                let stored = stored.ok_or_else(|| ProduceError::Defect(name.clone()))?;
                (From::Product(*product, 0), Dtype::U8, stored)
            }
            (None, Some(remade)) => {
                let to = layers.remade.get(*remade).map_or(Float::F32, |own| own.to);
                (From::Remade(*remade), to.dtype(), dims.to_vec())
            }
            (None, None) => (From::Model(number), tensor.dtype, dims.to_vec()),
        };
        let unknown = || {
            let (name, dtype) = (tensor.name.clone(), tensor.dtype);
            ProduceError::GgufType { name, dtype }
        };
        let kind = kind(recipe, layers, from, dtype).ok_or_else(unknown)?;
        let made = Made { from, dtype, stored, kind };
        let Some((stack, at, count)) = family.stacked(&tensor.name) else {
            table.push(name, dims.to_vec(), made).ok_or_else(unknown)?;
            continue;
        };
        let own = open.entry(stack.clone()).or_default();
        dims.clone_into(&mut own.dims);
        own.members.insert(at, made);
        // It lies where its last one does.
        if own.members.len() as u64 == count
            && let Some(own) = open.remove(&stack)
        {
            let joined = own.joined(count, &mut stacks);
            let (dims, made) = joined.ok_or_else(|| ProduceError::GgufStack(stack.clone()))?;
            table.push(stack, dims, made).ok_or_else(unknown)?;
        }
    }
    if let Some((stack, _)) = open.pop_first() {
        return Err(ProduceError::GgufStack(stack));
    }
    if let Some(factors) = factors(family.config) {
        let (name, count) = ("rope_freqs.weight".to_owned(), factors.len() as u64);
        let made = Made { from: From::Factors, dtype: Dtype::F32, stored: vec![count], kind: 0 };
        let defect = || ProduceError::Defect("rope_freqs.weight".to_owned());
        table.push(name, vec![count], made).ok_or_else(defect)?;
    }
    let Table { infos, mut parts, from, .. } = table;
    let header = header(&family, checkpoint, recipe, &infos)?;
    let begin = header.len() as u64;
    parts.iter_mut().for_each(|part| part.offset += begin);
    parts.insert(0, Part { offset: 0, len: begin, kind: PartKind::Content });
    files.insert(file(recipe), Content::Tensors { header, parts, from });
    Ok(Plan { files, products, stacks, left_out })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(more: Value) -> Result<&'static str, String> {
        let mut config = json!({"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 9,
            "intermediate_size": 64, "max_position_embeddings": 64, "num_experts": 4, "num_local_experts": 4,
            "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts_per_tok": 2});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let found = Family::of(&config);
        found.map(|family| family.own.arch).map_err(|error| error.to_string())
    }

    #[test]
    fn only_known_models_are_written() {
        assert_eq!(of(json!({"model_type": "mistral"})), Ok("llama"));
        assert_eq!(of(json!({"model_type": "qwen2", "rope_scaling": null})), Ok("qwen2"));
        assert!(of(json!({"model_type": "bert"})).unwrap_err().contains("bert"));
        assert_eq!(of(json!({"model_type": "qwen3_moe", "norm_topk_prob": true})), Ok("qwen3moe"));
        let scaled = json!({"model_type": "llama", "rope_scaling": {"rope_type": "odd"}});
        assert!(of(scaled).unwrap_err().contains("odd"));
    }

    #[test]
    fn what_llama_cpp_runs_otherwise_is_refused() {
        for other in [
            json!({"model_type": "qwen3_moe", "norm_topk_prob": false}),
            json!({"model_type": "qwen2_moe", "norm_topk_prob": true}),
            json!({"model_type": "olmoe", "norm_topk_prob": true}),
            json!({"model_type": "qwen2_moe", "decoder_sparse_step": 2}),
            json!({"model_type": "qwen2_moe", "mlp_only_layers": [0]}),
        ] {
            assert!(of(other.clone()).unwrap_err().contains("llama.cpp routes"), "{other}");
        }
        for (own, what) in [
            (json!({"model_type": "falcon", "alibi": true}), "alibi"),
            (json!({"model_type": "falcon", "parallel_attn": false}), "one behind the other"),
            (json!({"model_type": "cohere", "use_qk_norm": true}), "use_qk_norm"),
            (json!({"model_type": "gpt_neox", "tie_word_embeddings": true}), "tie_word_embeddings"),
            (
                json!({"model_type": "cohere2", "layer_types": vec!["full_attention"; 4]}),
                "no layer has",
            ),
            (json!({"model_type": "exaone4", "sliding_window": 8}), "sliding_window"),
            (json!({"model_type": "smollm3", "no_rope_layers": [1, 0, 1, 1]}), "rotary"),
            (json!({"model_type": "llama4_text", "attention_chunk_size": 64}), "attention_chunk"),
            (json!({"model_type": "olmoe", "clip_qkv": 2.0}), "clip_qkv"),
            (json!({"model_type": "llama4_text", "use_qk_norm": false}), "use_qk_norm"),
            (
                json!({"model_type": "dots1", "num_key_value_heads": 2, "n_routed_experts": 4}),
                "num_key_value_heads",
            ),
        ] {
            let error = of(own.clone()).unwrap_err();
            assert!(error.contains("llama.cpp runs") && error.contains(what), "{own}: {error}");
        }
    }
}
