//! Writing a fine-tune as a delta, one tensor at a time.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::approximate::{Deviation, approximate, first_not_finite};
use super::{DeltaMethod, NotFinite};
use crate::dequant::Float;
use crate::format::id::ContentDigest;
use crate::format::json as canonical;
use crate::format::name::{ArtifactName, Tag};
use crate::pack::{
    Held, Lineage, PackError, PackOptions, PackReport, PartSource, Progress, pack_inputs,
};
use crate::quantize::produce::error::Failed;
use crate::quantize::produce::products;
use crate::quantize::produce::{ProduceError, TOOL, VERSION};
use crate::quantize::source::{ModelSource, Tensor};
use crate::store::Store;

/// How to write a delta.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeltaOptions {
    /// What becomes of the weights.
    pub method: DeltaMethod,
    /// What the base is called, for the manifest.
    pub base_name: String,
    /// How the result is packed; its base and lineage are filled in here.
    pub pack: PackOptions,
}

impl DeltaOptions {
    /// Packs against the base called `base_name`, as `pack` says.
    pub const fn new(method: DeltaMethod, base_name: String, pack: PackOptions) -> Self {
        Self { method, base_name, pack }
    }
}

/// What became of a tensor that differs from the base's.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// How far its weights are from the fine-tune's.
    pub deviation: Deviation,
}

/// What writing a delta did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeltaReport {
    /// What was packed.
    pub packed: PackReport,
    /// The tensors that differ from the base's, in order.
    pub tensors: Vec<TensorReport>,
    /// Tensors that are the base's.
    pub unchanged: u64,
    /// Tensors that the base does not have.
    pub own: u64,
    /// What the manifest says.
    pub delta: Map<String, Value>,
}

impl DeltaReport {
    /// How far all weights that differ are from the fine-tune's, as an [estimate](super::Estimate) has it.
    pub fn deviation(&self) -> Deviation {
        let mut sum = Deviation::default();
        self.tensors.iter().for_each(|own| sum.add(own.deviation));
        sum
    }
}

/// A tensor beside its counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// The base has none of that name.
    Nothing,
    /// The same bytes.
    Same,
    /// Others.
    Other,
}

/// Writes `tuned` as a delta of `base`, an artifact of `store`, and publishes it as `name:tag`. Blocks;
/// call it from outside the runtime that `runtime` drives.
///
/// # Errors
/// If the base is no artifact or not that of the fine-tune, or a model or the store fails.
pub fn delta(
    tuned: &ModelSource,
    base: &ModelSource,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: DeltaOptions,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<DeltaReport, ProduceError> {
    let DeltaOptions { method, base_name, pack: mut options } = options;
    method.check()?;
    tuned.check_names()?;
    base.check_names()?;
    let below = base.as_artifact().ok_or(ProduceError::NoBase)?;
    let beside = survey(tuned, base, method)?;
    let count = |which| beside.iter().filter(|own| **own == which).count() as u64;
    let own = count(Beside::Nothing);
    if own == tuned.tensors().len() as u64 {
        return Err(ProduceError::OtherBase(base_name));
    }
    let base_model = below.manifest().model_id.clone().unwrap_or(base_name);
    let changed = tuned.tensors().iter().zip(&beside).filter(|(_, own)| **own == Beside::Other);
    let mut delta =
        lineage(method, below.id(), base_model, changed.map(|(tensor, _)| &*tensor.name))?;
    if let Some(was) = tuned.was() {
        delta.insert("dequantized_from".to_owned(), was.into());
    }
    options.base = Some(below.id());
    let source = tuned.id().map(|id| Map::from_iter([("manifest".to_owned(), json!(id))]));
    let incomplete = tuned.incomplete();
    options.lineage =
        Lineage { delta: Some(delta.clone()), source, incomplete, ..Lineage::default() };
    if let Some(artifact) = tuned.as_artifact() {
        options.model_id = options.model_id.or_else(|| artifact.manifest().model_id.clone());
    }
    let parts = tuned.tensors().iter().enumerate();
    let by_part = parts.map(|(number, own)| ((own.file, own.part), number)).collect();
    let mut maker = Approximating {
        tuned,
        base,
        method,
        beside,
        by_part,
        reports: Vec::new(),
        failed: Failed::default(),
    };
    let made = |file: usize| {
        let mut own = tuned.tensors().iter().zip(&maker.beside);
        own.any(|(tensor, beside)| tensor.file == file && *beside == Beside::Other)
    };
    let inputs = (0..tuned.files().len()).filter_map(|file| tuned.input(file, made(file)));
    let inputs: Vec<_> = inputs.collect();
    let options = options.into();
    let packed = pack_inputs(&inputs, &mut maker, store, (name, tag), &options, runtime, progress);
    let packed = match (packed, maker.failed.take()) {
        (Err(PackError::NotGenerated), Some(error)) => return Err(error),
        (packed, _) => packed?,
    };
    let unchanged = maker.beside.iter().filter(|own| **own == Beside::Same).count() as u64;
    Ok(DeltaReport { packed, tensors: maker.reports, unchanged, own, delta })
}

/// The tensor of the base that stands below one of the fine-tune.
///
/// # Errors
/// If it has another shape or type.
pub(super) fn partner<'m>(
    base: &'m ModelSource,
    tensor: &Tensor,
) -> Result<Option<&'m Tensor>, ProduceError> {
    let Some(below) = base.tensor(&tensor.name) else { return Ok(None) };
    if (below.dtype, &below.shape) == (tensor.dtype, &tensor.shape) {
        return Ok(Some(below));
    }
    Err(ProduceError::OtherShape {
        name: tensor.name.clone(),
        own: (tensor.dtype, tensor.shape.clone()),
        base: (below.dtype, below.shape.clone()),
    })
}

