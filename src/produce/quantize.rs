//! Quantizing a model into the store, one layer at a time.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::checkpoint::{Checkpoint, Reader, Source};
use super::gguf;
use super::layers::{self, Skip};
use super::memo::{Memo, Streams};
use super::method::{Layer, Solver, encode};
use super::plan::{self, Content, From, Layers, Plan};
use super::products::{self, Product};
use super::recipe::Recipe;
use super::survey::{self, Surveyed, matrix};
use super::{ProduceError, TOOL, VERSION};
use crate::dtype::Shape;
use crate::format::name::{ArtifactName, Tag};
use crate::id::ContentDigest;
use crate::model::{Part, PartKind};
use crate::pack::{
    Held, Input, Lineage, MadeFile, Maker, PackError, PackOptions, PackReport, Progress,
    pack_inputs,
};
use crate::quant::encode::Encoded;
use crate::quant::{Float, convert};
use crate::store::Store;

/// How to quantize.
#[derive(Debug)]
pub struct QuantizeOptions {
    /// The recipe.
    pub recipe: Recipe,
    /// Patterns for layers that are left as they are.
    pub skip: Vec<String>,
    /// How the result is packed; its lineage is filled in here.
    pub pack: PackOptions,
}

/// What quantizing did.
#[derive(Debug, Clone, PartialEq)]
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
    /// What the manifest says.
    pub quantization: Map<String, Value>,
}

/// Follows a run.
pub trait Events: Progress {
    /// A weight is done: computed, or found.
    fn layer(&self, _name: &str, _computed: bool) {}
}

impl Events for () {}

/// Quantizes a model and publishes the result as `name:tag`. Blocks; call it from outside the runtime
/// that `runtime` drives.
pub fn quantize(
    source: Source,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: QuantizeOptions,
    solver: &mut dyn Solver,
    runtime: &Handle,
    events: &dyn Events,
) -> Result<QuantizeReport, ProduceError> {
    let QuantizeOptions { recipe, skip, pack: mut options } = options;
    recipe.check()?;
    let patterns = Skip::new(&skip)?;
    let checkpoint = Checkpoint::open(source, runtime)?;
    layers::check_config(&checkpoint.config)?;
    let mut layers = plan::layers(&checkpoint, &recipe, &patterns)?;
    let digest = products::recipe_digest(&recipe)?;
    // Shapes first: whatever does not fit is said before anything is read.
    plan::plan(&checkpoint, &layers, &recipe, Vec::new())?;
    let digests = survey::digests(&checkpoint, &layers, options.threads)?;
    if recipe.method.is_calibrated() {
        let all = survey::all(&checkpoint, &layers, &digests, options.threads)?;
        let named = checkpoint.tensors.iter().zip(all);
        let named: Vec<_> = named.map(|(tensor, digest)| (&*tensor.name, digest)).collect();
        solver.sources(&named, &layers.kept);
    }
    let mut memo = Memo::open(store, &options.trust, digest, runtime)?;
    let mut surveyed = Vec::with_capacity(digests.len());
    for (own, source) in layers.quantized.iter().zip(digests) {
        let tensor = &checkpoint.tensors[own.tensor];
        let what = (tensor.name.as_str(), tensor.dtype, &tensor.shape);
        // Heads decide the bytes as statistics would.
        let heads =
            own.heads.map(|heads| *blake3::hash(format!("{heads} heads").as_bytes()).as_bytes());
        let statistics = solver.statistics(&tensor.name).or(heads);
        let key = products::key(digest, what, source, statistics)?;
        let hit = memo.find(&key).filter(|hit| {
            hit.tensors()
                .iter()
                .all(|t| t.name.strip_prefix(&own.layer).is_some_and(|rest| rest.starts_with('.')))
        });
        surveyed.push(Surveyed { key, hit });
    }
    survey::look(&checkpoint, &mut layers, &recipe, &surveyed, options.threads)?;
    runtime.block_on(store.create())?;
    memo.attach()?;
    let listed = list(&layers, &recipe, &checkpoint, &surveyed)?;
    let plan = plan::plan(&checkpoint, &layers, &recipe, products::write(listed, digest)?)?;
    let quantization = lineage(&recipe, &skip, digest);
    options.lineage = Lineage {
        quantization: Some(quantization.clone()),
        source: checkpoint
            .artifact
            .as_ref()
            .map(|artifact| Map::from_iter([("manifest".to_owned(), json!(artifact.id()))])),
        ..Lineage::default()
    };
    if let Some(artifact) = &checkpoint.artifact {
        // What stays the same is linked, however short, if it is in this store at all.
        let here = runtime.block_on(store.manifest(artifact.id())).is_ok();
        options.base = options.base.or(here.then(|| artifact.id()));
        options.model_id = options.model_id.or_else(|| artifact.manifest().model_id.clone());
    }
    let mut driver = Driver::new(&checkpoint, &layers, &recipe, plan, surveyed, &mut memo, solver);
    driver.threads = options.threads.max(1);
    driver.events = Some(events);
    let inputs = driver.inputs()?;
    let packed = pack_inputs(&inputs, &mut driver, store, (name, tag), options, runtime, events);
    let (computed, linked) = (driver.computed, driver.linked);
    let (error, left_out) = (driver.error.take(), std::mem::take(&mut driver.plan.left_out));
    let packed = match (packed, error) {
        (Err(PackError::Unmade), Some(error)) => return Err(error),
        (packed, _) => packed?,
    };
    memo.complete(packed.manifest);
    Ok(QuantizeReport { packed, computed, linked, kept: layers.kept, left_out, quantization })
}

