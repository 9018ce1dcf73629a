//! From what a user calls an artifact to its manifest, with or without trusted keys.

use bytes::Bytes;

use super::{Store, StoreError, unix_now};
use crate::format::id::ManifestId;
use crate::format::limits::{MAX_REF, MAX_SIGNATURE};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::format::refs::{RefBody, ref_path};
use crate::transport::{ObjectPath, ReadRange, TransportErrorKind};
use crate::trust::{
    Envelope, KeyId, ManifestTrust, Method, SeenRefs, SeenState, TrustSet, signature_path,
};

/// An artifact that was found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its manifest.
    pub manifest: ManifestId,
    /// The ref that led there; `None` if it was addressed by id.
    pub by: Option<Envelope<RefBody>>,
    /// What the user must hear although it is no error.
    pub warning: Option<String>,
}

impl Resolved {
    /// The name that it was addressed by.
    pub fn name(&self) -> Option<&ArtifactName> {
        self.by.as_ref().map(|envelope| &envelope.body().name)
    }
}

/// Where the ref of `name:tag` lies.
pub fn ref_object(name: &ArtifactName, tag: &Tag) -> ObjectPath {
    ObjectPath::new(ref_path(name, tag))
        .unwrap_or_else(|| unreachable!("names and tags are path segments"))
}

impl Store {
    /// Finds the artifact, without trusting or distrusting anybody.
    ///
    /// # Errors
    /// If it is not there, or the store fails.
    pub async fn resolve(&self, artifact: &ArtifactSpec) -> Result<Resolved, StoreError> {
        self.find(artifact, None).await
    }

    /// Finds the artifact. If anybody is trusted, its ref must be signed by one of them, valid now,
    /// and no older than what this user has seen. The manifest's own signatures are for
    /// [`Self::check_manifest`].
    ///
    /// # Errors
    /// If it is not there or does not count, or the store fails.
    pub async fn resolve_trusted(
        &self,
        artifact: &ArtifactSpec,
        trust: &TrustSet,
        seen: Option<&SeenRefs>,
    ) -> Result<Resolved, StoreError> {
        self.find(artifact, (!trust.is_empty()).then_some((trust, seen))).await
    }

    /// The same error; but what is not found, or cannot be listed, where there is no store says that.
    pub(crate) async fn or_no_store(&self, error: StoreError) -> StoreError {
        let nothing = match &error {
            StoreError::NoArtifact { .. } => true,
            StoreError::Transport(error) => {
                matches!(error.kind, TransportErrorKind::Unlistable | TransportErrorKind::NotFound)
            }
            _ => false,
        };
        if !nothing {
            return error;
        }
        match self.require().await {
            Err(other @ (StoreError::NoStore { .. } | StoreError::Damaged { .. })) => other,
            _ => error,
        }
    }

    /// Why the manifest of what the artifact was found to be could not be read.
    pub(crate) fn no_manifest(&self, artifact: &ArtifactSpec, error: StoreError) -> StoreError {
        match (error.is_not_found(), artifact) {
            (true, ArtifactSpec::Id(_)) => self.no_artifact(artifact),
            _ => error.named_by(artifact),
        }
    }

    pub(crate) fn no_artifact(&self, artifact: &ArtifactSpec) -> StoreError {
        let (location, artifact) = (self.location().to_owned(), artifact.to_string());
        StoreError::NoArtifact { location, artifact }
    }

