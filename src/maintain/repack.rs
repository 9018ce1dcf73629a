//! Mending fragmentation: an artifact's chunks into fresh packs, in load order.
//!
//! Only the layout changes; the artifact's identifier and everything signed stay. The old packs
//! are left to the next collection.

use std::collections::HashMap;

use bytes::Bytes;

use super::error::MaintainError;
use super::order::{load_order, ordered, runs};
use super::packs::{Fate, arrange, rewrite};
use crate::format::id::ManifestId;
use crate::format::layout::{Layout, Place};
use crate::format::store as paths;
use crate::pack::Progress;
use crate::store::{ArtifactGraph, Lease, Placed, Store};

/// When to repack.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RepackOptions {
    /// An artifact is rewritten if it lies in more runs than this per GiB, beyond the first.
    pub runs_per_gib: f64,
    /// Rewrite in any case.
    pub force: bool,
}

impl Default for RepackOptions {
    fn default() -> Self {
        Self { runs_per_gib: 16.0, force: false }
    }
}

/// What became of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Repacked {
    /// The artifact.
    pub manifest: ManifestId,
    /// Whether it was rewritten.
    pub rewritten: bool,
    /// Runs of neighbouring chunks before.
    pub runs_before: u64,
    /// And after.
    pub runs_after: u64,
    /// Bytes that the store gained.
    pub new_bytes: u64,
}

/// Rewrites the artifact's chunks in load order if it is fragmented.
///
/// # Errors
/// If a chunk cannot be had, or the store fails.
pub async fn repack(
    store: &Store,
    id: ManifestId,
    options: RepackOptions,
    progress: &dyn Progress,
) -> Result<Repacked, MaintainError> {
    // Before the first look at what exists.
    let lease = Lease::take(store).await?;
    let whole = ArtifactGraph::read(store, id).await?;
    let (order, held) = load_order(&whole);
    let chunks: Vec<Placed> = order.iter().filter_map(|&i| whole.chunks.get(i)).copied().collect();
    let in_order = |chunks: &[Placed]| runs(ordered(chunks, held));
    let runs_before = in_order(&chunks);
    let bytes = whole.manifest.totals.stored_bytes;
    let allowed = 1.0 + options.runs_per_gib * bytes as f64 / (1_u64 << 30) as f64;
    let mut repacked = Repacked {
        manifest: id,
        rewritten: false,
        runs_before,
        runs_after: runs_before,
        new_bytes: 0,
    };
    if !chunks.is_empty() && (options.force || runs_before as f64 > allowed) {
        let fates = arrange(&chunks, held, &HashMap::new());
        let written = chunks.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Write);
        progress.begin(written.map(|(chunk, _)| u64::from(chunk.record.stored_len)).sum());
        let (after, written) =
            rewrite((store, id), &chunks, &fates, store, &lease, progress).await?;
        let mut places: Vec<Place> = whole.chunks.iter().map(|chunk| chunk.place).collect();
        for (&index, place) in order.iter().zip(&after) {
            if let Some(old) = places.get_mut(index) {
                *old = *place;
            }
        }
        let after = chunks.iter().zip(after).map(|(chunk, place)| Placed { place, ..*chunk });
        let after: Vec<Placed> = after.collect();
        let layout = Bytes::from(Layout { manifest: id, places }.to_bytes());
        let path = paths::layout(id);
        lease.add([path.clone()]).await?;
        repacked.new_bytes = written.bytes + store.ensure(&path, &layout).await?;
        repacked.rewritten = true;
        repacked.runs_after = in_order(&after);
    }
    lease.release().await?;
    Ok(repacked)
}
