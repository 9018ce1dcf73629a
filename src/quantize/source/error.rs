//! Why a model cannot be read.

use crate::dequant::QuantError;
use crate::gguf::GgufError;
use crate::load::ArtifactError;
use crate::pack::model::ModelError;

/// The list of shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A model that cannot be read, or is not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file of a folder cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The artifact cannot be read.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
    /// A file that a model needs is not there.
    #[error("{path} is missing; a whole checkpoint has it beside its weights")]
    NoFile {
        /// The file.
        path: String,
    },
    /// A file that is not the JSON that it should be.
    #[error("{path}: {error}; repair it")]
    Json {
        /// The file.
        path: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// A file without tensors that is too large to be held in memory.
    #[error("{path}: {size} bytes in a file without tensors, of which {limit} are read at most")]
    Large {
        /// The file.
        path: String,
        /// Its size, or that of its longest part between tensors.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Two files have a tensor of one name.
    #[error("tensor {tensor} is in {first} and in {second}; leave one file out")]
    Twice {
        /// The tensor.
        tensor: String,
        /// A file that has it.
        first: String,
        /// Another.
        second: String,
    },
    /// A file that the list of shards names is not there.
    #[error("{index}: tensor {tensor} is in {path}, which is missing; fetch the whole model", index = INDEX)]
    NoShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        path: String,
    },
    /// A shard lacks a tensor that the list of shards says it has.
    #[error("{index}: tensor {tensor} is not in {path}; fetch that file again", index = INDEX)]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        path: String,
    },
    /// The table's files and tensors contradict each other.
    #[error("{path}: its tensors and its size are not those of the artifact's table")]
    Contradiction {
        /// The file.
        path: String,
    },
    /// A configuration, or a GGUF file, has a quantization that is not known.
    #[error("{path}: quantization: {error}")]
    Quantization {
        /// The file.
        path: String,
        /// What is wrong.
        error: QuantError,
    },
    /// A GGUF file that no model is read from.
    #[error("{path}: {error}")]
    Gguf {
        /// The file.
        path: String,
        /// What is wrong.
        error: GgufError,
    },
    /// A quantized weight that is not what it should be.
    #[error("{name}: {error}")]
    Weight {
        /// The weight.
        name: String,
        /// What is wrong.
        error: QuantError,
    },
    /// Rows that are no whole heads, where GGUF has heads permuted.
    #[error(
        "{0}: its rows are no whole heads of an even number of rows, as the file's head counts say"
    )]
    Heads(String),
    /// A tensor was asked for that the model does not have, or out of the announced order.
    #[error("tensor {0} was read out of turn; this is a defect of tenpak, please report it")]
    Defect(String),
}

impl SourceError {
    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Artifact(error) if error.may_pass())
    }
}

impl<E: Into<ArtifactError>> From<E> for SourceError {
    fn from(error: E) -> Self {
        Self::Artifact(Box::new(error.into()))
    }
}
