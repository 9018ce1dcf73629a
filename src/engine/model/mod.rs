//! A language model that is run layer by layer, on weights as they are stored, while they still arrive.

mod adapter;
mod arrive;
mod build;
mod error;
mod layer;
mod outline;
mod place;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;

pub use adapter::Adapter;
pub use arrive::Arrival;
pub use error::ModelError;

use crate::dequant::Float;
use crate::dequant::config::Method;
use crate::engine::compute::{Cache, Manner, Matrix, Sight, States, Turns, product, rms_norm, row};
use crate::load::LoadOptions;
use crate::quantize::lm::{LmConfig, LmError};
use crate::store::artifact::{Artifact, SelectedTensors, Selection};
use arrive::{Source, Weights};
use build::Known;
use layer::{Room, Step};
use outline::Outline;

/// The largest `config.json` that is read.
const MAX_JSON: u64 = 16 << 20;
/// Layers that are in memory at a time where they do not all stay: the one in use, and the next.
const PASSING: u64 = 2;

/// A model whose weights are there, or on their way.
pub struct Model {
    config: LmConfig,
    outline: Outline,
    weights: Weights,
    frequencies: Vec<f64>,
    room: Room,
    kept: usize,
    method: Option<Method>,
}

/// Weights of a model, for the next one.
#[derive(Clone, Default)]
pub struct Kept(Known);

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// The most bytes that its weights take; without, as many as they need.
    pub memory: Option<u64>,
    /// How its tensors are loaded.
    pub load: LoadOptions,
}

/// One state of a step: a token in its text.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// Which.
    pub token: u32,
    /// Its place in the text.
    pub position: usize,
    /// The blocks of the text; the token's own is among them.
    pub blocks: &'a [u32],
    /// What is applied beside the weights.
    pub adapter: Option<Arc<Adapter>>,
    /// Whether its logits are wanted.
    pub wanted: bool,
}

