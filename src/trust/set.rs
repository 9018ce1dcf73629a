//! The keys that a user trusts, and the one place where an object becomes trusted.
//!
//! A revoked key counts for nothing, whoever else lists it. A key limited to names counts for an
//! artifact only when it was asked for by such a name: addressed by id, nothing binds a name to
//! it, and such a key does not count. HMAC keys count for manifests only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use hmac::Mac as _;

use super::envelope::{RawEnvelope, is_signed_by};
use super::error::TrustError;
use super::key::{KeyId, Method, manifest_message};
use super::key_error::KeyError;
use super::openpgp::Certificate;
use super::signer::hmac_tag;
use super::verdict::{Refusal, Verdict, Verdicts};
use crate::format::glob::Glob;
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::{IndexBody, RefBody, RootBody, SignedBody};

enum Material {
    Ed25519(VerifyingKey),
    Hmac(Vec<u8>),
    OpenPgp(Vec<Certificate>),
}

impl Material {
    fn method(&self) -> Method {
        match self {
            Self::Ed25519(_) => Method::Ed25519,
            Self::Hmac(_) => Method::Hmac,
            Self::OpenPgp(_) => Method::OpenPgp,
        }
    }
}

/// Which names a key may sign.
enum Scope {
    Every,
    Names(Vec<Glob>),
}

impl Scope {
    fn new(names: Option<Vec<String>>) -> Result<Self, KeyError> {
        let Some(globs) = names else {
            return Ok(Self::Every);
        };
        let glob = |text: &String| {
            Glob::of_path(text).map_err(|error| KeyError::Names { pattern: text.clone(), error })
        };
        Ok(Self::Names(globs.iter().map(glob).collect::<Result<_, _>>()?))
    }

    fn allows(&self, name: Option<&ArtifactName>) -> bool {
        match (self, name) {
            (Self::Every, _) => true,
            (Self::Names(globs), Some(name)) => {
                globs.iter().any(|glob| glob.matches(name.as_str()))
            }
            (Self::Names(_), None) => false,
        }
    }

    /// Either of both suffices.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Names(mut globs), Self::Names(more)) => {
                globs.extend(more);
                Self::Names(globs)
            }
            _ => Self::Every,
        }
    }
}

struct Trusted {
    material: Material,
    scope: Scope,
}

/// Which trusted keys signed a manifest, and what was wrong with the other signatures.
#[derive(Debug)]
pub struct ManifestTrust {
    /// The keys whose signatures are valid: at least one.
    pub keys: Vec<KeyId>,
    /// Signatures that did not count although one by another key did.
    pub rejected: Vec<TrustError>,
}

/// A signed document's body, and the trusted keys that vouch for it: at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    /// What the document says.
    pub body: T,
    /// Who says so.
    pub keys: Vec<KeyId>,
}

/// The keys that a user trusts.
#[derive(Default)]
pub struct TrustSet {
    keys: BTreeMap<KeyId, Trusted>,
    revoked: BTreeSet<KeyId>,
}

impl fmt::Debug for TrustSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustSet")
            .field("keys", &self.keys.keys())
            .field("revoked", &self.revoked)
            .finish()
    }
}

impl TrustSet {
    /// Trusts an Ed25519 key, for these names or for every name.
    ///
    /// # Errors
    /// If a name is no pattern.
    pub fn add_ed25519(
        &mut self,
        key: VerifyingKey,
        names: Option<Vec<String>>,
    ) -> Result<(), KeyError> {
        self.add(KeyId::of_ed25519(&key), Material::Ed25519(key), names)
    }

    /// Trusts every certificate in an OpenPGP key file, armored or binary.
    ///
    /// # Errors
    /// If there is none in it, or a name is no pattern.
    pub fn add_openpgp(
        &mut self,
        bytes: &[u8],
        names: Option<Vec<String>>,
    ) -> Result<(), KeyError> {
        for certificate in Certificate::parse_all(bytes).map_err(KeyError::OpenPgp)? {
            let id = certificate.key_id();
            self.add(id, Material::OpenPgp(vec![certificate]), names.clone())?;
        }
        Ok(())
    }

    /// Trusts an HMAC secret: whoever holds it can sign.
    ///
    /// # Errors
    /// If a name is no pattern.
    pub fn add_hmac(&mut self, secret: &[u8], names: Option<Vec<String>>) -> Result<(), KeyError> {
        self.add(KeyId::of_hmac(secret), Material::Hmac(secret.to_vec()), names)
    }

    /// Makes a key count for nothing.
    pub fn revoke(&mut self, key: KeyId) {
        self.revoked.insert(key);
    }

