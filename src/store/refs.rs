//! Publishing refs: conditional writes, so that no update is lost.

use std::time::Duration;

use bytes::Bytes;

use super::{Store, StoreError, unix_now};
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::{
    DEFAULT_LIFETIME_SECONDS, INDEX_PATH, IndexBody, IndexEntry, RefBody, SignedBody, next_version,
    ref_path,
};
use crate::transport::small::read_all;
use crate::transport::{Expected, ObjectPath, ReadRange, TransportErrorKind};
use crate::trust::{DocumentError, Envelope, Method, Signer, TrustError};

/// How often a lost race is run again.
const TRIES: u32 = 32;

/// How long a ref is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub Duration);

impl Default for Lifetime {
    fn default() -> Self {
        Self(Duration::from_secs(DEFAULT_LIFETIME_SECONDS))
    }
}

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
    /// If the store fails.
    pub async fn place_ref(
        &self,
        envelope: &Envelope<RefBody>,
        force: bool,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<RefPlaced, StoreError> {
        let body = envelope.body();
        let (name, tag) = (&body.name, &body.tag);
        let path = object_path(&ref_path(name, tag), RefBody::WHAT)?;
        let bytes = Bytes::from(envelope.to_bytes()?);
        let mut placed = RefPlaced::Written;
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
        let index = object_path(INDEX_PATH, IndexBody::WHAT)?;
        let (mut listed, mut signed) = (None, false);
        if let Some(index) = self.document::<IndexBody>(&index).await? {
            signed = index.claimed_keys().next().is_some();
            listed = index.body().get(name, tag).cloned();
        }
        let (manifest, version) = (body.manifest, body.version);
        let entry = IndexEntry { manifest, name: name.clone(), tag: tag.clone(), version };
        if listed.as_ref() == Some(&entry) {
            return Ok(placed);
        }
        if signed && signers.iter().all(|signer| signer.method() != Method::Ed25519) {
            return Ok(RefPlaced::Unlisted);
        }
        if listed.is_some_and(|old| old.version >= version) && force {
            self.update_index(name, tag, None, signers, lifetime).await?;
        }
        self.update_index(name, tag, Some(entry), signers, lifetime).await?;
        Ok(placed)
    }

    /// Points `name:tag` to `manifest`, signed by those of `signers` that can sign refs, and brings
    /// the index up to date. A lost race is run again on what the winner wrote.
    ///
    /// # Errors
    /// If others win every race, or the store fails.
    pub async fn publish(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        manifest: ManifestId,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<Published, StoreError> {
        let path = object_path(&ref_path(name, tag), RefBody::WHAT)?;
        let mut published = Published { version: 0, expires: 0, replaced: None };
        self.update::<RefBody>(&path, |previous| {
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
        self.update_index(name, tag, Some(entry), signers, lifetime).await?;
        Ok(published)
    }

    /// Removes the ref and its line in the index. Returns whether there was one.
    ///
    /// # Errors
    /// If others win every race, or the store fails.
    pub async fn unpublish(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<bool, StoreError> {
        let path = object_path(&ref_path(name, tag), RefBody::WHAT)?;
        let existed = self.transport().head(&path).await?.is_some();
        self.transport().delete(&path).await?;
        self.update_index(name, tag, None, signers, lifetime).await?;
        Ok(existed)
    }

    /// Every ref of the store, read one by one where the store can list, else from the index.
    ///
    /// # Errors
    /// If one is malformed, or the store fails.
    pub async fn refs(&self) -> Result<Vec<Envelope<RefBody>>, StoreError> {
        let mut refs = Vec::new();
        for info in self.list("refs/").await? {
            if info.path.as_str() == INDEX_PATH {
                continue;
            }
            // Removed since it was listed: not there.
            refs.extend(self.document(&info.path).await?);
        }
        Ok(refs)
    }

    /// Reads a signed document; nothing of it is verified yet.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse_document<T: SignedBody>(
        &self,
        path: &ObjectPath,
        bytes: &[u8],
    ) -> Result<Envelope<T>, StoreError> {
        Ok(self.parse(path, bytes)?)
    }

    fn parse<T: SignedBody>(
        &self,
        path: &ObjectPath,
        bytes: &[u8],
    ) -> Result<Envelope<T>, TrustError> {
        Envelope::parse(bytes).map_err(|error| match error {
            TrustError::Malformed { reason, .. } => {
                let what = format!("{}/{path}", self.location().trim_end_matches('/'));
                TrustError::Malformed { what, reason }
            }
            error => error,
        })
    }

    /// A signed document, if there is one, from the first transport where it is one; nothing of it is
    /// verified yet.
    ///
    /// # Errors
    /// If it is malformed, or the store fails.
    pub async fn document<T: SignedBody>(
        &self,
        path: &ObjectPath,
    ) -> Result<Option<Envelope<T>>, StoreError> {
        let parse = |bytes: Bytes| Ok(self.parse(path, &bytes)?);
        match self.read_checked(path, &ReadRange::Full, T::LIMIT as u64, parse).await {
            Ok(envelope) => Ok(Some(envelope)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn update_index(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        entry: Option<IndexEntry>,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<(), StoreError> {
        let path = object_path(INDEX_PATH, IndexBody::WHAT)?;
        self.update::<IndexBody>(&path, |previous| {
            let mut refs = previous.map_or_else(Vec::new, |old| old.refs.clone());
            let newer = |old: &IndexEntry| entry.as_ref().is_some_and(|e| old.version >= e.version);
            let is_same = |e: &IndexEntry| e.name == *name && e.tag == *tag;
            // A writer that was overtaken leaves the line of the one that overtook it.
            if refs.iter().any(|old| is_same(old) && newer(old)) {
                return Ok(None);
            }
            refs.retain(|old| !is_same(old));
            refs.extend(entry.clone());
            let version = version_after(previous.map(|old| old.version), IndexBody::WHAT)?;
            let expires = unix_now() + lifetime.0.as_secs();
            sealed(IndexBody::new(refs, version, expires), signers).map(Some)
        })
        .await
    }

    /// Reads the document, asks `next` for the one that replaces it, and writes that only if the
    /// document still is the one that was read.
    async fn update<T: SignedBody>(
        &self,
        path: &ObjectPath,
        mut next: impl FnMut(Option<&T>) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        for attempt in 0..TRIES {
            let limit = T::LIMIT as u64;
            let read =
                read_all(&**self.transport(), path, ReadRange::Full, limit, self.retry()).await;
            let (previous, expected) = match read {
                Ok((bytes, version)) => {
                    let version = version.map_or(Expected::Absent, Expected::Version);
                    (Some(self.parse_document::<T>(path, &bytes)?), version)
                }
                Err(error) if error.kind == TransportErrorKind::NotFound => {
                    (None, Expected::Absent)
                }
                Err(error) => return Err(error.into()),
            };
            let Some(bytes) = next(previous.as_ref().map(Envelope::body))? else { return Ok(()) };
            match self.transport().put_if(path, expected, bytes).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == TransportErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            // The winner is done by then; the spread keeps many losers apart.
            let spread = u64::from(fastrand::u8(..)) * u64::from(attempt + 1) / 16;
            tokio::time::sleep(Duration::from_millis(spread)).await;
        }
        let (location, object) = (self.location().to_owned(), path.to_string());
        Err(StoreError::Contended { location, object, tries: TRIES })
    }
}

fn object_path(path: &str, what: &str) -> Result<ObjectPath, StoreError> {
    ObjectPath::new(path).ok_or_else(|| {
        let reason = DocumentError::Path(path.to_owned());
        StoreError::Trust(TrustError::Malformed { what: what.to_owned(), reason })
    })
}

fn version_after(previous: Option<u64>, what: &str) -> Result<u64, StoreError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    next_version(previous, now).ok_or_else(|| {
        let reason = DocumentError::LastVersion;
        StoreError::Trust(TrustError::Malformed { what: what.to_owned(), reason })
    })
}

fn sealed<T: SignedBody>(body: T, signers: &[Signer]) -> Result<Bytes, StoreError> {
    let mut envelope = Envelope::new(body)?;
    // OpenPGP and HMAC never sign refs.
    for signer in signers.iter().filter(|signer| signer.method() == Method::Ed25519) {
        envelope.sign(signer)?;
    }
    Ok(envelope.to_bytes()?.into())
}
