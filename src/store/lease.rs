//! Leases: what a running writer needs, so that no collection deletes it, and what an interrupted
//! one left, so that the next run goes on from there.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Mutex;

use super::{Store, StoreError, unix_now};
use crate::format::id::PackId;
use crate::format::limits::MAX_LEASE;
use crate::format::store::{self as paths, Lease as Document, Tombstone};
use crate::transport::ObjectPath;

/// How long a lease counts after its last renewal, in seconds.
pub(crate) const LIFETIME: u64 = 60 * 60;

/// A running writer's lease. Clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    store: Store,
    path: ObjectPath,
    started: u64,
    /// What it lists; none once it was given back.
    objects: Arc<Mutex<Option<Vec<String>>>>,
    /// What this writer wrote and was not there before.
    written: Arc<Mutex<Vec<ObjectPath>>>,
}

impl Lease {
    /// Takes a lease, before the first look at what the store holds.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn take(store: &Store) -> Result<Self, StoreError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(StoreError::Random)?;
        let lease = Self {
            store: store.clone(),
            path: paths::lease(&id),
            started: unix_now(),
            objects: Arc::new(Mutex::new(Some(Vec::new()))),
            written: Arc::default(),
        };
        lease.add([]).await?;
        Ok(lease)
    }

    /// Lists further objects and renews the lease. Once this returns, no collection deletes them. An error once
    /// the lease was given back: what still runs for a writer that has failed does not bring it back.
    ///
    /// # Errors
    /// If the lease was given back, or the store fails.
    pub async fn add(
        &self,
        objects: impl IntoIterator<Item = ObjectPath>,
    ) -> Result<(), StoreError> {
        // Held across the write, so that a shorter list never replaces a longer one.
        let mut held = self.objects.lock().await;
        let Some(listed) = &mut *held else {
            let location = self.store.location().to_owned();
            return Err(StoreError::LeaseEnded { location, lease: self.path.to_string() });
        };
        listed.extend(objects.into_iter().map(|path| path.to_string()));
        let document = Document::new(unix_now() + LIFETIME, listed.clone(), self.started);
        let bytes = document.to_bytes().map_err(StoreError::format(&self.store, &self.path))?;
        self.store.transport().put(&self.path, vec![bytes.into()]).await?;
        Ok(())
    }

    /// Notes that this writer wrote the object, which is in the lease, and that it was not there before.
    pub async fn wrote(&self, object: ObjectPath) {
        self.written.lock().await.push(object);
    }

    /// Takes back what this writer wrote, when no ref of its own leads there, and gives the lease back.
    /// Where another writer may have linked some of it meanwhile, all of it is left to a collection, and so
    /// is the lease. Returns whether it was taken back.
    ///
    /// Another writer lists what it links in a lease, then looks for tombstones, and publishes its ref before
    /// it gives the lease back. So once all tombstones are there, whoever has linked an object is seen by a
    /// lease that lists it, or by a ref that is no older than the object.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn undo(self) -> Result<bool, StoreError> {
        *self.objects.lock().await = None;
        let transport = self.store.transport();
        let written = std::mem::take(&mut *self.written.lock().await);
        let mut oldest = None;
        for object in &written {
            let tombstone = paths::tombstone(object);
            let bytes = Tombstone::new(unix_now()).to_bytes();
            let bytes = bytes.map_err(StoreError::format(&self.store, &tombstone))?;
            transport.put(&tombstone, vec![bytes.into()]).await?;
            let modified = transport.head(object).await?.map(|info| info.modified);
            oldest = oldest.into_iter().chain(modified).min();
        }
        let alone = match oldest {
            None => true,
            Some(oldest) => self.is_alone(&written, oldest).await?,
        };
        // In reverse: an artifact loses its manifest before its packs.
        for object in written.iter().rev() {
            if alone {
                transport.delete(object).await?;
            }
            transport.delete(&paths::tombstone(object)).await?;
        }
        if alone {
            self.release().await?;
        }
        Ok(alone)
    }

    /// Whether no other lease lists any of these objects, and no ref was written since.
    async fn is_alone(
        &self,
        objects: &[ObjectPath],
        since: SystemTime,
    ) -> Result<bool, StoreError> {
        for info in self.store.list("leases/").await? {
            if info.path == self.path {
                continue;
            }
            let Some(bytes) = self.store.read_optional(&info.path, MAX_LEASE).await? else {
                continue;
            };
            let Ok(lease) = Document::parse(&bytes) else { return Ok(false) };
            if objects.iter().any(|own| lease.objects.iter().any(|path| path == own.as_str())) {
                return Ok(false);
            }
        }
        let refs = self.store.list("refs/").await?;
        Ok(refs.iter().all(|info| info.modified < since))
    }

    /// Gives the lease back, when everything that it lists is named by a ref.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn release(self) -> Result<(), StoreError> {
        *self.objects.lock().await = None;
        Ok(self.store.transport().delete(&self.path).await?)
    }
}

/// The packs that leases list: what interrupted writers may have left. Nothing of it is trusted.
///
/// # Errors
/// If the store fails.
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