    fn add(
        &mut self,
        id: KeyId,
        material: Material,
        names: Option<Vec<String>>,
    ) -> Result<(), KeyError> {
        let scope = Scope::new(names)?;
        let trusted = match self.keys.remove(&id) {
            None => Trusted { material, scope },
            Some(known) => {
                let scope = known.scope.or(scope);
                let material = match (known.material, material) {
                    // Two states of one certificate: what either says against it holds.
                    (Material::OpenPgp(mut all), Material::OpenPgp(more)) => {
                        all.extend(more);
                        Material::OpenPgp(all)
                    }
                    (_, material) => material,
                };
                Trusted { material, scope }
            }
        };
        self.keys.insert(id, trusted);
        Ok(())
    }

    /// Whether nobody is trusted, not even a key that was revoked since: then nothing is verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.revoked.is_empty()
    }

    /// The keys that count, each of which may have a signature file.
    pub fn key_ids(&self) -> impl Iterator<Item = (&KeyId, Method)> {
        self.keys
            .iter()
            .filter(|(id, _)| !self.revoked.contains(*id))
            .map(|(id, trusted)| (id, trusted.material.method()))
    }

    /// Finds a valid signature of a manifest by a key that counts for `name`, or by one without a
    /// limit if the artifact was addressed by its id. `now` is the Unix time in seconds.
    ///
    /// # Errors
    /// If there is none: the gravest reason why.
    pub fn verify_manifest(
        &self,
        name: Option<&ArtifactName>,
        id: ManifestId,
        manifest: &[u8],
        signatures: &[(KeyId, Method, Bytes)],
        now: u64,
    ) -> Result<ManifestTrust, TrustError> {
        let what = match name {
            Some(name) => format!("manifest {id} of {name}"),
            None => format!("manifest {id}"),
        };
        let found = ManifestId::of(manifest);
        if found != id {
            return Err(TrustError::Mismatch {
                what,
                field: "digest",
                expected: id.to_hex(),
                got: found.to_hex(),
            });
        }
        let mut verdicts = Verdicts::new(what);
        for (key, method, signature) in signatures {
            verdicts.add(
                key,
                self.judge(key, *method, name, |material| {
                    verify_one(material, id, manifest, signature, now, &self.revoked)
                }),
            );
        }
        let (keys, rejected) = verdicts.finish(name)?;
        Ok(ManifestTrust { keys, rejected })
    }

    /// Verifies a ref against what was asked for. Older versions are for [`super::SeenRefs`] to
    /// notice, with the keys that this returns.
    ///
    /// # Errors
    /// If it is malformed, expired, about something else, or signed by nobody who counts.
    pub fn verify_ref(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        bytes: &[u8],
        now: u64,
    ) -> Result<Verified<RefBody>, TrustError> {
        let what = format!("ref {name}:{tag}");
        let vouched: Verified<RefBody> = self.verify_document(&what, Some(name), bytes)?;
        let body = &vouched.body;
        let mismatch = |field, expected: &str, got: &str| TrustError::Mismatch {
            what: what.clone(),
            field,
            expected: expected.to_owned(),
            got: got.to_owned(),
        };
        if body.name != *name {
            return Err(mismatch("name", name.as_str(), body.name.as_str()));
        }
        if body.tag != *tag {
            return Err(mismatch("tag", tag.as_str(), body.tag.as_str()));
        }
        check_expiry(what, body.expires, now)?;
        Ok(vouched)
    }

    /// Verifies the index of refs in the whole form. A key with a limit vouches only for the entries
    /// whose names it may sign; entries that no key vouches for are left out.
    ///
    /// # Errors
    /// If it is malformed, expired, or signed by nobody who is trusted.
    pub fn verify_index(&self, bytes: &[u8], now: u64) -> Result<Verified<IndexBody>, TrustError> {
        let what = "the index of refs".to_owned();
        let mut vouched: Verified<IndexBody> = self.verify_document(&what, None, bytes)?;
        check_expiry(what, vouched.body.expires, now)?;
        vouched.body.refs.retain(|entry| self.may_sign(&vouched.keys, &entry.name));
        Ok(vouched)
    }

    /// Verifies the root of the index of refs. Which of the entries below it count is for
    /// [`Self::may_sign`], with the keys that this returns.
    ///
    /// # Errors
    /// If it is malformed, expired, or signed by nobody who is trusted.
    pub fn verify_root(&self, bytes: &[u8], now: u64) -> Result<Verified<RootBody>, TrustError> {
        let what = "the index of refs".to_owned();
        let vouched: Verified<RootBody> = self.verify_document(&what, None, bytes)?;
        check_expiry(what, vouched.body.expires, now)?;
        Ok(vouched)
    }

    /// Whether one of these trusted keys may sign the name.
    pub fn may_sign(&self, keys: &[KeyId], name: &ArtifactName) -> bool {
        let valid = keys.iter().filter(|id| !self.revoked.contains(*id));
        valid.filter_map(|id| self.keys.get(id)).any(|key| key.scope.allows(Some(name)))
    }

    /// Signatures first, on the raw bytes; the body is interpreted after one was found valid.
    /// Without a name, a limited key counts, and the caller applies its limit.
    fn verify_document<T: SignedBody>(
        &self,
        what: &str,
        name: Option<&ArtifactName>,
        bytes: &[u8],
    ) -> Result<Verified<T>, TrustError> {
        let malformed = |reason| TrustError::Malformed { what: what.to_owned(), reason };
        let raw = RawEnvelope::split::<T>(bytes).map_err(malformed)?;
        let mut verdicts = Verdicts::new(what.to_owned());
        for (key, signature) in &raw.signatures {
            let check = |material: &Material| match material {
                Material::Ed25519(public)
                    if is_signed_by(public, T::DOMAIN, raw.signed, signature) =>
                {
                    Ok(())
                }
                _ => Err(Refusal::Wrong("it does not match the content".to_owned())),
            };
            let verdict = match name {
                Some(_) => self.judge(key, Method::Ed25519, name, check),
                None => self.judge_unlimited(key, Method::Ed25519, check),
            };
            verdicts.add(key, verdict);
        }
        let (keys, _) = verdicts.finish(name)?;
        let body = raw.body().map_err(malformed)?;
        Ok(Verified { body, keys })
    }

    fn judge(
        &self,
        id: &KeyId,
        method: Method,
        name: Option<&ArtifactName>,
        check: impl Fn(&Material) -> Result<(), Refusal>,
    ) -> Verdict {
        match self.judge_unlimited(id, method, check) {
            Verdict::Valid if !self.keys.get(id).is_some_and(|key| key.scope.allows(name)) => {
                Verdict::NotForName
            }
            verdict => verdict,
        }
    }

    fn judge_unlimited(
        &self,
        id: &KeyId,
        method: Method,
        check: impl Fn(&Material) -> Result<(), Refusal>,
    ) -> Verdict {
        if self.revoked.contains(id) {
            return Verdict::Revoked;
        }
        match self.keys.get(id) {
            Some(key) if key.material.method() == method => match check(&key.material) {
                Ok(()) => Verdict::Valid,
                Err(Refusal::Wrong(reason)) => Verdict::Wrong(reason),
                Err(Refusal::Revoked) => Verdict::Revoked,
                Err(Refusal::Expired { when }) => Verdict::KeyExpired { when },
            },
            _ => Verdict::Untrusted,
        }
    }
}

