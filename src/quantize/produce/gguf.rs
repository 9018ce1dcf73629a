//! A model as one GGUF file: llama.cpp's names, numbers and tokenizer in its header, then its tensors.
//!
//! For the families that `gguf::names` knows. What is not quantized is f32 where it is a vector and f16 where it is a
//! matrix, which every engine takes.

use std::collections::{BTreeMap, HashMap};

use super::ProduceError;
pub(super) use super::gguf_header::Family;
use super::gguf_header::{ALIGNMENT, factors, header};
use super::method::{Announced, block};
use super::outline::{Content, From, Layers, Plan};
use super::recipe::Recipe;
use crate::dequant::Float;
use crate::format::dtype::{Dtype, Shape};
use crate::gguf::names::is_computed;
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

/// The experts of one block that are stacked in one tensor.
#[derive(Default)]
struct Stack {
    /// By expert.
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
        if is_computed(&tensor.name) {
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
        let Some((stack, expert)) = family.stacked(&tensor.name) else {
            table.push(name, dims.to_vec(), made).ok_or_else(unknown)?;
            continue;
        };
        let own = open.entry(stack.clone()).or_default();
        dims.clone_into(&mut own.dims);
        own.members.insert(expert, made);
        // It lies where its last expert does.
        if own.members.len() as u64 == family.experts()
            && let Some(own) = open.remove(&stack)
        {
            let joined = own.joined(family.experts(), &mut stacks);
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
    use serde_json::Value;

    use super::*;
    use crate::quantize::produce::gguf_header::rotated;

    #[test]
    fn a_part_of_a_head_is_rotated_whoever_wrote_the_config() {
        for (config, expected) in [
            (r#"{}"#, 64),
            (r#"{"partial_rotary_factor":0.5}"#, 32),
            (r#"{"rope_parameters":{"partial_rotary_factor":0.25,"rope_theta":1e4}}"#, 16),
            (r#"{"rope_scaling":null,"partial_rotary_factor":0.5}"#, 32),
        ] {
            assert_eq!(rotated(&serde_json::from_str(config).unwrap(), 64), expected, "{config}");
        }
    }

    #[test]
    fn only_known_models_are_written() {
        let of = |text: &str| {
            let config = serde_json::from_str::<Value>(text).unwrap();
            Family::of(&config).map(|family| family.own.arch).map_err(|error| error.to_string())
        };
        assert_eq!(of(r#"{"model_type":"mistral"}"#), Ok("llama"));
        assert_eq!(of(r#"{"model_type":"qwen2","rope_scaling":null}"#), Ok("qwen2"));
        assert!(of(r#"{"model_type":"bert"}"#).unwrap_err().contains("bert"));
        assert_eq!(of(r#"{"model_type":"qwen3_moe","norm_topk_prob":true}"#), Ok("qwen3moe"));
        for other in [
            r#"{"model_type":"qwen3_moe","norm_topk_prob":false}"#,
            r#"{"model_type":"qwen2_moe","norm_topk_prob":true}"#,
            r#"{"model_type":"olmoe","norm_topk_prob":true}"#,
            r#"{"model_type":"qwen2_moe","decoder_sparse_step":2}"#,
            r#"{"model_type":"qwen2_moe","mlp_only_layers":[0]}"#,
        ] {
            assert!(of(other).unwrap_err().contains("llama.cpp routes"), "{other}");
        }
        let scaled = r#"{"model_type":"llama","rope_scaling":{"rope_type":"odd"}}"#;
        assert!(of(scaled).unwrap_err().contains("odd"));
    }
}
