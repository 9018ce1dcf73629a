//! The words for what a quantized checkpoint consists of: layers, and files with their contents.

use std::collections::BTreeMap;

use super::method::Announced;
use super::recipe::{Method, Recipe};
use crate::dequant::Float;
use crate::gguf::names::Change;
use crate::pack::KnownFile;
use crate::pack::model::Part;

/// Bits by the name of the layer, without `.weight`, where layers have numbers of their own.
pub type Bits = BTreeMap<String, u32>;

/// A weight that is quantized.
#[derive(Debug, Clone)]
pub(super) struct Quantized {
    /// Its place among the tensors of the model.
    pub(super) tensor: usize,
    pub(super) float: Float,
    /// The name of its layer.
    pub(super) layer: String,
    /// Bits per code.
    pub(super) bits: u32,
    /// Length of bitsandbytes' `quant_state`.
    pub(super) state: u64,
    /// GGUF: the order of its rows.
    pub(super) order: Change,
    /// A method of its own.
    pub(super) method: Option<Method>,
}

impl Quantized {
    /// The recipe of this layer.
    pub(super) fn recipe(&self, of: &Recipe) -> Recipe {
        self.method.map_or_else(|| of.with_bits(self.bits), Method::recipe)
    }
}

/// A tensor that is not quantized and may become another: a vector, as f32 in GGUF, or what AWQ folds
/// scales into.
#[derive(Debug, Clone)]
pub(super) struct Remade {
    /// Its place among the tensors of the model.
    pub(super) tensor: usize,
    pub(super) float: Float,
    /// What it is called in the result.
    pub(super) name: String,
    /// The type that it has there.
    pub(super) to: Float,
    /// What is done to it there, as GGUF has it.
    pub(super) change: Change,
}

/// The layers of a model.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    pub(super) quantized: Vec<Quantized>,
    pub(super) remade: Vec<Remade>,
    /// Linear layers that are not.
    pub(super) kept: Vec<String>,
    /// GGUF: how many have each type in place of another, whose blocks their rows do not divide into.
    pub(super) fell_back: BTreeMap<String, u64>,
}

/// Where the bytes of a tensor come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// A tensor of the model.
    Model(usize),
    /// What vector `0` of those that are [remade](Layers) becomes.
    Remade(usize),
    /// Tensor `1` of what quantized weight `0` becomes.
    Product(usize, usize),
    /// GGUF: one behind the other, what [stack](Plan) `0` has.
    Stack(usize),
    /// So many zeros.
    Zeros(u64),
    /// GGUF: the factors of positions.
    Factors,
}

/// A file of the result.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of the model, as it is.
    Same(usize),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A header, and tensors.
    Tensors { header: Vec<u8>, parts: Vec<Part>, from: Vec<From> },
    /// The store has it already, as part of an artifact that is trusted.
    Known(KnownFile),
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Files by their paths.
    pub(super) files: BTreeMap<String, Content>,
    /// What each quantized weight becomes.
    pub(super) products: Vec<Vec<Announced>>,
    /// What is stacked in one tensor: the experts of a block.
    pub(super) stacks: Vec<Vec<From>>,
    /// Files of the model that are left out.
    pub(super) left_out: Vec<String>,
}
