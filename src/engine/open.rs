//! An engine over an artifact: what it is, and how it is told to run.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;

use super::model::{Adapter, Model, ModelError, ModelOptions};
use super::request::Engine;
use super::run::{Embedder, EngineOptions, Generator};
use crate::dequant::config::Method;
use crate::quantize::lm::LmConfig;
use crate::quantize::source::ModelSource;
use crate::store::artifact::Artifact;

/// The largest file of JSON that is read.
const MAX_JSON: u64 = 16 << 20;

/// An engine that runs.
#[derive(Clone)]
pub enum Running {
    /// It makes text.
    Text(Arc<Generator>),
    /// It makes embeddings.
    Embeddings(Arc<Embedder>),
}

impl Running {
    /// What it is asked through.
    pub fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Text(generator) => generator.clone(),
            Self::Embeddings(embedder) => embedder.clone(),
        }
    }

    /// Waits until every weight that stays in memory is there.
    ///
    /// # Errors
    /// If one cannot be had, or is not what was signed.
    pub fn wait(&self) -> Result<(), ModelError> {
        match self {
            Self::Text(generator) => generator.wait(),
            Self::Embeddings(_) => Ok(()),
        }
    }

    /// Whoever waits for weights waits no longer.
    pub fn stop(&self) {
        if let Self::Text(generator) = self {
            generator.stop();
        }
    }

    /// Whether its weights do not stay in memory.
    pub fn is_streamed(&self) -> bool {
        matches!(self, Self::Text(generator) if generator.is_streamed())
    }

    /// Bytes that its weights take in memory.
    pub fn weights_bytes(&self) -> usize {
        match self {
            Self::Text(generator) => generator.weights_bytes(),
            Self::Embeddings(embedder) => embedder.weights_bytes(),
        }
    }

    /// Why it stopped, if it did.
    pub fn failed(&self) -> Option<ModelError> {
        match self {
            Self::Text(generator) => generator.failed(),
            Self::Embeddings(_) => None,
        }
    }
}

/// Opens an artifact's model and starts an engine over it. Of a model that makes text the weights may still be on
/// their way. It blocks: call it outside of a runtime's threads.
///
/// # Errors
/// If it is no model that is run, an adapter is not one of it, or there is no room.
pub fn open(
    artifact: Artifact,
    adapters: &[(String, Artifact)],
    model: &ModelOptions,
    mut options: EngineOptions,
    runtime: &Handle,
) -> Result<Running, ModelError> {
    let json = runtime
        .block_on(read(&artifact, "config.json"))?
        .ok_or_else(|| ModelError::Missing("config.json".to_owned()))?;
    let config = LmConfig::parse(&json)?;
    let quantization = runtime.block_on(quantization(&artifact))?;
    if !config.is_causal() {
        if !adapters.is_empty() {
            let why = "a model that makes embeddings takes no adapters";
            return Err(ModelError::Adapter(why.to_owned()));
        }
        let source = ModelSource::artifact(artifact, runtime)
            .map_err(|error| ModelError::from(crate::quantize::lm::LmError::from(error)))?;
        return Ok(Running::Embeddings(Arc::new(Embedder::open(source, quantization)?)));
    }
    if options.ends.is_empty() {
        options.ends = runtime.block_on(ends(&artifact, &json))?;
    }
    let model = runtime.block_on(Model::open(artifact, model, None, runtime))?;
    let mut own = Vec::new();
    for (name, artifact) in adapters {
        own.push((name.clone(), Arc::<Adapter>::new(runtime.block_on(model.adapter(artifact))?)));
    }
    Ok(Running::Text(Generator::start(model, own, quantization, options)?))
}

/// A file of JSON; none if it is not there or is none.
async fn read(artifact: &Artifact, path: &str) -> Result<Option<Value>, ModelError> {
    let bytes = artifact.file(path, MAX_JSON).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The tokens that end texts, as transformers finds them.
async fn ends(artifact: &Artifact, config: &Value) -> Result<Vec<u32>, ModelError> {
    let generation = read(artifact, "generation_config.json").await?;
    let of = |json: &Value| -> BTreeSet<u32> {
        let one = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        match json.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => BTreeSet::new(),
        }
    };
    let mut found = generation.as_ref().map(of).unwrap_or_default();
    if found.is_empty() {
        found = of(config);
    }
    Ok(found.into_iter().collect())
}

/// How an artifact's weights are quantized, in a word or two.
///
/// # Errors
/// If its configuration cannot be read, or names a quantization that is not known.
pub async fn quantization(artifact: &Artifact) -> Result<String, ModelError> {
    Ok(match artifact.quantization().await? {
        None => "none".to_owned(),
        Some(Method::Gptq { bits, .. }) => format!("gptq {bits} bits"),
        Some(Method::Awq { .. }) => "awq 4 bits".to_owned(),
        Some(Method::Bnb4) => "bitsandbytes 4 bits".to_owned(),
        Some(Method::Bnb8) => "bitsandbytes int8".to_owned(),
        Some(Method::Packed { bits, .. }) => format!("compressed-tensors {bits} bits"),
        Some(Method::Bytes { .. }) => "compressed-tensors int8".to_owned(),
        Some(Method::Fp8 { .. }) => "fp8".to_owned(),
        Some(Method::Mxfp4) => "mxfp4".to_owned(),
        Some(Method::Nvfp4) => "nvfp4".to_owned(),
        Some(Method::Gguf(blocks)) => {
            let names: Vec<&str> = blocks.names().into_keys().collect();
            format!("gguf {}", names.join(" and "))
        }
    })
}
