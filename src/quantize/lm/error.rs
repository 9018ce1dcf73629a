//! Why a model is not run.

use std::path::PathBuf;

use serde_json::Value;

use crate::dequant::QuantError;
use crate::quantize::source::SourceError;

/// Why a model is not run.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmError {
    /// The family has no description.
    #[error(
        "config.json: model_type {name:?} is not supported{why}; docs/families.md lists those that are, and says how to describe one"
    )]
    Architecture { name: String, why: String },
    /// A piece of the model that no description has.
    #[error("config.json: {0} is not described; docs/families.md says what is")]
    Piece(String),
    /// The architecture is known, and this model has a feature that is not.
    #[error("config.json: {what} {value} is not supported")]
    Feature { what: &'static str, value: String },
    /// `config.json` lacks something or contradicts itself.
    #[error("config.json: {0}")]
    Config(#[from] ConfigError),
    /// Longer sequences than the model reads, or too short ones.
    #[error("sequences of {tokens} tokens, and the model reads {least} to {most}")]
    Sequence { tokens: usize, least: usize, most: usize },
    /// A text of no words.
    #[error("a text of {0} tokens; two at least are needed")]
    Short(usize),
    /// Layers that cannot be what they are said to be: all read the same.
    #[error("{0} reads inputs of unequal width")]
    Unequal(String),
    /// A tensor that the architecture needs is not there.
    #[error("tensor {0} is missing; is a shard of the checkpoint missing?")]
    Missing(String),
    /// A tensor of another shape than the configuration says.
    #[error("tensor {name}: its shape is {got:?}, and config.json makes it {want:?}")]
    Shape { name: String, got: Vec<usize>, want: Vec<usize> },
    /// A tensor of an element type that is not a float.
    #[error("tensor {name}: element type {dtype} is not computed with")]
    Dtype { name: String, dtype: String },
    /// A number that is not finite.
    #[error("{0}: it holds NaN or Inf; the model does not compute with such numbers")]
    NotFinite(String),
    /// A quantized weight that is not what its configuration says.
    #[error("weight {name}: {error}")]
    Weight { name: String, error: QuantError },
    /// The tokenizer is damaged or cannot encode the text, as its library says.
    #[error("tokenizer.json: {0}")]
    Tokenizer(Box<dyn std::error::Error + Send + Sync>),
    /// A token that the model has no embedding for.
    #[error("token {id}: the vocabulary has {vocabulary}; is this the model's own tokenizer?")]
    Token { id: u32, vocabulary: usize },
    /// A text that cannot be read.
    #[error("{}: {error}", path.display())]
    Text { path: PathBuf, error: TextError },
    /// The model cannot be read.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// What is too large to be held could not be put into a file.
    #[error("a file in {}: {source}; TMPDIR may name another folder", std::env::temp_dir().display())]
    Spool { source: std::io::Error },
    /// The computation failed.
    #[error("computing: {0}")]
    Compute(Box<candle_core::Error>),
    /// A rule of the computation itself does not hold.
    #[error("{0}; this is a defect of tenpak, please report it")]
    Defect(&'static str),
}

/// What of `config.json` makes no sense.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that is needed.
    #[error("{0} is missing")]
    Missing(String),
    /// A number that is none of rows, columns or the like.
    #[error("{key} is {value}, which is no number that it can be")]
    Dimension { key: String, value: Value },
    /// A description that makes no sense.
    #[error("the description of {0}: {1}")]
    Description(String, String),
    /// A list by layer that is too short.
    #[error("{0} has fewer entries than the model has layers, {1}")]
    Short(String, usize),
    /// Heads that do not divide among those of keys.
    #[error("num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")]
    KvHeads { heads: usize, kv_heads: usize },
    /// Heads of no whole width.
    #[error("hidden_size {hidden} is no multiple of num_attention_heads {heads}")]
    Heads { hidden: usize, heads: usize },
    /// Heads that cannot be turned by pairs.
    #[error("{0} dimensions of a head cannot be turned by pairs")]
    OddHead(usize),
    /// Scaled positions without a number of theirs.
    #[error("rope scaling without {0}")]
    Scaling(&'static str),
    /// Positions without a base.
    #[error("rope_theta is {0}")]
    Theta(f64),
}

/// Why a file gives no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is not UTF-8, from this byte on.
    #[error("not UTF-8 at byte {0}; convert it, or give another text")]
    NotUtf8(usize),
    /// There are no words in it.
    #[error("it is empty; give a file with text")]
    Empty,
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