fn check_expiry(what: String, when: u64, now: u64) -> Result<(), TrustError> {
    if when <= now {
        return Err(TrustError::Expired { what, when, now });
    }
    Ok(())
}

fn verify_one(
    material: &Material,
    id: ManifestId,
    manifest: &[u8],
    signature: &[u8],
    now: u64,
    revoked: &BTreeSet<KeyId>,
) -> Result<(), Refusal> {
    let length = |expected: usize| {
        Refusal::Wrong(format!("{} bytes instead of {expected}", signature.len()))
    };
    match material {
        Material::Ed25519(key) => {
            let signature = signature.try_into().map_err(|_| length(64))?;
            if is_signed_by(key, b"", &manifest_message(id), signature) {
                return Ok(());
            }
            Err(Refusal::Wrong("it does not match the manifest".to_owned()))
        }
        Material::Hmac(secret) => {
            if signature.len() != 32 {
                return Err(length(32));
            }
            hmac_tag(secret, &manifest_message(id))
                .map_err(Refusal::Wrong)?
                .verify_slice(signature)
                .map_err(|_| Refusal::Wrong("it does not match the manifest".to_owned()))
        }
        Material::OpenPgp(certificates) => {
            // Every state of the certificate that the user trusts must agree on a revocation;
            // otherwise the one that knows the signing subkey and the renewed expiry suffices.
            let mut verdict = Err(Refusal::Wrong("the certificate is empty".to_owned()));
            for certificate in certificates {
                let this =
                    certificate.verify(manifest, signature, now, |key| revoked.contains(key));
                match this {
                    Err(Refusal::Revoked) => return this,
                    Ok(()) => verdict = this,
                    Err(_) if verdict.is_err() => verdict = this,
                    Err(_) => {}
                }
            }
            verdict
        }
    }
}
