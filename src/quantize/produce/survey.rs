//! What is known of the weights before anything is written.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::ProduceError;
use super::memo::{Hit, Memo};
use super::method::{STATE, Solver};
use super::outline::{Layers, Quantized};
use super::products::{self, Key};
use super::recipe::{Method, Recipe};
use crate::format::id::ContentDigest;
use crate::format::json::in_order;
use crate::gguf::names::Change;
use crate::pack::{PackError, WorkerFailed};
use crate::quantize::encode::{Matrix, nf4};
use crate::quantize::source::ModelSource;

/// Something that is produced.
pub(super) struct Surveyed {
    pub(super) key: Key,
    /// Where it is already, as it is to become.
    pub(super) hit: Option<Hit>,
}

/// Everything that is produced, in the order of the layers.
pub(super) struct Survey {
    pub(super) weights: Vec<Surveyed>,
    /// Of the vectors that are [remade](Layers).
    pub(super) vectors: Vec<Surveyed>,
}

/// The digests of the model's tensors; those of a folder are read for them, once for as long as it is open.
pub(super) struct Digests<'a> {
    checkpoint: &'a ModelSource,
    threads: usize,
}

impl<'a> Digests<'a> {
    pub(super) fn new(checkpoint: &'a ModelSource, threads: usize) -> Self {
        Self { checkpoint, threads }
    }

    /// Those of these tensors, in this order.
    pub(super) fn of(&self, tensors: &[usize]) -> Result<Vec<ContentDigest>, ProduceError> {
        let all = &self.checkpoint.tensors();
        let known = |at: &usize| all.get(*at).and_then(|tensor| tensor.digest.get().copied());
        let missing: Vec<usize> =
            tensors.iter().copied().filter(|at| known(at).is_none()).collect();
        let found = each(&missing, self.threads, |at| {
            let bytes = self.checkpoint.reader(std::iter::once(at)).read(at)?;
            Ok(ContentDigest::of(&bytes))
        })?;
        for (at, digest) in missing.into_iter().zip(found) {
            all.get(at).map(|tensor| *tensor.digest.get_or_init(|| digest));
        }
        let defect = |at: &usize| ProduceError::Defect(format!("number {at}"));
        tensors.iter().map(|at| known(at).ok_or_else(|| defect(at))).collect()
    }

    /// Those of all tensors.
    pub(super) fn of_all(&self) -> Result<Vec<ContentDigest>, ProduceError> {
        let all: Vec<usize> = (0..self.checkpoint.tensors().len()).collect();
        self.of(&all)
    }
}

/// The digest of a model's configuration and of its tensors, by name: the same for a folder and for an
/// artifact of it.
///
/// # Errors
/// If the model cannot be read.
pub fn model_digest(
    checkpoint: &ModelSource,
    threads: usize,
) -> Result<ContentDigest, ProduceError> {
    let names = checkpoint.tensors().iter().map(|tensor| &*tensor.name);
    let digests = Digests::new(checkpoint, threads).of_all()?;
    let mut all: Vec<_> = names.zip(digests).collect();
    all.sort();
    let mut source = blake3::Hasher::new();
    source.update(in_order(checkpoint.config()?).to_string().as_bytes());
    for (name, digest) in all {
        source.update(b"\n").update(name.as_bytes()).update(b"\n").update(digest.as_bytes());
    }
    Ok(ContentDigest::from_hash(source.finalize()))
}

