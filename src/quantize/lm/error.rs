//! Why a model is not run.

use std::path::PathBuf;

use crate::dequant::QuantError;
use crate::quantize::source::SourceError;

/// Why a model is not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmError {
    /// The architecture is none of those that are known.
    #[error(
        "config.json: model_type {0:?} is not supported; these are: llama, mistral, qwen2, qwen3, bert"
    )]
    Architecture(String),
    /// The architecture is known, and this model has a feature that is not.
    #[error("config.json: {0} is not supported")]
    Feature(String),
    /// `config.json` lacks something or contradicts itself.
    #[error("config.json: {0}")]
    Config(String),
    /// A tensor that the architecture needs is not there.
    #[error("tensor {0} is missing; is a shard of the checkpoint missing?")]
    Missing(String),
    /// A tensor of another shape than the configuration says.
    #[error("tensor {name}: its shape is {got:?}, and config.json makes it {want:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// As it is.
        got: Vec<usize>,
        /// As it should be.
        want: Vec<usize>,
    },
    /// A tensor of an element type that is not a float.
    #[error("tensor {name}: element type {dtype} is not computed with")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A number that is not finite.
    #[error("{0}: it holds NaN or Inf; the model does not compute with such numbers")]
    NotFinite(String),
    /// A quantized weight that is not what its configuration says.
    #[error("weight {name}: {error}")]
    Weight {
        /// The weight.
        name: String,
        /// What is wrong.
        error: QuantError,
    },
    /// The tokenizer is damaged or cannot encode the text.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// A token that the model has no embedding for.
    #[error("token {id}: the vocabulary has {vocabulary}; is this the model's own tokenizer?")]
    Token {
        /// The token.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// A text that cannot be read.
    #[error("{}: {why}", path.display())]
    Text {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// What is too large to be held could not be put into a file.
    #[error("a file in {}: {source}; TMPDIR may name another folder", std::env::temp_dir().display())]
    Spool {
        /// What the system says.
        source: std::io::Error,
    },
    /// The computation failed.
    #[error("computing: {0}")]
    Compute(Box<candle_core::Error>),
}

impl From<SourceError> for LmError {
    fn from(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}

impl From<candle_core::Error> for LmError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(Box::new(error))
    }
}
