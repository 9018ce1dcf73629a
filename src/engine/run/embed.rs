//! Embeddings by BERT: the mean of the last states, or the first of them, normalized, as sentence-transformers
//! does.

use std::sync::Mutex;

use serde_json::Value;

use crate::engine::model::ModelError;
use crate::engine::request::{Engine, Events, ModelInfo, Refused, Request};
use crate::quantize::lm::{Block, Context, LmError, Model, NoTap};
use crate::quantize::source::ModelSource;

/// What sentence-transformers says of pooling.
const POOLING: &str = "1_Pooling/config.json";

/// A model that makes embeddings.
pub struct Embedder {
    model: Model,
    /// Of the layers.
    blocks: Vec<Block>,
    /// The first state instead of the mean.
    first: bool,
    /// One at a time computes: it has all cores.
    turn: Mutex<()>,
    quantization: String,
}

impl Embedder {
    /// Reads the model whole.
    ///
    /// # Errors
    /// If it is not one of BERT's kind, or cannot be read.
    pub fn open(source: ModelSource, quantization: String) -> Result<Self, ModelError> {
        let model = Model::open(source)?;
        if model.config().is_causal() {
            let value = model.config().family.clone();
            return Err(LmError::Feature { what: "making embeddings with", value }.into());
        }
        let pooling = model.checkpoint().file(POOLING).ok();
        let pooling: Option<Value> = pooling.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let flag = |key: &str| pooling.as_ref().and_then(|own| own.get(key)?.as_bool());
        let first = flag("pooling_mode_cls_token") == Some(true);
        let blocks: Result<_, _> =
            (0..model.config().layers).map(|index| model.block(index)).collect();
        Ok(Self { blocks: blocks?, model, first, turn: Mutex::new(()), quantization })
    }

    /// Bytes of its weights in memory: f32, the embedding apart.
    pub fn weights_bytes(&self) -> usize {
        let linears = self.blocks.iter().flat_map(Block::linears);
        linears.map(|linear| linear.rows() * linear.columns() * size_of::<f32>()).sum()
    }

    fn one(&self, tokens: &[u32]) -> Result<Vec<f32>, LmError> {
        let context = Context::new(self.model.config(), tokens.len())?;
        let mut states = self.model.embed(&[tokens])?.pop().ok_or(LmError::Defect("no states"))?;
        for block in &self.blocks {
            states = block.forward(&states, &context, &mut NoTap)?;
        }
        let pooled = if self.first { states.get(0)? } else { states.mean(0)? };
        let mut values: Vec<f32> = pooled.to_vec1()?;
        let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let length = length.max(1e-12);
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(LmError::NotFinite("the model's output".to_owned())),
        }
    }
}

impl Engine for Embedder {
    fn info(&self) -> ModelInfo {
        let config = self.model.config();
        ModelInfo {
            max_context: config.positions,
            vocabulary: config.vocabulary,
            ends: Vec::new(),
            generates: false,
            quantization: self.quantization.clone(),
            adapters: Vec::new(),
        }
    }

    fn submit(&self, _: Request) -> Result<Events, Refused> {
        Err(Refused::Unable("this model makes embeddings, and no text"))
    }

    fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused> {
        let config = self.model.config();
        for tokens in texts {
            if tokens.is_empty() {
                return Err(Refused::Empty);
            }
            if tokens.len() > config.positions {
                let (tokens, most) = (tokens.len(), config.positions);
                return Err(Refused::TooLong { tokens, most });
            }
            let vocabulary = config.vocabulary;
            if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
                return Err(Refused::Token { token: *token, vocabulary });
            }
        }
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let failed = |error: LmError| Refused::Stopped(error.to_string());
        texts.iter().map(|tokens| self.one(tokens).map_err(failed)).collect()
    }
}
