//! Leases: what a running writer needs, so that no collection deletes it, and what an interrupted
//! one left, so that the next run goes on from there.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Store, StoreError, unix_now};
use crate::format::limits::MAX_LEASE;
use crate::format::store::{self as paths, Lease as Document};
use crate::id::PackId;
use crate::source::ObjectPath;

/// How long a lease counts after its last renewal, in seconds.
const LIFETIME: u64 = 60 * 60;

/// A running writer's lease. Clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    store: Store,
    path: ObjectPath,
    started: u64,
    objects: Arc<Mutex<Vec<String>>>,
}

impl Lease {
    /// Takes a lease, before the first look at what the store holds.
    pub async fn take(store: &Store) -> Result<Self, StoreError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::Random(error.to_string()))?;
        let lease = Self {
            store: store.clone(),
            path: paths::lease(&id),
            started: unix_now(),
            objects: Arc::default(),
        };
        lease.add([]).await?;
        Ok(lease)
    }

    /// Lists further objects and renews the lease. Once this returns, no collection deletes them.
    pub async fn add(
        &self,
        objects: impl IntoIterator<Item = ObjectPath>,
    ) -> Result<(), StoreError> {
        // Held across the write, so that a shorter list never replaces a longer one.
        let mut listed = self.objects.lock().await;
        listed.extend(objects.into_iter().map(|path| path.to_string()));
        let document = Document::new(unix_now() + LIFETIME, listed.clone(), self.started);
        let bytes = document.to_bytes().map_err(StoreError::format(&self.store, &self.path))?;
        self.store.backend().put(&self.path, vec![bytes.into()]).await?;
        Ok(())
    }

    /// Gives the lease back, when everything that it lists is named by a ref.
    pub async fn release(self) -> Result<(), StoreError> {
        Ok(self.store.backend().delete(&self.path).await?)
    }
}

/// The packs that leases list: what interrupted writers may have left. Nothing of it is trusted.
pub async fn candidates(store: &Store) -> Result<Vec<PackId>, StoreError> {
    let mut packs = Vec::new();
    for info in store.list("leases/").await? {
        let Some(bytes) = store.read_optional(&info.path, MAX_LEASE).await? else { continue };
        // A damaged lease only costs the work that it would have saved.
        let Ok(lease) = Document::parse(&bytes) else { continue };
        let id = |path: &String| path.strip_prefix("packs/")?.parse::<PackId>().ok();
        packs.extend(lease.objects.iter().filter_map(id));
    }
    packs.sort_unstable();
    packs.dedup();
    Ok(packs)
}
