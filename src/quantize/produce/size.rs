//! How large a result will be, before it is made: the plan that it is made by, with the lengths of its parts.

use super::layers::{self, Kind, Skip, kind};
use super::outline::{Bits, Content};
use super::recipe::Recipe;
use super::{ProduceError, plan, products, survey};
use crate::format::id::ContentDigest;
use crate::pack::model::{Part, PartKind};
use crate::quantize::source::ModelSource;

/// The sizes of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedSize {
    /// Bytes of all files.
    pub raw_bytes: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Weights that are quantized.
    pub weights: u64,
    /// Bytes of what they become, scales and all.
    pub weight_bytes: u64,
}

/// The sizes of what [`quantize`](super::quantize()) would write, to the byte. Of NF4 with quantized absmax the
/// weights are read for it: a text among its tensors has a length that depends on them.
///
/// # Errors
/// If the model is not whole, or not one that can be quantized so.
pub fn planned_size(
    checkpoint: &ModelSource,
    recipe: &Recipe,
    skip: &[String],
    bits: &Bits,
    threads: usize,
) -> Result<PlannedSize, ProduceError> {
    recipe.check()?;
    layers::check_source(checkpoint)?;
    let mut layers = plan::layers(checkpoint, recipe, &Skip::new(skip)?, bits)?;
    survey::settle(checkpoint, &mut layers, recipe, threads)?;
    // All keys are of one length.
    let any = ContentDigest::of(b"");
    let keys = [vec![any; layers.quantized.len()], vec![any; layers.remade.len()]];
    let listed = plan::list(&layers, recipe, checkpoint, &keys)?;
    let plan = plan::plan(checkpoint, &layers, recipe, products::write(listed, any)?)?;
    let (mut raw_bytes, mut tensor_bytes) = (0, 0);
    for content in plan.files.values() {
        raw_bytes += match content {
            Content::Same(file) => checkpoint.files().get(*file).map_or(0, |file| file.size),
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Tensors { parts, .. } => parts.iter().map(|part| part.len).sum(),
            Content::Known(file) => file.size(),
        };
        if let Content::Tensors { parts, .. } = content {
            let tensor = |part: &&Part| matches!(part.kind, PartKind::Tensor { .. });
            tensor_bytes += parts.iter().filter(tensor).map(|part| part.len).sum::<u64>();
        }
    }
    let shape = |at: usize| checkpoint.tensors().get(at).and_then(|own| own.shape.elements());
    let weights = layers.quantized.iter().filter_map(|own| shape(own.tensor)).sum();
    let parts = plan.products.iter().flatten().map(|(_, dtype, dims)| {
        let shape = crate::format::dtype::Shape::new(dims.clone());
        shape.and_then(|shape| shape.byte_len(*dtype)).unwrap_or(0)
    });
    Ok(PlannedSize { raw_bytes, tensor_bytes, weights, weight_bytes: parts.sum() })
}

/// The sizes of the model as it is.
///
/// # Errors
/// If it is not one that is quantized.
pub fn unquantized_size(checkpoint: &ModelSource) -> Result<PlannedSize, ProduceError> {
    let all = Skip::new(&[])?;
    let (mut weights, mut weight_bytes) = (0, 0);
    for tensor in checkpoint.tensors() {
        if let Kind::Linear(_) = kind(&tensor.name, tensor.dtype, &tensor.shape, &all) {
            weights += tensor.shape.elements().unwrap_or(0);
            weight_bytes += tensor.len;
        }
    }
    Ok(PlannedSize {
        raw_bytes: checkpoint.files().iter().map(|file| file.size).sum(),
        tensor_bytes: checkpoint.tensors().iter().map(|tensor| tensor.len).sum(),
        weights,
        weight_bytes,
    })
}