/// Looks up everything that is to be produced.
pub(super) fn survey(
    checkpoint: &ModelSource,
    layers: &Layers,
    recipe: &Recipe,
    digests: &Digests<'_>,
    memo: &Memo,
    solver: &dyn Solver,
) -> Result<Survey, ProduceError> {
    let digest = products::recipe_digest(recipe)?;
    let own: Vec<usize> = layers.quantized.iter().map(|own| own.tensor).collect();
    let mut weights = Vec::with_capacity(own.len());
    for (own, source) in layers.quantized.iter().zip(digests.of(&own)?) {
        let tensor = &checkpoint.tensors()[own.tensor];
        let what = (tensor.name.as_str(), tensor.dtype, &tensor.shape);
        // Heads decide the bytes as statistics would.
        let order = match own.order {
            Change::Heads(heads) => Some(format!("{heads} heads")),
            Change::Groups([query, key]) => Some(format!("{query} and {key} heads in groups")),
            _ => None,
        };
        let heads = order.map(|order| *blake3::hash(order.as_bytes()).as_bytes());
        let statistics = solver.statistics(&tensor.name).or(heads);
        let recipe = products::recipe_digest(&own.recipe(recipe))?;
        let key = products::key(recipe, what, source, statistics)?;
        let is_own =
            |name: &str| name.strip_prefix(&own.layer).is_some_and(|rest| rest.starts_with('.'));
        let hit = memo.find(&key).filter(|hit| hit.tensors().iter().all(|t| is_own(&t.name)));
        weights.push(Surveyed { key, hit });
    }
    let own: Vec<usize> = layers.remade.iter().map(|own| own.tensor).collect();
    let mut vectors = Vec::with_capacity(own.len());
    for (own, source) in layers.remade.iter().zip(digests.of(&own)?) {
        let tensor = &checkpoint.tensors()[own.tensor];
        let what = (tensor.name.as_str(), tensor.dtype, &tensor.shape);
        let change = match own.change {
            Change::Same => None,
            other => Some(*blake3::hash(format!("{other:?}").as_bytes()).as_bytes()),
        };
        let statistics = solver.statistics(&tensor.name).or(change);
        let key = products::key(digest, what, source, statistics)?;
        let dims = tensor.shape.dims();
        let hit = memo.find(&key).filter(|hit| match hit.tensors().as_slice() {
            [one] => one.name == own.name && one.dims == dims && one.dtype == own.to.dtype(),
            _ => false,
        });
        vectors.push(Surveyed { key, hit });
    }
    Ok(Survey { weights, vectors })
}

/// Looks through the weights that are to be computed, as far as they lie in a folder, for what no method
/// can encode; and settles the lengths of bitsandbytes' `quant_state`, which stand in the header of a file
/// that begins before the weight is encoded.
pub(super) fn look(
    checkpoint: &ModelSource,
    layers: &mut Layers,
    recipe: &Recipe,
    surveyed: &[Surveyed],
    threads: usize,
) -> Result<(), ProduceError> {
    let mut missing = Vec::new();
    for (at, (own, surveyed)) in layers.quantized.iter_mut().zip(surveyed).enumerate() {
        let Some(hit) = &surveyed.hit else {
            missing.push(at);
            continue;
        };
        let tensors = hit.tensors();
        let state = tensors.iter().find(|tensor| tensor.name.ends_with(STATE));
        own.state = state.and_then(|state| state.dims.first().copied()).unwrap_or(0);
    }
    let length = |own: &Quantized, weight: &Matrix<'_>, threads| {
        let name = &checkpoint.tensors()[own.tensor].name;
        let double = recipe.double_quant;
        nf4::state_len(weight, double, threads).map_err(ProduceError::layer(name))
    };
    let nf4 = recipe.method == Method::Nf4;
    let on_disk = checkpoint.as_artifact().is_none();
    let (read, streamed): (Vec<usize>, Vec<usize>) = missing.into_iter().partition(|_| on_disk);
    let states = each(&read, threads, |at| {
        let own = &layers.quantized[at];
        let bytes = checkpoint.reader(std::iter::empty()).read(own.tensor)?;
        let weight = matrix(checkpoint, own, &bytes)?;
        let name = &checkpoint.tensors()[own.tensor].name;
        weight.check_finite(1).map_err(ProduceError::layer(name))?;
        if nf4 { length(own, &weight, 1) } else { Ok(0) }
    })?;
    for (at, state) in read.into_iter().zip(states) {
        layers.quantized[at].state = state as u64;
    }
    if !nf4 {
        return Ok(());
    }
    if !recipe.double_quant {
        // It says nothing of the elements.
        for at in streamed {
            let own = &mut layers.quantized[at];
            let [rows, columns] = *checkpoint.tensors()[own.tensor].shape.dims() else { continue };
            own.state = nf4::plain_state_len(own.float, rows, columns) as u64;
        }
        return Ok(());
    }
    let mut reader = checkpoint.reader(streamed.iter().map(|at| layers.quantized[*at].tensor));
    for at in streamed {
        let own = &mut layers.quantized[at];
        let bytes = reader.read(own.tensor)?;
        own.state = length(own, &matrix(checkpoint, own, &bytes)?, threads)? as u64;
    }
    Ok(())
}

