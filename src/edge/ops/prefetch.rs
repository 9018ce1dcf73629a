//! Filling the cache with an artifact before anybody asks for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::edge::cache::reader::ChunkReader;
use crate::edge::state::Edge;
use crate::format::id::ManifestId;
use crate::format::name::ArtifactSpec;
use crate::store::StoreError;

impl Edge {
    /// Fetches every chunk of an artifact that is not in the cache; gives their stored bytes. With
    /// anybody trusted, the artifact must count.
    ///
    /// # Errors
    /// If the artifact is not there, does not count, or a chunk of it cannot be had.
    pub async fn prefetch(
        self: &Arc<Self>,
        artifact: &ArtifactSpec,
    ) -> Result<u64, Arc<StoreError>> {
        let (id, name) = self.catalog.spec(artifact).await?;
        let whole = self.catalog.artifact(id, name).await?;
        // As they lie in their packs.
        let mut distinct = whole.distinct();
        distinct.sort_unstable_by_key(|chunk| chunk.place);
        let mut chunks = ChunkReader::new(self.chunks.clone(), Box::new(distinct.into_iter()));
        let mut bytes = 0;
        let failed = |error| Arc::new(StoreError::Transport(error));
        while let Some((_, chunk)) = chunks.front().await.map_err(failed)? {
            bytes += chunk.stored().len() as u64;
            chunks.advance();
        }
        Ok(bytes)
    }

    /// Reads what an artifact consists of, so that it is known by its commit wherever it lies; with anybody trusted,
    /// it must count.
    ///
    /// # Errors
    /// If it is not there, or does not count.
    pub async fn know(&self, artifact: &ArtifactSpec) -> Result<ManifestId, Arc<StoreError>> {
        let (id, name) = self.catalog.spec(artifact).await?;
        self.catalog.artifact(id, name).await?;
        Ok(id)
    }

    /// How many chunks from origins were not what they are to be.
    pub fn verify_failures(&self) -> u64 {
        self.chunks.stats().damaged.load(Ordering::Relaxed)
    }

    /// Says that what was to be fetched first is there.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}
