//! The weights of a checkpoint: how it says that it is quantized, which stored tensors make a weight, and
//! what is to be loaded for those that are wanted.

use std::sync::Arc;

use super::ArtifactError;
use crate::dequant::Float;
use crate::dequant::config::{CONFIGS, Method, Module, Stored};
use crate::format::limits::MAX_MANIFEST;
use crate::schedule::plan::TensorRequest;
use crate::schedule::shard::Shard;
use crate::store::StoreError;
use crate::store::artifact::{Artifact, Pattern, SelectedTensors, Selection};

/// As what weights are delivered.
#[derive(Debug, Clone)]
pub struct AsFloats {
    /// Their type.
    pub dtype: Float,
    /// How the checkpoint is quantized, if it is.
    pub method: Option<Method>,
    /// The tensors that they are made of.
    pub wanted: Vec<Arc<TensorRequest>>,
}

impl Artifact {
    /// How the checkpoint says that it is quantized, if it is: in a configuration, or in the headers of GGUF files.
    ///
    /// # Errors
    /// If a configuration cannot be read, or names a quantization that is not known.
    pub async fn quantization(&self) -> Result<Option<Method>, ArtifactError> {
        for path in CONFIGS {
            let limit = MAX_MANIFEST as u64;
            let Some(tensors) = self.select_file(path, limit).await? else { continue };
            let own = SelectedTensors { tensors, ..SelectedTensors::default() };
            let bytes = self.bytes(own).await?;
            let refuse = |error| StoreError::File { path: path.to_owned(), error };
            let config = serde_json::from_slice(&bytes).map_err(|e| refuse(e.into()))?;
            let method = Method::of_config(&config).map_err(|e| refuse(e.into()))?;
            if method.is_some() {
                return Ok(method);
            }
        }
        Ok(self.gguf_blocks().await?.map(Method::Gguf))
    }

    /// What is to be loaded so that the selected weights can be delivered as floats of type `dtype`. Of a
    /// quantized weight a pattern means all tensors, by its own name or by that of any of them.
    ///
    /// # Errors
    /// If a pattern selects nothing, or the checkpoint cannot be read.
    pub async fn select_as(
        &self,
        selection: &Selection,
        shard: Option<Shard>,
        dtype: Float,
    ) -> Result<(SelectedTensors, AsFloats), ArtifactError> {
        let method = self.quantization().await?;
        let wanted = match (&method, selection) {
            (Some(method), Selection::Patterns(patterns)) => {
                let all = self.select(&Selection::All, shard).await?;
                let tensors = ranked(method, patterns, all.tensors).map_err(|pattern| {
                    StoreError::NoTensor {
                        location: self.store().location().to_owned(),
                        what: "tensor or weight",
                        artifact: self.id(),
                        pattern: pattern.as_str().to_owned(),
                    }
                })?;
                SelectedTensors { tensors, ..all }
            }
            _ => self.select(selection, shard).await?,
        };
        let floats = AsFloats { dtype, method, wanted: wanted.tensors.clone() };
        Ok((wanted, floats))
    }
}

/// The tensors that match a pattern, and all of a weight whose own name or any of whose tensors does;
/// pattern by pattern, in load order within one. A pattern that matches nothing is the error.
fn ranked<'p>(
    method: &Method,
    patterns: &'p [Pattern],
    all: Vec<Arc<TensorRequest>>,
) -> Result<Vec<Arc<TensorRequest>>, &'p Pattern> {
    let mut matched = vec![false; patterns.len()];
    let mut rank = |name: &str| {
        let mut first = None;
        for ((at, pattern), matched) in (0..).zip(patterns).zip(&mut matched) {
            if pattern.matches(name) {
                *matched = true;
                first = first.or(Some(at));
            }
        }
        first
    };
    let mut ranks: Vec<Option<usize>> =
        all.iter().map(|request| rank(&request.entry.name)).collect();
    for module in modules(method, &all) {
        let own = module.tensors.iter().filter_map(|(at, _)| ranks.get(*at).copied().flatten());
        let first = own.chain(rank(&module.name)).min();
        for (at, _) in &module.tensors {
            if let Some(rank) = ranks.get_mut(*at) {
                *rank = first;
            }
        }
    }
    if let Some((missing, _)) = patterns.iter().zip(matched).find(|(_, matched)| !matched) {
        return Err(missing);
    }
    let ranked = all.into_iter().zip(ranks).filter_map(|(request, rank)| Some((rank?, request)));
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, request)| (*rank, request.entry.ordinal));
    Ok(ranked.into_iter().map(|(_, request)| request).collect())
}

/// The quantized weights among tensors that are wanted, by their place in the list; those of a file
/// after another's.
pub fn modules(method: &Method, wanted: &[Arc<TensorRequest>]) -> Vec<Module> {
    let mut files: Vec<u32> = wanted.iter().map(|request| request.entry.file).collect();
    files.sort_unstable();
    files.dedup();
    let mut found = Vec::new();
    for file in files {
        let of_file: Vec<usize> = (0..)
            .zip(wanted)
            .filter(|(_, request)| request.entry.file == file)
            .map(|(at, _)| at)
            .collect();
        let stored = of_file.iter().filter_map(|at| wanted.get(*at)).map(|request| Stored {
            name: &request.entry.name,
            dtype: request.entry.dtype,
            dims: request.entry.shape.dims(),
        });
        let mut own = method.modules(&stored.collect::<Vec<_>>());
        for (at, _) in own.iter_mut().flat_map(|module| &mut module.tensors) {
            *at = of_file.get(*at).copied().unwrap_or(usize::MAX);
        }
        found.append(&mut own);
    }
    found
}
