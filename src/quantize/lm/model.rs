//! A model, opened: its numbers, its embedding, and its blocks when they are asked for.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::norm::Norm;
use super::{Block, Checkpoint, Head, LmConfig, LmError, Text, read};
use crate::quantize::source::ModelSource;

/// A model whose weights are read block by block.
pub struct Model {
    checkpoint: Checkpoint,
    config: LmConfig,
    /// What the names of its tensors begin with.
    prefix: String,
    /// Bytes of experts that are held together.
    room: u64,
}

/// What experts of a block take at most to be held together: those of a block that is larger are read one by one, each
/// time that they are used.
const ROOM: u64 = 4 << 30;

/// From tokens to hidden states.
struct Embedding {
    /// The tokens that occur, in order, and their rows, f32 `[tokens, hidden]`.
    tokens: Vec<u32>,
    words: Vec<f32>,
    /// Learned positions `[positions, hidden]`, from the first on.
    positions: Option<Tensor>,
    /// The first token type `[hidden]`.
    kind: Option<Tensor>,
    norm: Option<Norm>,
}

impl Model {
    /// Opens a model. No weight is read yet.
    ///
    /// # Errors
    /// If its configuration is missing, or names an architecture or a quantization that is not known.
    pub fn open(source: impl Into<Arc<ModelSource>>) -> Result<Self, LmError> {
        let checkpoint = Checkpoint::open(source.into())?;
        let config = LmConfig::parse(checkpoint.config())?;
        let checkpoint = checkpoint.apart(&config)?;
        let prefix = config.prefix(&|name| checkpoint.has(name));
        Ok(Self { checkpoint, config, prefix, room: ROOM })
    }

    /// Experts of a block are held together only if they take no more than so many bytes, in f32; 4 GiB if this is not
    /// said.
    #[must_use]
    pub fn with_room(self, room: u64) -> Self {
        Self { room, ..self }
    }

    /// Its numbers.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Its files and tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the names of its blocks' tensors begin with.
    pub fn blocks(&self) -> String {
        let block = self.config.about.block.split("{}").next().unwrap_or_default();
        format!("{}{block}", self.prefix)
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn tokenizer(&self) -> Result<Text, LmError> {
        Text::parse(&self.checkpoint.file("tokenizer.json")?)
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
        let name = embedding_name(config, &self.prefix);
        let mut words = self.checkpoint.rows(&name, shape, &tokens)?;
        if words.iter().any(|value| !value.is_finite()) {
            return Err(LmError::NotFinite("the embedding of a token".to_owned()));
        }
        if config.numbers.embedding != 1.0 {
            let by = config.numbers.embedding as f32;
            words.iter_mut().for_each(|value| *value *= by);
        }
        let about = &config.about.embedding;
        let of = |name: &str| format!("{}{name}", self.prefix);
        let positions = match &about.positions {
            Some(name) => {
                let offset = config.numbers.offset;
                let shape = [config.positions + offset, hidden];
                let all = self.checkpoint.tensor(&of(&format!("{name}.weight")), &shape)?;
                Some(all.narrow(0, offset, config.positions)?)
            }
            None => None,
        };
        let kind = match (&about.types, config.numbers.types) {
            (Some(name), types @ 1..) => {
                let all =
                    self.checkpoint.tensor(&of(&format!("{name}.weight")), &[types, hidden])?;
                Some(all.get(0)?)
            }
            _ => None,
        };
        let norm = |name: &String| {
            Norm::read(&self.checkpoint, &of(name), config.about.norm, &[hidden], config.epsilon)
        };
        let norm = about.norm.as_ref().map(norm).transpose()?;
        let embedding = Embedding { tokens, words, positions, kind, norm };
        sequences.iter().map(|tokens| embedding.of(tokens, config)).collect()
    }

    /// Reads block `index`, which is below [`LmConfig::layers`].
    ///
    /// # Errors
    /// If a weight of it is missing, or cannot be read or dequantized.
    pub fn block(&self, index: usize) -> Result<Block, LmError> {
        read::block(&self.checkpoint, &self.config, &self.prefix, (index, self.room))
    }

    /// Reads the last norm and the head of a causal model.
    ///
    /// # Errors
    /// If the model predicts no tokens, or a weight is missing.
    pub fn head(&self) -> Result<Head, LmError> {
        if !self.config.is_causal() {
            return Err(LmError::Feature {
                what: "predicting the next token with",
                value: self.config.family.clone(),
            });
        }
        let embedding = embedding_name(&self.config, &self.prefix);
        Head::read(&self.checkpoint, &self.config, &self.prefix, &embedding)
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
        let mut states = words;
        if let Some(positions) = &self.positions {
            if tokens.len() > config.positions {
                return Err(LmError::Sequence {
                    tokens: tokens.len(),
                    least: 1,
                    most: config.positions,
                });
            }
            states = (states + positions.narrow(0, 0, tokens.len())?)?;
        }
        if let Some(kind) = &self.kind {
            states = states.broadcast_add(kind)?;
        }
        self.norm.as_ref().map_or_else(|| Ok(states.clone()), |norm| norm.of(&states))
    }
}

fn embedding_name(config: &LmConfig, prefix: &str) -> String {
    format!("{prefix}{}.weight", config.about.embedding.tokens)
}
