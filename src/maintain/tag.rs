//! Naming an artifact that is there, beside collections that may be about to delete it.
//!
//! The lease lists everything that the artifact needs before the last look at whether it is there, so
//! that a ref is published only for what stays.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::error::MaintainError;
use super::gc::reach;
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, Tag};
use crate::format::store as paths;
use crate::store::{Lease, Lifetime, Published, Store, StoreError};
use crate::transport::ObjectPath;
use crate::trust::Signer;

/// Small requests at a time.
const AT_ONCE: usize = 16;

/// Points `name:tag` to an artifact of the store.
///
/// # Errors
/// If an object is missing, or the store fails: no ref is written then.
pub async fn tag(
    store: &Store,
    id: ManifestId,
    (name, tag): (&ArtifactName, &Tag),
    signers: &[Signer],
    lifetime: Lifetime,
) -> Result<Published, MaintainError> {
    let lease = Lease::take(store).await?;
    let (table, packs) = reach(store, id).await?;
    let mut objects = vec![paths::manifest(id), paths::layout(id), paths::table(table)];
    objects.extend(packs.into_iter().map(paths::pack));
    lease.add(objects.iter().cloned()).await?;
    keep(store, id, &objects).await?;
    let published = store.publish(name, tag, id, signers, lifetime).await?;
    // A collection that had decided before the lease was seen may have gone on meanwhile.
    keep(store, id, &objects).await?;
    lease.release().await?;
    Ok(published)
}

/// Takes away tombstones, then looks whether each object is there.
async fn keep(store: &Store, id: ManifestId, objects: &[ObjectPath]) -> Result<(), MaintainError> {
    let one = |path: ObjectPath| async move {
        let tombstone = paths::tombstone(&path);
        if store.transport().head(&tombstone).await?.is_some() {
            store.transport().delete(&tombstone).await?;
        }
        if store.transport().head(&path).await?.is_some() {
            return Ok(());
        }
        let (location, object) = (store.location().to_owned(), path.to_string());
        let by = format!("artifact {id}");
        Err(MaintainError::Store(StoreError::Incomplete { location, object, by }))
    };
    let all: Vec<_> = objects.iter().cloned().map(one).collect();
    stream::iter(all).buffer_unordered(AT_ONCE).try_collect().await
}
