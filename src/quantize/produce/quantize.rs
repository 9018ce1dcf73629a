//! Quantizing a model into the store, one layer at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::driver::{Driver, Events};
use super::layers::{self, Skip};
use super::memo::Memo;
use super::method::Solver;
use super::outline::{Bits, Layers, Quantized};
use super::plan;
use super::products;
use super::recipe::{ActOrder, Recipe};
use super::share;
use super::survey::{self, Digests, Surveyed};
use super::{ProduceError, TOOL, VERSION, known};
use crate::format::id::{ContentDigest, ManifestId};
use crate::format::name::{ArtifactName, Tag};
use crate::pack::{Lineage, PackError, PackOptions, PackReport, pack_inputs};
use crate::quantize::source::ModelSource;
use crate::schedule::shard::Shard;
use crate::store::Store;

/// How to quantize.
#[derive(Debug)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// The recipe.
    pub recipe: Recipe,
    /// Patterns for layers that are left as they are.
    pub skip: Vec<String>,
    /// Bits by layer, if the recipe says what they are on average.
    pub bits: Bits,
    /// Only this share of the weights, for whoever joins the shares: the result has no name, and is no model.
    pub share: Option<Shard>,
    /// Shares that others made of this model, for which whoever calls vouches.
    pub shares: Vec<ManifestId>,
    /// How the result is packed; its lineage is filled in here.
    pub pack: PackOptions,
}

impl QuantizeOptions {
    /// Quantizes every layer alike, and packs as `pack` says.
    pub fn new(recipe: Recipe, pack: PackOptions) -> Self {
        let (skip, shares) = (Vec::new(), Vec::new());
        Self { recipe, skip, bits: Bits::new(), share: None, shares, pack }
    }
}

/// What quantizing did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// What was packed.
    pub packed: PackReport,
    /// Weights that were computed.
    pub computed: u64,
    /// Weights that had been produced before.
    pub linked: u64,
    /// Linear layers that were left as they are.
    pub kept: Vec<String>,
    /// Files of the model that were left out.
    pub left_out: Vec<String>,
    /// Bits per code on average, over the weights that are quantized.
    pub average_bits: f64,
    /// GGUF: how many weights have each type in place of the method's, because their rows are no whole blocks of that.
    pub fell_back: BTreeMap<String, u64>,
    /// What the manifest says.
    pub quantization: Map<String, Value>,
}

