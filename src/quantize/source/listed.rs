//! Files and tensors of a model.

use std::sync::{Arc, OnceLock};

use crate::format::dtype::{Dtype, Shape};
use crate::format::id::ContentDigest;
use crate::pack::model::{Part, PartKind};
use crate::schedule::plan::TensorRequest;

/// A file of a model.
#[derive(Debug, Clone)]
pub struct File {
    /// Its path in the model.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its parts, in order, covering it exactly.
    pub parts: Vec<Part>,
}

impl File {
    /// Whether it is one of weights.
    pub fn has_tensors(&self) -> bool {
        let tensor = |part: &Part| matches!(part.kind, PartKind::Tensor { .. });
        self.path.ends_with(".safetensors") || self.parts.iter().any(tensor)
    }
}

/// A tensor of a model.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Shape,
    /// Its file's place among the model's files.
    pub file: usize,
    /// Which of the file's parts it is.
    pub part: usize,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// The digest of its bytes, once it is known: whoever reads all of them keeps it here.
    pub digest: OnceLock<ContentDigest>,
    /// What it is loaded by, if the model is an artifact.
    pub(super) request: Option<Arc<TensorRequest>>,
}
