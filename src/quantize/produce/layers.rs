//! Which tensors are weights of linear layers that are quantized. Pure.
//!
//! As the engines do: the linear layers of the numbered blocks, by name and shape. Embeddings, the head,
//! norms, biases and the routers of experts stay as they are.

use std::sync::Arc;

use serde_json::Value;

use super::ProduceError;
use super::recipe::Format;
use crate::dequant::Float;
use crate::format::dtype::Dtype;
use crate::format::dtype::Shape;
use crate::format::glob::Glob;
use crate::quantize::calibrate::CalibrateError;
use crate::quantize::lm::apart;
use crate::quantize::source::ModelSource;

/// Models whose linear weights are stored transposed.
const TRANSPOSED: [&str; 3] = ["gpt2", "openai-gpt", "imagegpt"];
/// Matrices in blocks that are no linear layer that engines quantize.
const NOT_LINEAR: [&str; 7] =
    ["gate", "router", "shared_expert_gate", "embed", "embedding", "embeddings", "norm"];

/// Which layers are left out.
#[derive(Debug, Clone)]
pub struct Skip(Vec<Glob>);

impl Skip {
    /// Patterns for names of weights or of their layers, as a shell has them; `*` spans dots.
    pub fn new(patterns: &[String]) -> Result<Self, ProduceError> {
        let glob = |pattern: &String| {
            let skip = |why| ProduceError::Skip { pattern: pattern.clone(), why };
            Glob::new(pattern).map_err(skip)
        };
        Ok(Self(patterns.iter().map(glob).collect::<Result<_, _>>()?))
    }

    pub(super) fn has(&self, layer: &str) -> bool {
        let weight = format!("{layer}.weight");
        self.0.iter().any(|glob| glob.matches(layer) || glob.matches(&weight))
    }
}

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The weight of a layer that is quantized.
    Linear(Float),
    /// The weight of a layer that is not: engines must be told of it.
    Kept,
    /// No weight of a linear layer.
    Other,
}

/// What the tensor of this name, type and shape is.
pub fn kind(name: &str, dtype: Dtype, shape: &Shape, skip: &Skip) -> Kind {
    let (Some(layer), [_, _]) = (name.strip_suffix(".weight"), shape.dims()) else {
        return Kind::Other;
    };
    let last = layer.rsplit('.').next().unwrap_or(layer);
    let in_block = layer.split('.').any(|part| part.bytes().all(|c| c.is_ascii_digit()));
    let embeds = last.contains("embed") || ["wte", "wpe"].contains(&last);
    match Float::of_dtype(dtype) {
        _ if embeds => Kind::Other,
        // Routers have names of several words in some families.
        Some(_) if layer.split('.').any(|part| ["gate", "router"].contains(&part)) => Kind::Kept,
        Some(float) if in_block && !NOT_LINEAR.contains(&last) && !last.contains("norm") => {
            if skip.has(layer) { Kind::Kept } else { Kind::Linear(float) }
        }
        _ => Kind::Kept,
    }
}

/// A model as its layers are quantized and stored: each by itself, outputs by inputs, but for those that `skip` names.
/// In GGUF all are outputs by inputs, and the experts are stacked again when they are made.
///
/// # Errors
/// If a pattern is none, or the model's names contradict each other.
pub fn layers_apart(
    source: Arc<ModelSource>,
    format: Format,
    skip: &[String],
) -> Result<Arc<ModelSource>, ProduceError> {
    let skip = Skip::new(skip)?;
    let wanted = |layer: &str| format == Format::Gguf || !skip.has(layer);
    Ok(apart(source, &wanted).map_err(CalibrateError::from)?)
}

/// Refuses a model that is not whole, or whose weights are quantized or stored in a way that is not known here.
///
/// # Errors
/// If it is refused, or a file that tells cannot be read.
pub fn check_source(source: &ModelSource) -> Result<(), ProduceError> {
    // First, as a GGUF file alone has no configuration.
    check_names(source.tensors().iter().map(|tensor| (&*tensor.name, tensor.dtype)))?;
    source.check_whole()?;
    check_config(source.config()?, source.is_apart())
}