    async fn find(
        &self,
        artifact: &ArtifactSpec,
        trust: Option<(&TrustSet, Option<&SeenRefs>)>,
    ) -> Result<Resolved, StoreError> {
        match artifact {
            ArtifactSpec::Named { name, tag } => {
                let path = ref_object(name, tag);
                let check = |bytes: Bytes| {
                    let mut warning = None;
                    if let Some((trust, seen)) = trust {
                        let verified = trust.verify_ref(name, tag, &bytes, unix_now())?;
                        let state = seen.map(|seen| seen.check(&verified)).transpose()?;
                        if let Some(SeenState::NotWritable { reason }) = state {
                            warning = Some(format!(
                                "a rollback of {name}:{tag} would go unnoticed: {reason}"
                            ));
                        }
                    }
                    let envelope = Envelope::<RefBody>::parse(&bytes)?;
                    Ok(Resolved { manifest: envelope.body().manifest, by: Some(envelope), warning })
                };
                let read = self.read_checked(&path, &ReadRange::Full, MAX_REF as u64, check).await;
                read.map_err(|error| match error.is_not_found() {
                    true => self.no_artifact(artifact),
                    false => error,
                })
            }
            ArtifactSpec::Id(prefix) => {
                let manifest = match prefix.exact() {
                    Some(id) => id,
                    None => {
                        let listed = self.list("manifests/").await?;
                        let ids = listed.iter().filter_map(|info| {
                            let id = info.path.as_str().strip_prefix("manifests/")?;
                            id.parse::<ManifestId>().ok().filter(|id| prefix.matches(*id))
                        });
                        let ids: Vec<_> = ids.collect();
                        match ids.as_slice() {
                            [] => return Err(self.no_artifact(artifact)),
                            [id] => *id,
                            _ => {
                                return Err(StoreError::Ambiguous {
                                    location: self.location().to_owned(),
                                    prefix: prefix.as_str().to_owned(),
                                    count: ids.len(),
                                });
                            }
                        }
                    }
                };
                Ok(Resolved { manifest, by: None, warning: None })
            }
        }
    }

    /// The signature files of a manifest by these keys; missing ones are left out.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn signatures(
        &self,
        id: ManifestId,
        keys: impl IntoIterator<Item = (&KeyId, Method)>,
    ) -> Result<Vec<(KeyId, Method, Bytes)>, StoreError> {
        let read = |(key, method): (&KeyId, Method)| {
            let key = key.clone();
            async move {
                let Some(path) = ObjectPath::new(signature_path(id, &key, method)) else {
                    return Ok(None);
                };
                let bytes = match self.read_optional(&path, MAX_SIGNATURE).await {
                    // Longer than a signature can be: as good as none.
                    Err(StoreError::Damaged { .. }) => None,
                    other => other?,
                };
                Ok::<_, StoreError>(bytes.map(|bytes| (key, method, bytes)))
            }
        };
        let found = futures_util::future::try_join_all(keys.into_iter().map(read)).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Checks that a key trusted for `name` signed the manifest. Trusting nobody, nothing is
    /// checked, and nobody is named.
    ///
    /// # Errors
    /// If none did.
    pub async fn check_manifest(
        &self,
        trust: &TrustSet,
        name: Option<&ArtifactName>,
        id: ManifestId,
        manifest: &[u8],
    ) -> Result<Option<ManifestTrust>, StoreError> {
        let signatures = self.signatures(id, trust.key_ids()).await?;
        self.check_signatures(trust, name, id, manifest, signatures).await
    }

    /// The same of signatures that were read; where they do not suffice, those of the mirrors count too.
    pub(super) async fn check_signatures(
        &self,
        trust: &TrustSet,
        name: Option<&ArtifactName>,
        id: ManifestId,
        manifest: &[u8],
        mut signatures: Vec<(KeyId, Method, Bytes)>,
    ) -> Result<Option<ManifestTrust>, StoreError> {
        if trust.is_empty() {
            return Ok(None);
        }
        let now = unix_now();
        let verify = |signatures: &[_]| trust.verify_manifest(name, id, manifest, signatures, now);
        let mut verdict = verify(&signatures);
        let (_, mirrors) = self.transports().split_at(1);
        if verdict.is_err() && !mirrors.is_empty() {
            for mirror in mirrors {
                for (key, method) in trust.key_ids() {
                    let Some(path) = ObjectPath::new(signature_path(id, key, method)) else {
                        continue;
                    };
                    let (range, limit) = (ReadRange::Full, MAX_SIGNATURE as u64);
                    if let Ok(bytes) = self.read_from(&**mirror, &path, &range, limit).await {
                        signatures.push((key.clone(), method, bytes));
                    }
                }
            }
            verdict = verify(&signatures);
        }
        Ok(Some(verdict?))
    }

    /// Whether a key that is trusted for every name signed the manifest: then what the artifact holds may
    /// be linked into another that is to be signed.
    pub(crate) async fn is_linkable(
        &self,
        trust: &TrustSet,
        id: ManifestId,
        manifest: &[u8],
    ) -> Result<bool, StoreError> {
        // A secret that verifies can also forge.
        let keys = trust.key_ids().filter(|(_, method)| *method != Method::Hmac);
        let signatures = self.signatures(id, keys).await?;
        Ok(trust.verify_manifest(None, id, manifest, &signatures, unix_now()).is_ok())
    }
}