/// Which tensors differ from the base's. What is read for it is looked through for what no lossy method
/// can take, before the store is touched.
fn survey(
    tuned: &ModelSource,
    base: &ModelSource,
    method: DeltaMethod,
) -> Result<Vec<Beside>, ProduceError> {
    // Shapes first: whatever does not fit is said before anything is read.
    let below = tuned.tensors().iter().map(|tensor| partner(base, tensor));
    let below = below.collect::<Result<Vec<_>, _>>()?;
    let one = |(tensor, below): (&Tensor, &Option<&Tensor>)| {
        let Some(below) = below else { return Ok(Beside::Nothing) };
        let digest = match tensor.digest.get() {
            Some(digest) => *digest,
            None => {
                let bytes = tuned.read_tensor(tensor)?;
                let lossy = method != DeltaMethod::Lossless;
                let float = Float::of_dtype(tensor.dtype).filter(|_| lossy);
                if let Some(element) = float.and_then(|float| first_not_finite(float, &bytes)) {
                    return Err(not_finite(&tensor.name, NotFinite { element, of_base: false }));
                }
                ContentDigest::of(&bytes)
            }
        };
        Ok(if below.digest.get() == Some(&digest) { Beside::Same } else { Beside::Other })
    };
    let found: Vec<Result<Beside, ProduceError>> =
        tuned.tensors().par_iter().zip(&below).map(one).collect();
    found.into_iter().collect()
}

/// What the manifest says of the delta.
fn lineage<'n>(
    method: DeltaMethod,
    base: crate::format::id::ManifestId,
    base_model: String,
    changed: impl Iterator<Item = &'n str>,
) -> Result<Map<String, Value>, ProduceError> {
    let layers: BTreeSet<&str> = changed.map(layer).collect();
    let recipe = json!({"method": method.name(), "parameters": method.parameters()});
    let keyed = json!({"recipe": recipe, "tool": TOOL, "version": VERSION});
    let bytes = canonical::to_bytes(&keyed)?;
    let object = json!({
        "base": base,
        "base_model_id": base_model,
        "changed_layers": layers,
        "delta_method": method.name(),
        "parameters": method.parameters(),
        "recipe": ContentDigest::of(&bytes),
        "tool": TOOL,
        "tool_version": VERSION,
    });
    products::object(object)
}

/// The layer of a model that a tensor belongs to: its name up to the first number, or without its last
/// word.
fn layer(name: &str) -> &str {
    let mut end = 0;
    for segment in name.split('.') {
        end += segment.len() + 1;
        if segment.bytes().all(|byte| byte.is_ascii_digit()) {
            return name.get(..end - 1).unwrap_or(name);
        }
    }
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}

/// Makes the parts of the result while it is packed.
struct Approximating<'a> {
    tuned: &'a ModelSource,
    base: &'a ModelSource,
    method: DeltaMethod,
    beside: Vec<Beside>,
    by_part: HashMap<(usize, usize), usize>,
    reports: Vec<TensorReport>,
    failed: Failed,
}

impl Approximating<'_> {
    fn part(&mut self, file: usize, part: usize) -> Result<Held, ProduceError> {
        let number = self.by_part.get(&(file, part)).copied();
        let tensor = number.and_then(|number| {
            let changed = self.beside.get(number) == Some(&Beside::Other);
            self.tuned.tensors().get(number).filter(|_| changed)
        });
        let held = self.tuned.part(file, part)?;
        let Some(tensor) = tensor else { return Ok(held) };
        // Integers and narrow floats are stored as they are.
        let Some(float) = Float::of_dtype(tensor.dtype) else { return Ok(held) };
        let Some(below) = self.base.tensor(&tensor.name) else { return Ok(held) };
        let (tuned, base) = (held.read(tensor.len)?, self.base.read_tensor(below)?);
        let made = approximate(self.method, float, &base, &tuned)
            .map_err(|error| not_finite(&tensor.name, error))?;
        let (name, deviation) = (tensor.name.clone(), made.deviation);
        self.reports.push(TensorReport { name, deviation });
        Ok(Held::Memory(made.bytes.into()))
    }
}

pub(super) fn not_finite(tensor: &str, at: NotFinite) -> ProduceError {
    let NotFinite { element, of_base } = at;
    ProduceError::NotFinite { name: tensor.to_owned(), element, of_base }
}

impl PartSource for Approximating<'_> {
    fn make(&mut self, file: usize, part: usize) -> Result<Held, PackError> {
        let made = self.part(file, part);
        self.failed.keep(made)
    }

    fn may_pass(&self) -> bool {
        self.failed.may_pass()
    }

    fn finish(&mut self) -> Result<(), PackError> {
        Ok(self.tuned.check_unchanged()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_ends_with_its_number() {
        for (name, of) in [
            ("model.layers.10.self_attn.q_proj.weight", "model.layers.10"),
            ("h.3", "h.3"),
            ("model.embed_tokens.weight", "model.embed_tokens"),
            ("lonely", "lonely"),
        ] {
            assert_eq!(layer(name), of);
        }
    }
}