/// Refuses a model whose configuration says that its weights are stored in a way that is not known here; those that
/// are transposed are known where they were made to be outputs by inputs.
fn check_config(config: &Value, is_apart: bool) -> Result<(), ProduceError> {
    for key in ["quantization_config", "compression_config"] {
        if let Some(method) = config.get(key).filter(|own| !own.is_null()) {
            let method = method.get("quant_method").and_then(Value::as_str).unwrap_or("some way");
            return Err(ProduceError::Quantized(method.to_owned()));
        }
    }
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    if TRANSPOSED.contains(&kind) && !is_apart {
        return Err(ProduceError::Transposed(kind.to_owned()));
    }
    Ok(())
}

/// Refuses a model whose weights are blocks of a GGUF file.
fn check_names<'t>(tensors: impl Iterator<Item = (&'t str, Dtype)>) -> Result<(), ProduceError> {
    let mut blocks = tensors.filter(|(_, dtype)| *dtype == Dtype::U8);
    match blocks.find(|(name, _)| name.starts_with("blk.")) {
        Some((name, _)) => Err(ProduceError::Blocks(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, dims: &[u64], skip: &[&str]) -> Kind {
        let skip: Vec<String> = skip.iter().map(|text| (*text).to_owned()).collect();
        let shape = Shape::new(dims.to_vec()).unwrap();
        kind(name, Dtype::BF16, &shape, &Skip::new(&skip).unwrap())
    }

    #[test]
    fn linear_layers_of_blocks_are_found_by_name_and_shape() {
        let linear = Kind::Linear(Float::BF16);
        for (name, dims, expected) in [
            ("model.layers.0.self_attn.q_proj.weight", &[64, 64][..], linear),
            ("model.layers.10.mlp.experts.3.down_proj.weight", &[64, 64], linear),
            ("encoder.layer.1.attention.self.query.weight", &[64, 64], linear),
            ("transformer.h.2.mlp.dense_h_to_4h.weight", &[64, 64], linear),
            ("model.layers.0.self_attn.q_proj.bias", &[64], Kind::Other),
            ("model.layers.0.input_layernorm.weight", &[64], Kind::Other),
            ("model.layers.0.mlp.gate.weight", &[8, 64], Kind::Kept),
            ("model.layers.0.mlp.gate.wg.weight", &[8, 64], Kind::Kept),
            ("model.layers.0.block_sparse_moe.router.layer.weight", &[8, 64], Kind::Kept),
            ("model.layers.0.mlp.experts.gate_up_proj", &[8, 64, 64], Kind::Other),
            ("lm_head.weight", &[100, 64], Kind::Kept),
            ("pooler.dense.weight", &[64, 64], Kind::Kept),
            ("model.embed_tokens.weight", &[100, 64], Kind::Other),
            ("embeddings.word_embeddings.weight", &[100, 64], Kind::Other),
        ] {
            assert_eq!(of(name, dims, &[]), expected, "{name}");
        }
        let name = "model.layers.0.self_attn.q_proj.weight";
        for skip in ["*q_proj", "*.q_proj.weight", "model.layers.0.*"] {
            assert_eq!(of(name, &[64, 64], &[skip]), Kind::Kept);
        }
        assert_eq!(of(name, &[64, 64], &["*k_proj"]), linear);
    }

    #[test]
    fn quantized_and_transposed_models_are_refused() {
        let check = |text| check_config(&serde_json::from_str(text).unwrap(), false);
        assert!(check(r#"{"model_type":"llama","quantization_config":null}"#).is_ok());
        let error = check(r#"{"quantization_config":{"quant_method":"awq"}}"#).unwrap_err();
        assert!(error.to_string().contains("awq"), "{error}");
        assert!(check(r#"{"model_type":"gpt2"}"#).is_err());
        assert!(check_config(&serde_json::json!({"model_type": "gpt2"}), true).is_ok());
    }
}