/// The weight, as elements.
pub(super) fn matrix<'a>(
    checkpoint: &ModelSource,
    own: &Quantized,
    bytes: &'a [u8],
) -> Result<Matrix<'a>, ProduceError> {
    let tensor = &checkpoint.tensors()[own.tensor];
    let dim = |at: usize| {
        let dim = tensor.shape.dims().get(at).and_then(|dim| usize::try_from(*dim).ok());
        dim.ok_or_else(|| ProduceError::Defect(tensor.name.clone()))
    };
    Matrix::new(bytes, own.float, dim(0)?, dim(1)?).map_err(ProduceError::layer(&tensor.name))
}

/// Settles the lengths of bitsandbytes' `quant_state` alone; only where absmax are quantized are weights read.
pub(super) fn settle(
    checkpoint: &ModelSource,
    layers: &mut Layers,
    recipe: &Recipe,
    threads: usize,
) -> Result<(), ProduceError> {
    if recipe.method != Method::Nf4 {
        return Ok(());
    }
    let mut reader = match recipe.double_quant {
        true => checkpoint.reader(layers.quantized.iter().map(|own| own.tensor)),
        false => checkpoint.reader(std::iter::empty()),
    };
    for own in &mut layers.quantized {
        let tensor = &checkpoint.tensors()[own.tensor];
        own.state = match *tensor.shape.dims() {
            _ if recipe.double_quant => {
                let bytes = reader.read(own.tensor)?;
                let weight = matrix(checkpoint, own, &bytes)?;
                let length = nf4::state_len(&weight, true, threads);
                length.map_err(ProduceError::layer(&tensor.name))?
            }
            [rows, columns] => nf4::plain_state_len(own.float, rows, columns),
            _ => return Err(ProduceError::Defect(tensor.name.clone())),
        } as u64;
    }
    Ok(())
}

/// Calls `one` for every entry of `list`, on `threads` threads; the first error of the list counts.
fn each<T: Send>(
    list: &[usize],
    threads: usize,
    one: impl Fn(usize) -> Result<T, ProduceError> + Sync,
) -> Result<Vec<T>, ProduceError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = list.get(at) else { return found };
            found.push((at, one(*entry)));
        }
    };
    let mut found = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut found = work();
        for other in others {
            found.extend(other.join().unwrap_or_default());
        }
        found
    });
    found.sort_by_key(|(at, _)| *at);
    if found.len() != list.len() {
        return Err(PackError::from(WorkerFailed).into());
    }
    found.into_iter().map(|(_, found)| found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_read_for_its_digest_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let path = folder.path().join("model.safetensors");
        let header = br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let write = |data: &[u8]| {
            let bytes = [&(header.len() as u64).to_le_bytes(), &header[..], data].concat();
            std::fs::write(&path, bytes).unwrap();
        };
        let open = || ModelSource::folder(folder.path()).unwrap();
        write(b"then");
        let checkpoint = open();
        let first = Digests::new(&checkpoint, 2).of_all().unwrap();
        assert_eq!(first, [ContentDigest::of(b"then")]);
        write(b"than");
        assert_eq!(Digests::new(&checkpoint, 1).of(&[0]).unwrap(), first);
        assert_eq!(Digests::new(&open(), 1).of_all().unwrap(), [ContentDigest::of(b"than")]);
    }
}
