//! A model as one GGUF file: llama.cpp's names, numbers and tokenizer in its header, then its tensors.
//!
//! For the families that `gguf::names` knows. What is not quantized is f32 where it is a vector and f16 where it is a
//! matrix, which every engine takes.

use std::collections::BTreeMap;

use super::ProduceError;
pub(super) use super::gguf_header::Family;
use super::gguf_header::{ALIGNMENT, factors, header};
use super::method::{announce, block};
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
        let (name, _) = family.rename(&tensor.name)?;
        let dims = tensor.shape.dims();
        let product = layers.quantized.iter().position(|own| own.tensor == number);
        let remade = layers.remade.iter().position(|own| own.tensor == number);
        let (source, dtype, stored) = match (product, remade) {
            (Some(product), _) => {
                let own = &layers.quantized[product];
                let [rows, columns] = *dims else {
                    return Err(ProduceError::Defect(name));
                };
                let becomes = announce(&own.recipe(recipe), own.float, [rows, columns], 0)
                    .map_err(ProduceError::layer(&tensor.name))?;
                let stored = becomes.first().map(|(_, _, dims)| dims.clone());
                let stored = stored.ok_or_else(|| ProduceError::Defect(name.clone()))?;
                products.push(becomes);
                (From::Product(product, 0), Dtype::U8, stored)
            }
            (None, Some(remade)) => {
                let to = layers.remade.get(remade).map_or(Float::F32, |own| own.to);
                (From::Remade(remade), to.dtype(), dims.to_vec())
            }
            (None, None) => (From::Model(number), tensor.dtype, dims.to_vec()),
        };
        let unknown = || {
            let (name, dtype) = (tensor.name.clone(), tensor.dtype);
            ProduceError::GgufType { name, dtype }
        };
        let kind = kind(recipe, layers, source, dtype).ok_or_else(unknown)?;
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
    if let Some(factors) = factors(family.config) {
        let (name, count) = ("rope_freqs.weight".to_owned(), factors.len() as u64);
        infos.push((name.clone(), vec![count], 0, at));
        let (dtype, shape) = (Dtype::F32, Shape::vector(count));
        parts.push(Part {
            offset: at,
            len: count * 4,
            kind: PartKind::Tensor { name, dtype, shape },
        });
        from.push(From::Factors);
        at += count * 4;
        let padding = at.next_multiple_of(ALIGNMENT) - at;
        if padding > 0 {
            parts.push(Part { offset: at, len: padding, kind: PartKind::Content });
            from.push(From::Zeros(padding));
        }
    }
    let header = header(&family, checkpoint, recipe, &infos)?;
    let begin = header.len() as u64;
    parts.iter_mut().for_each(|part| part.offset += begin);
    parts.insert(0, Part { offset: 0, len: begin, kind: PartKind::Content });
    files.insert(file(recipe), Content::Tensors { header, parts, from });
    Ok(Plan { files, products, left_out })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_known_models_are_written() {
        let of = |text: &str| {
            let config = serde_json::from_str::<Value>(text).unwrap();
            Family::of(&config).map(|family| family.own.arch).map_err(|error| error.to_string())
        };
        assert_eq!(of(r#"{"model_type":"mistral"}"#), Ok("llama"));
        assert_eq!(of(r#"{"model_type":"qwen2","rope_scaling":null}"#), Ok("qwen2"));
        assert!(of(r#"{"model_type":"bert"}"#).unwrap_err().contains("bert"));
        let scaled = r#"{"model_type":"llama","rope_scaling":{"rope_type":"odd"}}"#;
        assert!(of(scaled).unwrap_err().contains("odd"));
    }
}
