//! What keeps files from being a model that can be loaded.

use std::fmt;

/// Something that keeps a model from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path, in the artifact, of the file that is at fault or is not there.
    pub path: String,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What is wrong with a file of a model.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The file is not there, though an index, or the number in the name of another file, says so.
    ShardMissing { by: String },
    /// The file is a link to what is not there.
    Dangling,
    /// The index names a tensor that is in none of its shards.
    TensorMissing { tensor: String, more: usize, shard: String },
    /// The index names another shard than the one that holds the tensor.
    TensorElsewhere { tensor: String, more: usize, named: String, found: String },
    /// The shard holds a tensor that another shard holds too.
    TensorTwice { tensor: String, more: usize, other: String },
    /// A pointer stands in the place of the file.
    Pointer(&'static str),
    /// The file must hold a JSON object, and does not.
    NoJson(String),
    /// The file is not as long as it says, or not what its name says.
    CutShort(&'static str),
    /// An interrupted download left the file.
    Unfinished,
}

impl FaultKind {
    /// The word for it in a manifest (section 6.1).
    pub fn word(&self) -> &'static str {
        match self {
            Self::ShardMissing { .. } | Self::Dangling => "shard_missing",
            Self::TensorMissing { .. } => "tensor_missing",
            Self::TensorElsewhere { .. } => "tensor_elsewhere",
            Self::TensorTwice { .. } => "tensor_twice",
            Self::Pointer(_) => "pointer",
            Self::NoJson(_) => "no_json",
            Self::CutShort(_) => "cut_short",
            Self::Unfinished => "unfinished",
        }
    }
}

/// A tensor, and how many more there are like it.
fn tensors(first: &str, more: usize) -> String {
    match more {
        0 => format!("tensor {first:?} is"),
        more => format!("tensor {first:?} and {more} more are"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.kind {
            FaultKind::ShardMissing { by } => write!(f, "{path} is missing, which {by} asks for"),
            FaultKind::Dangling => write!(f, "{path} is a link to a file that is not there"),
            FaultKind::TensorMissing { tensor, more, shard } => {
                let tensors = tensors(tensor, *more);
                write!(f, "{path}: {tensors} not in {shard}, nor in another shard")
            }
            FaultKind::TensorElsewhere { tensor, more, named, found } => {
                write!(f, "{path}: {} in {found}, and not in {named}", tensors(tensor, *more))
            }
            FaultKind::TensorTwice { tensor, more, other } => {
                write!(f, "{path}: {} in {other} too", tensors(tensor, *more))
            }
            FaultKind::Pointer(of) => write!(f, "{path} is only a pointer of {of}"),
            FaultKind::NoJson(why) => write!(f, "{path} is no JSON object: {why}"),
            FaultKind::CutShort(why) => write!(f, "{path}: {why}"),
            FaultKind::Unfinished => write!(f, "{path} is of a download that did not end"),
        }
    }
}
