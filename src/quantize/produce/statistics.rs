//! Statistics of a model as an artifact: measured once, found again by whoever quantizes the same model with
//! the same text.

use serde_json::json;
use tokio::runtime::Handle;

use super::header::{self, Entry};
use super::outline::Bits;
use super::recipe::Recipe;
use super::survey::model_digest;
use super::{ProduceError, RecipeError, TOOL, VERSION, layers, solvers};
use crate::dequant::Float;
use crate::format::dtype::{Dtype, Shape};
use crate::format::id::ManifestId;
use crate::format::json as canonical;
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::pack::model::{Part, PartKind};
use crate::pack::{
    GeneratedFile, Held, Input, Lineage, PackError, PackOptions, PartSource, pack_inputs,
};
use crate::quantize::calibrate::{
    CalibrationSamples, Sensitivity, Statistics, allocate, least_errors, measure, sensitivities,
};
use crate::quantize::lm::Model;
use crate::quantize::source::ModelSource;
use crate::store::artifact::{Artifact, OpenOptions};
use crate::store::{Store, StoreError};

/// The file of the statistics themselves.
const FILE: &str = "statistics.safetensors";
/// The file that says what they are of.
const ABOUT: &str = "statistics.json";
const FORMAT: &str = "tenpak-statistics";
/// The largest of either that is read.
const MAX: u64 = 1 << 30;

/// Statistics, and where they are.
#[derive(Debug)]
pub struct Obtained {
    /// The statistics.
    pub statistics: Statistics,
    /// The artifact that holds them; none if they are kept nowhere.
    pub manifest: Option<ManifestId>,
    /// Whether they were there already.
    pub reused: bool,
}

/// Where statistics are kept.
#[derive(Debug)]
pub struct Keeping<'a> {
    /// The store.
    pub store: &'a Store,
    /// The artifact's name.
    pub name: (&'a ArtifactName, &'a Tag),
    /// Whose artifacts count.
    pub open: OpenOptions,
    /// How they are packed; lineage is filled in here.
    pub pack: PackOptions,
}

/// The statistics of a model fed with these tokens: those that are kept under that name, if they are of the
/// same model and the same tokens, or else measured, and kept there.
///
/// # Errors
/// If the model cannot be run, or the store fails.
pub fn statistics(
    checkpoint: &ModelSource,
    model: &Model,
    samples: &CalibrationSamples,
    keeping: Option<Keeping<'_>>,
    runtime: &Handle,
) -> Result<Obtained, ProduceError> {
    let Some(Keeping { store, name, open, pack }) = keeping else {
        let statistics = measure(model, samples)?;
        return Ok(Obtained { statistics, manifest: None, reused: false });
    };
    let about = about(checkpoint, samples, pack.threads)?;
    if let Some((manifest, statistics)) = kept(store, name, &open, &about, runtime)? {
        return Ok(Obtained { statistics, manifest: Some(manifest), reused: true });
    }
    let statistics = measure(model, samples)?;
    let manifest = keep(&statistics, about, checkpoint, store, name, pack, runtime)?;
    Ok(Obtained { statistics, manifest: Some(manifest), reused: false })
}

/// What tells statistics from others: canonical JSON.
fn about(
    checkpoint: &ModelSource,
    samples: &CalibrationSamples,
    threads: usize,
) -> Result<Vec<u8>, ProduceError> {
    let source = model_digest(checkpoint, threads)?;
    let object = json!({
        "calibration": samples.digest(),
        "format": FORMAT,
        "source": source,
        "tool": TOOL,
        "tool_version": VERSION,
    });
    Ok(canonical::to_bytes(&object)?)
}