/// What the manifest says of the quantization.
fn lineage(recipe: &Recipe, skip: &[String], digest: ContentDigest) -> Map<String, Value> {
    let object = json!({
        "act_order": recipe.act_order,
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
    object.as_object().cloned().unwrap_or_default()
}

/// What the result says that it was produced from.
fn list(
    layers: &Layers,
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    surveyed: &[Surveyed],
) -> Result<Vec<Product>, ProduceError> {
    let planned = plan::plan(checkpoint, layers, recipe, Vec::new())?;
    let each = layers.quantized.iter().zip(&planned.products).zip(surveyed);
    let product = |((own, becomes), surveyed): ((&plan::Quantized, &Vec<_>), &Surveyed)| {
        let name = |(end, _, _): &(&str, _, _)| format!("{}.{end}", own.layer);
        Product { key: surveyed.key, tensors: becomes.iter().map(name).collect() }
    };
    Ok(each.map(product).collect())
}

/// Makes the parts of the result while it is packed.
struct Driver<'a> {
    checkpoint: &'a Checkpoint,
    layers: &'a Layers,
    recipe: &'a Recipe,
    plan: Plan,
    contents: Vec<Content>,
    surveyed: Vec<Surveyed>,
    memo: &'a mut Memo,
    solver: &'a mut dyn Solver,
    reader: Reader<'a>,
    streams: Streams,
    /// Tensors that are made and not yet packed.
    ready: HashMap<(usize, usize), Bytes>,
    threads: usize,
    events: Option<&'a dyn Events>,
    computed: u64,
    linked: u64,
    error: Option<ProduceError>,
}

impl<'a> Driver<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        layers: &'a Layers,
        recipe: &'a Recipe,
        plan: Plan,
        surveyed: Vec<Surveyed>,
        memo: &'a mut Memo,
        solver: &'a mut dyn Solver,
    ) -> Self {
        let contents: Vec<Content> = plan.files.values().cloned().collect();
        // The order in which parts are asked for.
        let mut from_model = Vec::new();
        let mut found = Vec::new();
        let mut seen = vec![false; surveyed.len()];
        for content in &contents {
            let Content::Tensors { from, .. } = content else { continue };
            for from in from {
                match *from {
                    From::Model(tensor) => from_model.push(tensor),
                    From::Product(product, _) if !std::mem::replace(&mut seen[product], true) => {
                        match &surveyed[product].hit {
                            Some(hit) => found.push(hit.clone()),
                            None => from_model.push(layers.quantized[product].tensor),
                        }
                    }
                    From::Floats(tensor) => from_model.push(tensor),
                    From::Product(..) | From::Zeros(_) => {}
                }
            }
        }
        let reader = checkpoint.reader(from_model.into_iter());
        let streams = memo.reader(found.iter());
        Self {
            checkpoint,
            layers,
            recipe,
            plan,
            contents,
            surveyed,
            memo,
            solver,
            reader,
            streams,
            ready: HashMap::new(),
            threads: 1,
            events: None,
            computed: 0,
            linked: 0,
            error: None,
        }
    }

    /// The files that are packed.
    fn inputs(&self) -> Result<Vec<Input>, ProduceError> {
        let content = |len| match len {
            0 => Vec::new(),
            len => vec![Part { offset: 0, len, kind: PartKind::Content }],
        };
        let input = |(path, own): (&String, &Content)| {
            let (executable, parts) = match own {
                Content::Same(file) => {
                    let file = &self.checkpoint.files[*file];
                    if let Some(disk) = &file.disk {
                        return Input::File(Arc::clone(disk));
                    }
                    (file.executable, content(file.size))
                }
                Content::Bytes(bytes) => (false, content(bytes.len() as u64)),
                Content::Tensors { parts, .. } => (false, parts.clone()),
            };
            Input::Made(MadeFile { path: path.clone(), executable, parts })
        };
        Ok(self.plan.files.iter().map(input).collect())
    }

    fn part(&mut self, file: usize, part: usize) -> Result<Held, ProduceError> {
        let defect = || ProduceError::Defect(format!("part {part} of file {file}"));
        let from = match self.contents.get(file).ok_or_else(defect)? {
            Content::Same(file) => {
                let bytes = self.checkpoint.bytes(&self.checkpoint.files[*file])?;
                return Ok(Held::Memory(bytes));
            }
            Content::Bytes(bytes) => return Ok(Held::Memory(bytes.clone().into())),
            Content::Tensors { header, .. } if part == 0 => {
                return Ok(Held::Memory(header.clone().into()));
            }
            Content::Tensors { from, .. } => *from.get(part - 1).ok_or_else(defect)?,
        };
        match from {
            From::Model(tensor) => self.unchanged(tensor),
            From::Floats(tensor) => {
                let bytes = self.reader.read(tensor)?;
                let own = &self.checkpoint.tensors[tensor];
                let float = Float::of_dtype(own.dtype).ok_or_else(|| {
                    ProduceError::Unsupported(format!("tensor {}: no floats", own.name))
                })?;
                Ok(Held::Memory(convert(&bytes, float, Float::F32).into()))
            }
            From::Zeros(len) => {
                Ok(Held::Memory(vec![0; usize::try_from(len).map_err(|_| defect())?].into()))
            }
            From::Product(product, own) => {
                if !self.ready.contains_key(&(product, own)) {
                    self.produce(product)?;
                }
                self.ready.remove(&(product, own)).map(Held::Memory).ok_or_else(defect)
            }
        }
    }

    /// A tensor of the model as it is, unless the method changes it.
    fn unchanged(&mut self, tensor: usize) -> Result<Held, ProduceError> {
        let held = self.checkpoint.on_disk(tensor);
        let bytes = self.reader.read(tensor)?;
        let name = &self.checkpoint.tensors[tensor].name;
        match self.solver.change(name, &bytes)? {
            Some(changed) if changed.len() == bytes.len() => Ok(Held::Memory(changed.into())),
            Some(_) => Err(ProduceError::Defect(name.clone())),
            None => Ok(held.unwrap_or_else(|| Held::Memory(bytes.into_bytes()))),
        }
    }

    /// Links or computes what a weight becomes.
    fn produce(&mut self, product: usize) -> Result<(), ProduceError> {
        let own = &self.layers.quantized[product];
        let name = &self.checkpoint.tensors[own.tensor].name;
        let becomes = &self.plan.products[product];
        if let Some(hit) = &self.surveyed[product].hit {
            let known = hit.tensors();
            let fits = known.len() == becomes.len()
                && known.iter().zip(becomes).all(|(known, (end, dtype, dims))| {
                    known.name == format!("{}.{end}", own.layer)
                        && (known.dtype, &known.dims) == (*dtype, dims)
                });
            let read = match fits {
                true => self.memo.read(&mut self.streams, hit)?,
                false => None,
            };
            if let Some(read) = read {
                let all = read.into_iter().enumerate();
                self.ready.extend(all.map(|(part, bytes)| ((product, part), bytes)));
                self.linked += 1;
                self.events.inspect(|events| events.layer(name, false));
                return Ok(());
            }
        }
        let bytes = match self.surveyed[product].hit {
            // It was to be linked, so that nothing announced that its weight would be read.
            Some(_) => self.checkpoint.reader(std::iter::once(own.tensor)).read(own.tensor)?,
            None => self.reader.read(own.tensor)?,
        };
        let permuted = own
            .heads
            .map(|heads| permute(&bytes, &self.checkpoint.tensors[own.tensor].shape, heads));
        let bytes = match &permuted {
            Some(permuted) => permuted.as_deref().ok_or_else(|| {
                ProduceError::Unsupported(format!("tensor {name}: its rows are not those of heads"))
            })?,
            None => &bytes,
        };
        let weight = matrix(self.checkpoint, own, bytes)?;
        let encoded = encode(&Layer { name, weight }, self.recipe, self.solver, self.threads)?;
        let is = |(made, (end, dtype, dims)): (&Encoded, &(&str, _, Vec<u64>))| {
            (made.end, made.dtype, &made.dims) == (*end, *dtype, dims)
        };
        let mut encoded = encoded;
        encoded.sort_by_key(|made| becomes.iter().position(|(end, _, _)| *end == made.end));
        if encoded.len() != becomes.len() || !encoded.iter().zip(becomes).all(is) {
            return Err(ProduceError::Defect(name.clone()));
        }
        self.memo.note(self.surveyed[product].key, &own.layer, &encoded);
        for (part, made) in encoded.into_iter().enumerate() {
            self.ready.insert((product, part), made.bytes.into());
        }
        self.computed += 1;
        self.events.inspect(|events| events.layer(name, true));
        Ok(())
    }
}

/// The rows of a weight in the order that GGUF has them; `None` if they are not whole heads.
fn permute(bytes: &[u8], shape: &Shape, heads: u64) -> Option<Vec<u8>> {
    let rows = usize::try_from(*shape.dims().first()?).ok()?;
    let size = rows.checked_div(usize::try_from(heads).ok()?)?;
    if size == 0 || !size.is_multiple_of(2) || !rows.is_multiple_of(size) {
        return None;
    }
    let width = bytes.len() / rows;
    let mut permuted = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let from = gguf::source_row(row, size) * width;
        permuted.extend_from_slice(bytes.get(from..from + width)?);
    }
    Some(permuted)
}

impl Maker for Driver<'_> {
    fn make(&mut self, file: usize, part: usize) -> Result<Held, PackError> {
        self.part(file, part).map_err(|error| {
            self.error = Some(error);
            PackError::Unmade
        })
    }

    fn finish(&mut self) -> Result<(), PackError> {
        for file in self.checkpoint.files.iter().filter_map(|file| file.disk.as_ref()) {
            if let Err(error) = file.check_unchanged() {
                self.memo.forget();
                return Err(error.into());
            }
        }
        Ok(())
    }
}