impl Model {
    /// Reads what an artifact says of its model, and begins to load the weights. Those that `before`
    /// has are not loaded again.
    ///
    /// # Errors
    /// If it is no model that is run, or does not fit into memory.
    pub async fn open(
        artifact: Artifact,
        options: &ModelOptions,
        before: Option<Kept>,
        runtime: &Handle,
    ) -> Result<Self, ModelError> {
        let bytes = artifact.file("config.json", MAX_JSON).await?;
        let json: Value = bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ModelError::Missing("config.json".to_owned()))?;
        let config = LmConfig::parse(&json)?;
        if let Some(value) = config.beyond_llama() {
            return Err(
                LmError::Feature { what: "in the embedded engine, a model with", value }.into()
            );
        }
        let method = artifact.quantization().await?;
        let all = artifact.select(&Selection::All, None).await?;
        let outline = Outline::new(&config, &json, method.as_ref(), &all.tensors)?;
        let known = before.map(|before| before.0).unwrap_or_default();
        let kept = kept(&outline, options.memory)?;
        let source = Source {
            artifact,
            outline: outline.clone(),
            method: method.clone(),
            options: options.load.clone(),
            known: Arc::new(known),
        };
        let weights = Weights::start(source, kept, runtime);
        let frequencies = config.frequencies();
        Ok(Self { config, outline, weights, frequencies, room: Room::default(), kept, method })
    }

    /// Its numbers.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Whether weights come anew for each step, because they do not fit into memory.
    pub fn is_streamed(&self) -> bool {
        self.kept < self.config.layers
    }

    /// Its weights, for the next model.
    pub fn kept(&self) -> Kept {
        Kept(self.weights.known(&self.outline))
    }

    /// To wait for its weights.
    pub fn arrival(&self) -> Arrival {
        self.weights.arrival()
    }

    /// Room for the keys and values of so many blocks.
    pub fn cache(&self, blocks: usize) -> Cache {
        Cache::new(self.config.layers, self.config.kv_heads, self.config.head_dim, blocks)
    }

    /// Bytes of one block of keys and values.
    pub fn block_bytes(&self) -> usize {
        Cache::block_bytes(self.config.layers, self.config.kv_heads, self.config.head_dim)
    }

    /// Runs tokens through the model, and returns the logits, `[wanted, vocabulary]`, of those that are wanted.
    /// Keys and values are put into `cache`. Tokens of one text stand in order.
    ///
    /// # Errors
    /// If a weight cannot be had, or is not what was signed: no logits come of those that could.
    pub fn step(&mut self, tokens: &[Token<'_>], cache: &mut Cache) -> Result<States, ModelError> {
        let config = &self.config;
        let embedding = self.weights.embedding()?;
        let mut states = States::new(tokens.len(), config.hidden);
        for (at, token) in tokens.iter().enumerate() {
            row(&embedding, token.token as usize, states.row_mut(at));
        }
        let place = |token: &Token<'_>| {
            let block = token.blocks.get(token.position / crate::engine::compute::BLOCK);
            (block.copied().unwrap_or(u32::MAX), token.position % crate::engine::compute::BLOCK)
        };
        let step = Step {
            turns: Turns::new(&self.frequencies, tokens.iter().map(|token| token.position)),
            sights: tokens
                .iter()
                .map(|token| Sight { blocks: token.blocks, position: token.position })
                .collect(),
            places: tokens.iter().map(place).collect(),
            adapters: tokens.iter().map(|token| token.adapter.clone()).collect(),
            epsilon: config.epsilon,
        };
        for index in 0..config.layers {
            let layer = self.weights.layer(index)?;
            let manner = Manner {
                layer: index,
                heads: config.heads,
                scale: 1.0 / (config.head_dim as f32).sqrt(),
                window: config.windows.get(index).copied().flatten(),
            };
            layer.run(index, manner, &step, cache, &mut states, &mut self.room);
        }
        let end = self.weights.end()?;
        let wanted = tokens.iter().enumerate().filter(|(_, token)| token.wanted);
        let wanted: Vec<usize> = wanted.map(|(at, _)| at).collect();
        let mut last = States::new(wanted.len(), config.hidden);
        for (to, from) in last.rows_mut().zip(&wanted) {
            to.copy_from_slice(states.row(*from));
        }
        let (norm, head) = &*end;
        rms_norm(&mut last, norm, config.epsilon);
        let mut logits = States::new(wanted.len(), config.vocabulary);
        product(head.as_ref().unwrap_or(&embedding), &last, &mut logits);
        Ok(logits)
    }

    /// Loads an adapter for this model: a PEFT folder that was packed.
    ///
    /// # Errors
    /// If it is no LoRA adapter of this model.
    pub async fn adapter(&self, artifact: &Artifact) -> Result<Adapter, ModelError> {
        let bytes = artifact.file("adapter_config.json", MAX_JSON).await?;
        let config: Value =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
                ModelError::Adapter("adapter_config.json is missing, or no JSON".to_owned())
            })?;
        let scale = Adapter::scale(&config)?;
        let tensors = artifact.select(&Selection::All, None).await?.tensors;
        let selected = SelectedTensors { tensors, ..SelectedTensors::default() };
        let options = LoadOptions { budget: u64::MAX, ..LoadOptions::default() };
        let mut loader = artifact.load(selected, &options);
        let mut halves = HashMap::new();
        while let Some(tensor) = loader.next().await {
            let tensor = tensor?;
            let entry = &tensor.request.entry;
            let wrong =
                |why: &str| ModelError::Adapter(format!("adapter's tensor {}: {why}", entry.name));
            let Some((place, second)) = Adapter::place(&entry.name) else {
                return Err(wrong("no linear layer of this model"));
            };
            let float = Float::of_dtype(entry.dtype).ok_or_else(|| wrong("no floats"))?;
            let &[rows, columns] = entry.shape.dims() else { return Err(wrong("no matrix")) };
            let matrix =
                Matrix::floats(rows as usize, columns as usize, float, tensor.data.clone());
            halves.insert((place, second), matrix.ok_or_else(|| wrong("too few bytes"))?);
        }
        let places: Vec<_> =
            halves.keys().filter(|(_, second)| !second).map(|(own, _)| *own).collect();
        let mut pairs = HashMap::new();
        for place in places {
            let pair = halves.remove(&(place, false)).zip(halves.remove(&(place, true)));
            let wanted = self.outline.layers.get(place.layer).and_then(|group| {
                let end = format!("{}.weight", place.part.name());
                group.0.iter().find(|plan| plan.name.ends_with(&end)).map(|plan| plan.shape.clone())
            });
            match (pair, wanted.as_deref()) {
                (Some((down, up)), Some([rows, columns]))
                    if down.columns() == *columns
                        && up.rows() == *rows
                        && up.columns() == down.rows() =>
                {
                    pairs.insert(place, [down, up]);
                }
                _ => {
                    let name = place.part.name();
                    return Err(ModelError::Adapter(format!(
                        "the adapter's pair for layer {} {name} does not fit this model",
                        place.layer
                    )));
                }
            }
        }
        if !halves.is_empty() {
            return Err(ModelError::Adapter("the adapter has halves of pairs".to_owned()));
        }
        Ok(Adapter::new(pairs, scale))
    }

    /// How its weights are quantized, if they are.
    pub fn method(&self) -> Option<Method> {
        self.method.clone()
    }
}

/// How many layers stay within so many bytes.
fn kept(outline: &Outline, memory: Option<u64>) -> Result<usize, ModelError> {
    let total: u64 = outline.groups().map(|group| group.bytes()).sum();
    let layers = outline.layers.len();
    let Some(memory) = memory.filter(|memory| *memory < total) else { return Ok(layers) };
    let largest = outline.layers.iter().map(|group| group.bytes()).max().unwrap_or(0);
    let fixed = outline.embedding.bytes() + outline.end.bytes() + PASSING * largest;
    let mib = |bytes: u64| usize::try_from(bytes.div_ceil(1 << 20)).unwrap_or(usize::MAX);
    let mut left = memory.checked_sub(fixed).ok_or(ModelError::Memory {
        what: "the embedding, the head and two layers",
        need: mib(fixed),
        have: mib(memory),
    })?;
    let fits = outline.layers.iter().take_while(|group| {
        let fits = group.bytes() <= left;
        left = left.saturating_sub(group.bytes());
        fits
    });
    Ok(fits.count().min(layers))
}
