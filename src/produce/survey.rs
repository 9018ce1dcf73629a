//! What is known of the weights before anything is written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ProduceError;
use super::checkpoint::Checkpoint;
use super::memo::Hit;
use super::method::STATE;
use super::plan::{Layers, Quantized};
use super::products::Key;
use super::recipe::{Method, Recipe};
use crate::id::ContentDigest;
use crate::pack::{PackError, WorkerFailed};
use crate::quant::encode::{Matrix, nf4};

/// A weight that is quantized.
pub(super) struct Surveyed {
    pub(super) key: Key,
    /// Where it is already, as it is to become.
    pub(super) hit: Option<Hit>,
}

/// The digest of every weight; those of a folder are read for it.
pub(super) fn digests(
    checkpoint: &Checkpoint,
    layers: &Layers,
    threads: usize,
) -> Result<Vec<ContentDigest>, ProduceError> {
    let all: Vec<usize> = (0..layers.quantized.len()).collect();
    each(&all, threads, |at| {
        let own = &layers.quantized[at];
        match checkpoint.tensors[own.tensor].digest {
            Some(digest) => Ok(digest),
            None => {
                let bytes = checkpoint.reader(std::iter::empty()).read(own.tensor)?;
                Ok(ContentDigest::of(&bytes))
            }
        }
    })
}

/// The digest of every tensor; `known` are those of the weights.
pub(super) fn all(
    checkpoint: &Checkpoint,
    layers: &Layers,
    known: &[ContentDigest],
    threads: usize,
) -> Result<Vec<ContentDigest>, ProduceError> {
    let weights = layers.quantized.iter().map(|own| own.tensor).zip(known.iter().copied());
    let known: HashMap<usize, ContentDigest> = weights.collect();
    let all: Vec<usize> = (0..checkpoint.tensors.len()).collect();
    each(&all, threads, |at| match known.get(&at).copied().or(checkpoint.tensors[at].digest) {
        Some(digest) => Ok(digest),
        None => {
            let bytes = checkpoint.reader(std::iter::empty()).read(at)?;
            Ok(ContentDigest::of(&bytes))
        }
    })
}

/// Looks through the weights that are to be computed, as far as they lie in a folder, for what no method
/// can encode; and settles the lengths of bitsandbytes' `quant_state`, which stand in the header of a file
/// that begins before the weight is encoded.
pub(super) fn look(
    checkpoint: &Checkpoint,
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
        let name = &checkpoint.tensors[own.tensor].name;
        let double = recipe.double_quant;
        nf4::state_len(weight, double, threads).map_err(ProduceError::layer(name))
    };
    let nf4 = recipe.method == Method::Nf4;
    let on_disk = |at: &usize| checkpoint.on_disk(layers.quantized[*at].tensor).is_some();
    let (read, streamed): (Vec<usize>, Vec<usize>) = missing.into_iter().partition(on_disk);
    let states = each(&read, threads, |at| {
        let own = &layers.quantized[at];
        let bytes = checkpoint.reader(std::iter::empty()).read(own.tensor)?;
        let weight = matrix(checkpoint, own, &bytes)?;
        let name = &checkpoint.tensors[own.tensor].name;
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
            let [rows, columns] = *checkpoint.tensors[own.tensor].shape.dims() else { continue };
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
    checkpoint: &Checkpoint,
    own: &Quantized,
    bytes: &'a [u8],
) -> Result<Matrix<'a>, ProduceError> {
    let tensor = &checkpoint.tensors[own.tensor];
    let dim = |at: usize| {
        let dim = tensor.shape.dims().get(at).and_then(|dim| usize::try_from(*dim).ok());
        dim.ok_or_else(|| ProduceError::Defect(tensor.name.clone()))
    };
    Matrix::new(bytes, own.float, dim(0)?, dim(1)?).map_err(ProduceError::layer(&tensor.name))
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