/// Quantizes a model, as it was when it was opened, and publishes the result as `name:tag`. Blocks; call it from outside the runtime
/// that `runtime` drives.
///
/// # Errors
/// If the model is not whole or not one that can be quantized so, or it or the store fails.
pub fn quantize(
    checkpoint: &ModelSource,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: QuantizeOptions,
    solver: &mut dyn Solver,
    runtime: &Handle,
    events: &dyn Events,
) -> Result<QuantizeReport, ProduceError> {
    let QuantizeOptions { recipe, skip, bits, share, shares, pack: mut options } = options;
    recipe.check()?;
    let patterns = Skip::new(&skip)?;
    layers::check_source(checkpoint)?;
    let mut layers = plan::layers(checkpoint, &recipe, &patterns, &bits)?;
    let digest = products::recipe_digest(&recipe)?;
    // Shapes first: whatever does not fit is said before anything is read.
    plan::plan(checkpoint, &layers, &recipe, Vec::new())?;
    if let Some(share) = share {
        if recipe.method.is_calibrated() {
            return Err(ProduceError::Share);
        }
        let tensors = checkpoint.tensors();
        share::keep(&mut layers, share, |at| {
            let tensor = tensors.get(at);
            tensor.and_then(|own| own.shape.byte_len(own.dtype)).unwrap_or(0)
        });
        options.unnamed = true;
    }
    let digests = Digests::new(checkpoint, options.threads);
    if recipe.method.is_calibrated() {
        let named = digests.of_all()?.into_iter().zip(checkpoint.tensors());
        let named: Vec<_> = named.map(|(digest, tensor)| (&*tensor.name, digest)).collect();
        solver.sources(&named, &layers.kept);
    }
    let mut memo = Memo::open(store, (&options.trust, &shares), digest, runtime)?;
    let surveyed = survey::survey(checkpoint, &layers, &recipe, &digests, &memo, solver)?;
    survey::look(checkpoint, &mut layers, &recipe, &surveyed.weights, options.threads)?;
    runtime.block_on(store.create())?;
    memo.attach()?;
    let keys = |all: &[Surveyed]| all.iter().map(|own| own.key).collect::<Vec<_>>();
    let keys = [keys(&surveyed.weights), keys(&surveyed.vectors)];
    let listed = plan::list(&layers, &recipe, checkpoint, &keys)?;
    let listed = products::write(listed, digest)?;
    let plan = match share {
        None => plan::plan(checkpoint, &layers, &recipe, listed)?,
        Some(_) => share::plan(&layers, plan::announced(checkpoint, &layers, &recipe)?, listed)?,
    };
    let mut quantization = lineage(&recipe, &skip, digest)?;
    if let Some(was) = checkpoint.was() {
        quantization.insert("dequantized_from".to_owned(), was.into());
    }
    if let Some(share) = share {
        quantization.insert("share".to_owned(), share.to_string().into());
    }
    options.lineage = Lineage {
        quantization: Some(quantization.clone()),
        source: checkpoint.id().map(|id| Map::from_iter([("manifest".to_owned(), json!(id))])),
        incomplete: checkpoint.incomplete(),
        ..Lineage::default()
    };
    if let Some(artifact) = checkpoint.as_artifact() {
        // What stays the same is linked, however short, if it is in this store at all.
        let here = runtime.block_on(store.has_graph(artifact.id()));
        options.base = options.base.or(here.then(|| artifact.id()));
        options.model_id = options.model_id.take().or_else(|| artifact.manifest().model_id.clone());
    }
    let mut known = plan.clone();
    known::take_over(&mut known, &surveyed, &digests, &memo, &options)?;
    let options = Arc::new(options);
    // A file that is gone since it was looked at is made.
    let mut tries = [known, plan].into_iter();
    let (packed, computed, linked, left_out) = loop {
        let Some(plan) = tries.next() else { return Err(PackError::NotGenerated.into()) };
        let left_out = plan.left_out.clone();
        let with = (options.threads, events);
        let model = (checkpoint, &layers);
        let mut driver = Driver::new(model, &recipe, plan, &surveyed, &mut memo, solver, with);
        let inputs = driver.inputs();
        let packed =
            pack_inputs(&inputs, &mut driver, store, (name, tag), &options, runtime, events);
        match (packed, driver.failed.take()) {
            (Err(PackError::Gone(_)), _) if tries.len() > 0 => {}
            (Err(PackError::NotGenerated), Some(error)) => return Err(error),
            (packed, _) => break (packed?, driver.computed, driver.linked, left_out),
        }
    };
    memo.complete(packed.manifest);
    if share.is_none() {
        memo.tell(packed.manifest);
    }
    let average_bits = average(checkpoint, &layers);
    let Layers { kept, fell_back, .. } = layers;
    Ok(QuantizeReport {
        packed,
        computed,
        linked,
        kept,
        left_out,
        average_bits,
        fell_back,
        quantization,
    })
}

/// Bits per code on average.
fn average(checkpoint: &ModelSource, layers: &Layers) -> f64 {
    let elements = |own: &Quantized| {
        checkpoint.tensors().get(own.tensor).and_then(|t| t.shape.elements()).unwrap_or(0) as f64
    };
    let (mut bits, mut all) = (0.0, 0.0);
    for own in &layers.quantized {
        bits += elements(own) * f64::from(own.bits);
        all += elements(own);
    }
    if all > 0.0 { bits / all } else { 0.0 }
}

/// What the manifest says of the quantization.
fn lineage(
    recipe: &Recipe,
    skip: &[String],
    digest: ContentDigest,
) -> Result<Map<String, Value>, ProduceError> {
    let object = json!({
        "act_order": recipe.has_index(),
        "backend": "native",
        "bits": recipe.bits,
        "double_quant": recipe.double_quant,
        "format": recipe.format,
        "group_size": recipe.group_size.map_or(-1, i64::from),
        "method": recipe.method,
        "products": products::FILE,
        "recipe": digest,
        "skip": skip,
        "symmetric": recipe.symmetric,
        "tool": TOOL,
        "tool_version": VERSION,
    });
    let mut object = products::object(object)?;
    if let Some(order) = recipe.act_order.and_then(ActOrder::recorded) {
        object.insert("column_order".to_owned(), order.into());
    }
    if let Some(average) = recipe.average_bits {
        let average = format!("{}.{:02}", average / 100, average % 100);
        object.insert("average_bits".to_owned(), average.into());
    }
    Ok(object)
}
