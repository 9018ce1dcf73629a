//! Publishing refs: conditional writes, so that no update is lost.

use bytes::Bytes;

use super::document::{Lifetime, sealed, version_after};
use super::index::IndexChange;
use super::resolve::ref_object;
use super::{Store, StoreError, unix_now};
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, NamePattern, Tag};
use crate::format::refs::{IndexEntry, RefBody, SignedBody};
use crate::format::store as paths;
use crate::trust::{Envelope, Method, Signer};

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The ref's version.
    pub version: u64,
    /// When it expires, in Unix seconds.
    pub expires: u64,
    /// The manifest that it named before.
    pub replaced: Option<ManifestId>,
}

/// What became of a ref that was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefPlaced {
    /// It was written, and the index lists it.
    Written,
    /// It was written, but nobody could sign the index, which was signed before.
    Unlisted,
    /// It was there.
    Same,
    /// A newer one was there and stays.
    Kept {
        /// The version of that one.
        version: u64,
    },
}

impl Store {
    /// Puts a ref that another store published here, as it is, unless a newer one is here.
    ///
    /// # Errors
    /// If the clock is wrong, or the store fails.
    pub async fn place_ref(
        &self,
        envelope: &Envelope<RefBody>,
        force: bool,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<RefPlaced, StoreError> {
        let body = envelope.body();
        let (name, tag) = (&body.name, &body.tag);
        let path = ref_object(name, tag);
        let bytes = Bytes::from(envelope.to_bytes()?);
        let mut placed = RefPlaced::Written;
        self.check_clock(None).await?;
        self.update::<RefBody>(&path, |previous| {
            placed = match previous {
                Some(old) if old == body => RefPlaced::Same,
                Some(old) if old.version >= body.version && !force => {
                    RefPlaced::Kept { version: old.version }
                }
                _ => RefPlaced::Written,
            };
            // The same body may have gained signatures, which only they who ask for it replace.
            let write = placed == RefPlaced::Written || (placed == RefPlaced::Same && force);
            Ok(write.then(|| bytes.clone()))
        })
        .await?;
        if matches!(placed, RefPlaced::Kept { .. }) {
            return Ok(placed);
        }
        let (manifest, version) = (body.manifest, body.version);
        let entry = IndexEntry { manifest, name: name.clone(), tag: tag.clone(), version };
        let (signed, listed) = self.index_entry(name, tag).await?;
        if listed.as_ref() == Some(&entry) {
            return Ok(placed);
        }
        if signed && signers.iter().all(|signer| signer.method() != Method::Ed25519) {
            return Ok(RefPlaced::Unlisted);
        }
        let change = match force {
            true => IndexChange::Force(entry),
            false => IndexChange::Place(entry),
        };
        self.update_index(change, signers, lifetime).await?;
        Ok(placed)
    }

    /// Points `name:tag` to `manifest`, signed by those of `signers` that can sign refs, and brings
    /// the index up to date. A lost race is run again on what the winner wrote.
    ///
    /// # Errors
    /// If the clock is wrong, others win every race, or the store fails.
    pub async fn publish(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        manifest: ManifestId,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<Published, StoreError> {
        let path = ref_object(name, tag);
        let mut published = Published { version: 0, expires: 0, replaced: None };
        self.check_clock(None).await?;
        self.update::<RefBody>(&path, |previous| {
            self.compare_clock(previous.map(|old| old.version))?;
            let now = unix_now();
            published.expires = now + lifetime.0.as_secs();
            published.replaced = previous.map(|old| old.manifest);
            published.version = version_after(previous.map(|old| old.version), RefBody::WHAT)?;
            let body = RefBody::new(
                name.clone(),
                tag.clone(),
                manifest,
                published.version,
                published.expires,
            );
            sealed(body, signers).map(Some)
        })
        .await?;
        let entry = IndexEntry {
            manifest,
            name: name.clone(),
            tag: tag.clone(),
            version: published.version,
        };
        self.update_index(IndexChange::Publish(entry), signers, lifetime).await?;
        Ok(published)
    }

    /// Removes the ref and its entry in the index. Returns whether there was one.
    ///
    /// # Errors
    /// If the clock is wrong, others win every race, or the store fails.
    pub async fn unpublish(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<bool, StoreError> {
        let path = ref_object(name, tag);
        self.check_clock(None).await?;
        let existed = self.read_optional(&path, RefBody::LIMIT).await;
        // One that is damaged goes too.
        let existed = match existed {
            Err(StoreError::Damaged { .. }) => Some(None),
            existed => existed?.map(|bytes| self.parse_document::<RefBody>(&path, &bytes).ok()),
        };
        self.transport().delete(&path).await?;
        // Who publishes the name again from now on takes a higher version, whose entry stays.
        let version = match &existed {
            Some(Some(envelope)) => envelope.body().version,
            _ => version_after(None, RefBody::WHAT)?,
        };
        let change = IndexChange::Remove(name.clone(), tag.clone(), version);
        self.update_index(change, signers, lifetime).await?;
        Ok(existed.is_some())
    }

    /// The refs of these names, read one by one.
    ///
    /// # Errors
    /// If one is malformed, or the store cannot list, or fails.
    pub async fn refs(&self, wanted: &NamePattern) -> Result<Vec<Envelope<RefBody>>, StoreError> {
        let mut refs = Vec::new();
        for info in self.list(&format!("refs/{}", wanted.folder())).await? {
            let name = info.path.as_str().strip_prefix("refs/").and_then(|p| p.rsplit_once("/@"));
            let name = name.and_then(|(name, _)| name.parse().ok());
            let is_other = name.is_some_and(|name| !wanted.matches(&name));
            if is_other || info.path == paths::index() {
                continue;
            }
            // Removed since it was listed: not there.
            let found: Option<Envelope<RefBody>> = self.document(&info.path).await?;
            refs.extend(found.filter(|found| wanted.matches(&found.body().name)));
        }
        Ok(refs)
    }
}
