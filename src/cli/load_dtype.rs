//! `tenpak load --dtype`: whether a checkpoint is quantized, and which stored tensors make the weights
//! that are asked for.

use std::sync::Arc;

use crate::dequant::Float;
use crate::dequant::config::Method;
use crate::format::limits::MAX_MANIFEST;
use crate::load::artifact::{Artifact, Pattern, SelectedTensors, Selection};
use crate::load::sink::dequant::modules;
use crate::quantize::lm;
use crate::schedule::plan::TensorRequest;
use crate::schedule::shard::Shard;

use super::error::{Failure, NOT_FOUND};

/// Files that say how a checkpoint is quantized, the first that does counts.
const CONFIGS: [&str; 2] = ["config.json", "quantize_config.json"];

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) selection: &'a Selection,
    pub(super) shard: Option<Shard>,
    pub(super) dtype: Option<Float>,
}

/// Into which floats the weights of a checkpoint are made.
#[derive(Debug, Clone)]
pub(super) struct Convert {
    pub(super) dtype: Float,
    /// How the checkpoint is quantized, if it is.
    pub(super) method: Option<Method>,
    /// The tensors that are loaded.
    pub(super) wanted: Vec<Arc<TensorRequest>>,
}

impl Ask<'_> {
    /// What is to be loaded of an artifact, and what is to be made of it.
    pub(super) async fn of(
        &self,
        artifact: &Artifact,
    ) -> Result<(SelectedTensors, Option<Convert>), Failure> {
        let Some(dtype) = self.dtype else {
            return Ok((artifact.select(self.selection, self.shard).await?, None));
        };
        let method = method(artifact).await?;
        let wanted = match (method, self.selection) {
            (Some(method), Selection::Patterns(patterns)) => {
                let all = artifact.select(&Selection::All, self.shard).await?;
                SelectedTensors { tensors: select(method, patterns, all.tensors)?, ..all }
            }
            _ => artifact.select(self.selection, self.shard).await?,
        };
        let convert = Convert { dtype, method, wanted: wanted.tensors.clone() };
        Ok((wanted, Some(convert)))
    }
}

/// How a checkpoint says that it is quantized.
async fn method(artifact: &Artifact) -> Result<Option<Method>, Failure> {
    if let Some(blocks) = lm::blocks(artifact) {
        return Ok(Some(Method::Gguf(blocks)));
    }
    for path in CONFIGS {
        let Some(bytes) = artifact.file(path, MAX_MANIFEST as u64).await? else { continue };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("{path}: {error}; --dtype stored loads it as it is"))
        };
        let config = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
        if let Some(method) = Method::of_config(&config).map_err(|error| failed(&error))? {
            return Ok(Some(method));
        }
    }
    Ok(None)
}

/// The tensors that match a pattern, and all of a weight whose own name or any of whose tensors does;
/// pattern by pattern, in load order within one.
fn select(
    method: Method,
    patterns: &[Pattern],
    all: Vec<Arc<TensorRequest>>,
) -> Result<Vec<Arc<TensorRequest>>, Failure> {
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
        let what = format!("no tensor and no weight is called {:?}", missing.as_str());
        return Err(Failure::new(NOT_FOUND, what));
    }
    let ranked = all.into_iter().zip(ranks).filter_map(|(request, rank)| Some((rank?, request)));
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, request)| (*rank, request.entry.ordinal));
    Ok(ranked.into_iter().map(|(_, request)| request).collect())
}
