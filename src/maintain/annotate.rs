//! An artifact again, whose manifest also says why it was chosen: another artifact of the same table, packs and
//! bytes.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::error::MaintainError;
use super::tag::tag;
use crate::format::FormatError;
use crate::format::id::ManifestId;
use crate::format::layout::Layout;
use crate::format::name::{ArtifactName, Tag};
use crate::format::store as paths;
use crate::store::{Lease, Lifetime, Published, Store, StoreError, unix_now};
use crate::transport::ObjectPath;
use crate::trust::{Signer, signature_path};

/// Publishes the artifact `id` as `name:tag` with `optimization` in its manifest; gives the new identifier.
///
/// # Errors
/// If something of it is missing, the section has no canonical form, or the store fails: no ref is written then.
pub async fn annotate(
    store: &Store,
    id: ManifestId,
    optimization: Map<String, Value>,
    names: (&ArtifactName, &Tag),
    signers: &[Signer],
    lifetime: Lifetime,
) -> Result<(ManifestId, Published), MaintainError> {
    let (mut manifest, _) = store.manifest(id).await?;
    manifest.optimization = Some(optimization);
    let path = paths::manifest(id);
    let canonical = manifest.to_bytes().map_err(StoreError::format(store, &path))?;
    let (bytes, path) = (Bytes::from(canonical), paths::layout(id));
    let len = Layout::slice(0..manifest.totals.records).end;
    let layout = store.read(&path, usize::try_from(len).unwrap_or(usize::MAX)).await?;
    let layout = Layout::parse(&layout, id).map_err(StoreError::format(store, &path))?;
    let new = ManifestId::of(&bytes);
    let layout = Bytes::from(Layout { manifest: new, places: layout.places }.to_bytes());
    let mut objects = vec![(paths::layout(new), layout), (paths::manifest(new), bytes.clone())];
    for signer in signers {
        let signature = signer.sign_manifest(new, &bytes, unix_now()).map_err(StoreError::Trust)?;
        let path = signature_path(new, &signer.key_id(), signer.method());
        let path = ObjectPath::new(path).ok_or_else(|| {
            let why = "its path is not valid".to_owned();
            StoreError::format(store, &paths::manifest(new))(FormatError::Invalid {
                what: "signature",
                why,
            })
        })?;
        objects.push((path, signature));
    }
    let lease = Lease::take(store).await?;
    lease.add(objects.iter().map(|(path, _)| path.clone())).await?;
    for (path, bytes) in &objects {
        store.ensure(path, bytes).await?;
    }
    // Under its own lease, which lists the packs as well.
    let published = tag(store, new, names, signers, lifetime).await?;
    lease.release().await?;
    Ok((new, published))
}
