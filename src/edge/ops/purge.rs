//! Forgetting an artifact: its chunks, its graph, and what is known of its names.

use std::sync::Arc;

use crate::edge::state::Edge;
use crate::format::name::ArtifactSpec;
use crate::store::StoreError;

impl Edge {
    /// Removes an artifact's chunks from memory and disk and forgets its graph and its ref; gives how
    /// many chunks it had. What another artifact shares with it is fetched again.
    ///
    /// # Errors
    /// If the artifact cannot be found or read.
    pub async fn purge(self: &Arc<Self>, artifact: &ArtifactSpec) -> Result<u64, Arc<StoreError>> {
        let (id, name) = self.catalog.spec(artifact).await?;
        let whole = self.catalog.artifact(id, name).await?;
        self.catalog.forget(id).await;
        if let ArtifactSpec::Named { name, .. } = artifact {
            self.relay.forget(&format!("refs/{name}/"));
        }
        for folder in ["manifests", "layouts", "signatures"] {
            self.relay.forget(&format!("{folder}/{id}"));
        }
        self.relay.forget(&format!("tables/{}", whole.manifest.table().table));
        let (cache, disk) = (self.cache.clone(), self.disk.clone());
        let count = whole.chunks.len() as u64;
        let removed = tokio::task::spawn_blocking(move || {
            for chunk in &whole.chunks {
                cache.remove(&chunk.record.stored);
                if let Some(disk) = &disk {
                    disk.remove(&chunk.record.stored);
                }
            }
        });
        // It ends early only with the runtime.
        removed.await.unwrap_or_default();
        Ok(count)
    }
}
