//! A model, opened: its numbers, its embedding, and its blocks when they are asked for.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::attention::layer_norm;
use super::encoder::norm;
use super::{Block, Checkpoint, Head, LmConfig, LmError, Text};
use crate::quantize::source::ModelSource;

/// A model whose weights are read block by block.
pub struct Model {
    checkpoint: Checkpoint,
    config: LmConfig,
    /// What the names of its tensors begin with: nothing, `model.` or `bert.`.
    prefix: &'static str,
}

/// From tokens to hidden states.
struct Embedding {
    /// The tokens that occur, in order, and their rows, f32 `[tokens, hidden]`.
    tokens: Vec<u32>,
    words: Vec<f32>,
    /// Of BERT: positions `[positions, hidden]`, the first token type `[hidden]`, weight and bias of the norm.
    more: Option<(Tensor, Tensor, [Tensor; 2])>,
}

impl Model {
    /// Opens a model. No weight is read yet.
    ///
    /// # Errors
    /// If its configuration is missing, or names an architecture or a quantization that is not known.
    pub fn open(source: impl Into<Arc<ModelSource>>) -> Result<Self, LmError> {
        let checkpoint = Checkpoint::open(source.into())?;
        let config = LmConfig::parse(checkpoint.config())?;
        let (prefix, probe) = if config.is_causal() {
            ("model.", "embed_tokens.weight")
        } else {
            ("bert.", "embeddings.word_embeddings.weight")
        };
        let prefix = if checkpoint.has(&format!("{prefix}{probe}")) || !checkpoint.has(probe) {
            prefix
        } else {
            ""
        };
        Ok(Self { checkpoint, config, prefix })
    }

    /// Its numbers.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Its files and tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn tokenizer(&self) -> Result<Text, LmError> {
        Text::parse(&self.checkpoint.file("tokenizer.json")?)
    }

    fn embedding_name(&self) -> String {
        let of =
            if self.config.is_causal() { "embed_tokens" } else { "embeddings.word_embeddings" };
        format!("{}{of}.weight", self.prefix)
    }

    /// The hidden states, f32 `[tokens, hidden]`, that each sequence enters the first block with. Of the
    /// embedding, the rows of the tokens that occur are held, unless it is quantized.
    ///
    /// # Errors
    /// If a token is beyond the vocabulary, or the embedding cannot be read.
    pub fn embed(&self, sequences: &[&[u32]]) -> Result<Vec<Tensor>, LmError> {
        let (config, hidden) = (&self.config, self.config.hidden);
        let mut tokens = sequences.concat();
        tokens.sort_unstable();
        tokens.dedup();
        let shape = [config.vocabulary, hidden];
        let words = self.checkpoint.rows(&self.embedding_name(), shape, &tokens)?;
        if words.iter().any(|value| !value.is_finite()) {
            return Err(LmError::NotFinite("the embedding of a token".to_owned()));
        }
        let more = if config.is_causal() {
            None
        } else {
            let of = |name: &str| format!("{}embeddings.{name}", self.prefix);
            let positions = self
                .checkpoint
                .tensor(&of("position_embeddings.weight"), &[config.positions, hidden])?;
            let kinds =
                self.checkpoint.tensor(&of("token_type_embeddings.weight"), &[2, hidden])?;
            Some((positions, kinds.get(0)?, norm(&self.checkpoint, &of("LayerNorm"), hidden)?))
        };
        let embedding = Embedding { tokens, words, more };
        sequences.iter().map(|tokens| embedding.of(tokens, config)).collect()
    }

    /// Reads block `index`, which is below [`LmConfig::layers`].
    ///
    /// # Errors
    /// If a weight of it is missing, or cannot be read or dequantized.
    pub fn block(&self, index: usize) -> Result<Block, LmError> {
        Block::read(&self.checkpoint, &self.config, self.prefix, index)
    }

    /// Reads the last norm and the head of a causal model.
    ///
    /// # Errors
    /// If the model predicts no tokens, or a weight is missing.
    pub fn head(&self) -> Result<Head, LmError> {
        if !self.config.is_causal() {
            return Err(LmError::Feature {
                what: "predicting the next token with",
                value: format!("{:?}", self.config.architecture),
            });
        }
        Head::read(&self.checkpoint, &self.config, self.prefix, &self.embedding_name())
    }
}

impl Embedding {
    fn of(&self, tokens: &[u32], config: &LmConfig) -> Result<Tensor, LmError> {
        let mut values = Vec::with_capacity(tokens.len() * config.hidden);
        for id in tokens {
            let row = self.tokens.partition_point(|known| known < id) * config.hidden;
            values.extend_from_slice(self.words.get(row..row + config.hidden).unwrap_or_default());
        }
        let words = Tensor::from_vec(values, (tokens.len(), config.hidden), &Device::Cpu)?;
        let Some((positions, kind, norm)) = &self.more else { return Ok(words) };
        if tokens.len() > config.positions {
            return Err(LmError::Sequence {
                tokens: tokens.len(),
                least: 1,
                most: config.positions,
            });
        }
        let placed = (words + positions.narrow(0, 0, tokens.len())?)?.broadcast_add(kind)?;
        layer_norm(&placed, norm.each_ref(), config.epsilon)
    }
}
