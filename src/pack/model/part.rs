//! Parts of files: tensors, and what lies between them.

use crate::format::dtype::{Dtype, Shape};

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in bytes; 0 only for tensors without elements.
    pub len: u64,
    /// What it is.
    pub kind: PartKind,
}

/// What a part of a file is.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartKind {
    /// Bytes without further meaning, to be cut by content.
    Content,
    /// A whole tensor.
    Tensor { name: String, dtype: Dtype, shape: Shape },
}