/// What is kept under that name, if it is of just this.
fn kept(
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    open: &OpenOptions,
    about: &[u8],
    runtime: &Handle,
) -> Result<Option<(ManifestId, Statistics)>, ProduceError> {
    let spec = ArtifactSpec::Named { name: name.clone(), tag: tag.clone() };
    let artifact = match runtime.block_on(Artifact::open(store.clone(), &spec, open)) {
        Ok(artifact) => artifact,
        Err(StoreError::NoStore { .. } | StoreError::NoArtifact { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let said = runtime.block_on(artifact.file(ABOUT, MAX))?;
    if said.as_deref() != Some(about) {
        return Ok(None);
    }
    let id = artifact.id();
    let kept = ModelSource::artifact(artifact, runtime)?;
    let mut reader = kept.reader(0..kept.tensors().len());
    let read = (0..kept.tensors().len()).map(|at| reader.read(at));
    let read = read.collect::<Result<Vec<_>, _>>()?;
    let tensors = kept.tensors().iter().zip(&read);
    let tensors = tensors.map(|(tensor, bytes)| (&*tensor.name, tensor.dtype, &**bytes));
    Ok(Some((id, Statistics::of_tensors(tensors)?)))
}

/// Packs statistics under that name.
fn keep(
    statistics: &Statistics,
    about: Vec<u8>,
    checkpoint: &ModelSource,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    mut options: PackOptions,
    runtime: &Handle,
) -> Result<ManifestId, ProduceError> {
    let tensors = statistics.to_tensors();
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, bytes) in &tensors {
        let shape = Shape::new(vec![bytes.len() as u64 / 4]);
        let shape = shape.ok_or_else(|| ProduceError::Defect(name.clone()))?;
        entries.push(Entry { name: name.clone(), dtype: Dtype::F32, shape });
    }
    let (header, parts) = header::layout(&entries.iter().collect::<Vec<_>>());
    let made = |path: &str, parts| {
        Input::Made(GeneratedFile { path: path.to_owned(), executable: false, parts })
    };
    let content = Part { offset: 0, len: about.len() as u64, kind: PartKind::Content };
    let inputs = [made(ABOUT, vec![content]), made(FILE, parts)];
    let data = tensors.into_iter().map(|(_, bytes)| bytes);
    let mut maker = Ready([vec![about], std::iter::once(header).chain(data).collect()]);
    let source = checkpoint.id();
    let source = source.map(|id| [("manifest".to_owned(), json!(id))].into_iter().collect());
    options.lineage = Lineage { source, ..Lineage::default() };
    options.base = None;
    let options = options.into();
    let packed = pack_inputs(&inputs, &mut maker, store, (name, tag), &options, runtime, &())?;
    Ok(packed.manifest)
}

/// Parts that are in memory, by file.
struct Ready([Vec<Vec<u8>>; 2]);

impl PartSource for Ready {
    fn make(&mut self, file: usize, part: usize) -> Result<Held, PackError> {
        let part = self.0.get_mut(file).and_then(|file| file.get_mut(part));
        part.map(|part| Held::Memory(std::mem::take(part).into())).ok_or(PackError::NotGenerated)
    }
}

/// Spends the bits that the recipe has on average: most where the statistics say that they help most. Layers
/// that `skip` names have none.
///
/// # Errors
/// If the recipe has no average, or the fewest bits take more.
pub fn allocate_bits(
    model: &Model,
    statistics: &Statistics,
    recipe: &Recipe,
    float: Float,
    skip: &[String],
) -> Result<Bits, ProduceError> {
    recipe.check()?;
    let Some(average) = recipe.average_bits else { return Ok(Bits::new()) };
    let average = f64::from(average) / 100.0;
    let found = curves(model, (statistics, average), recipe, float, skip)?;
    let spent = allocate(&found, average).ok_or(RecipeError::TooFew(average))?;
    Ok(spent.bits.into_iter().collect())
}

/// The loss, in nats per token, that is expected of each of some budgets, in hundredths of bits; the least of
/// them is at least that of 3 bits.
///
/// # Errors
/// If a layer cannot be read, or no number of bits fits it.
pub fn expected_losses(
    model: &Model,
    statistics: &Statistics,
    recipe: &Recipe,
    float: Float,
    budgets: &[u32],
) -> Result<Vec<(u32, f64)>, ProduceError> {
    recipe.check()?;
    let found = curves(model, (statistics, 3.0), recipe, float, &[])?;
    let averages: Vec<f64> = budgets.iter().map(|budget| f64::from(*budget) / 100.0).collect();
    let least = least_errors(&found, &averages);
    // By the Fisher information, an error is twice the loss.
    let all = budgets.iter().zip(least);
    Ok(all.filter_map(|(budget, error)| Some((*budget, error? / 2.0))).collect())
}

/// What each number of bits costs each layer, for a budget on average.
fn curves(
    model: &Model,
    (statistics, average): (&Statistics, f64),
    recipe: &Recipe,
    float: Float,
    skip: &[String],
) -> Result<Vec<Sensitivity>, ProduceError> {
    let skip = layers::Skip::new(skip)?;
    let wanted = |layer: &str| !skip.has(layer);
    // What is expected of an error by its square holds for small ones, and those of 2 bits are not: a layer
    // has as few only where the budget leaves no choice.
    let small = |bits: &u32| *bits >= 3 || average < 3.0;
    let bits: Vec<u32> = recipe.numbers_of_bits().iter().copied().filter(small).collect();
    let scheme = solvers::scheme(recipe, float);
    Ok(sensitivities(model, statistics, &wanted, &scheme, &bits)?)
}
