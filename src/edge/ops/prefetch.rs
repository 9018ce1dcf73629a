//! Filling the cache with an artifact before anybody asks for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use crate::edge::cache::packs::copy;
use crate::edge::state::Edge;
use crate::format::id::PackId;
use crate::format::name::ArtifactSpec;
use crate::store::{ArtifactGraph, StoreError};

impl Edge {
    /// Fetches every chunk of an artifact that is not in the cache; gives their stored bytes. With
    /// anybody trusted, the artifact must count.
    pub async fn prefetch(
        self: &Arc<Self>,
        artifact: &ArtifactSpec,
    ) -> Result<u64, Arc<StoreError>> {
        let (id, name) = self.catalog.spec(artifact).await?;
        let whole = self.catalog.artifact(id, name).await?;
        let mut bytes = 0;
        for (pack, ranges) in runs(&whole) {
            let failed = |error: &_| Arc::new(StoreError::Transport(copy(error)));
            let map = self.packs.map(pack).await.map_err(|error| failed(&*error))?;
            for range in ranges {
                let end = range.end.min(map.size());
                let mut chunks = pin!(self.packs.read(pack, &map, range.start..end));
                while let Some(chunk) = chunks.next().await {
                    bytes += chunk.map_err(|error| failed(&error))?.len() as u64;
                }
            }
        }
        Ok(bytes)
    }

    /// Says that what was to be fetched first is there.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// The bytes of each pack that an artifact needs, neighbours joined.
fn runs(whole: &ArtifactGraph) -> BTreeMap<PackId, Vec<Range<u64>>> {
    let mut places: Vec<_> =
        whole.chunks.iter().map(|chunk| (chunk.place.pack, chunk.range())).collect();
    places.sort_unstable_by_key(|(pack, range)| (*pack, range.start));
    let mut runs: BTreeMap<PackId, Vec<Range<u64>>> = BTreeMap::new();
    for (pack, range) in places {
        let own = runs.entry(pack).or_default();
        match own.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => own.push(range),
        }
    }
    runs
}
