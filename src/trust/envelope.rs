//! A signed document: a body, its exact bytes, and the Ed25519 signatures over them.
//!
//! The file is canonical JSON, `{"signatures":[..],"signed":BODY}`. What is signed is the domain
//! of the body's type followed by the bytes of BODY as they stand in the file. [`RawEnvelope`]
//! finds those bytes without interpreting them, so that a reader with trusted keys verifies first
//! and parses after.

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::error::{DocumentError, TrustError};
use super::key::{KeyId, document_message};
use super::signer::Signer;
use crate::format::id::{from_hex, to_hex};
use crate::format::json::{self, JsonError};
use crate::format::limits::MAX_SIGNATURES;
use crate::format::refs::SignedBody;

/// More than [`MAX_SIGNATURES`] of them need: 64 + 128 digits, names and punctuation each.
const MAX_SIGNATURES_BYTES: usize = MAX_SIGNATURES * 320;

const HEAD_END: &[u8] = b"],\"signed\":";

#[derive(Serialize, Deserialize)]
enum WireMethod {
    #[serde(rename = "ed25519")]
    Ed25519,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    key: KeyId,
    method: WireMethod,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHead {
    signatures: Vec<WireSignature>,
}

/// The parts of a signed document, of which nothing is verified yet.
#[derive(Debug)]
pub(super) struct RawEnvelope<'a> {
    pub(super) signatures: BTreeMap<KeyId, [u8; 64]>,
    pub(super) signed: &'a [u8],
}

impl<'a> RawEnvelope<'a> {
    /// Takes a document apart.
    pub(super) fn split<T: SignedBody>(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        within::<T>(bytes.len())?;
        // The signatures hold neither brackets nor quotes inside their strings, so the first
        // match ends them; were it not the end, what precedes it would not parse.
        let window = bytes.get(..MAX_SIGNATURES_BYTES).unwrap_or(bytes);
        let at = window
            .windows(HEAD_END.len())
            .position(|window| window == HEAD_END)
            .ok_or(DocumentError::Head)?;
        let (head, rest) = bytes.split_at(at);
        let signed = rest
            .strip_prefix(HEAD_END)
            .and_then(|rest| rest.strip_suffix(b"}"))
            .ok_or(DocumentError::End)?;
        let head = [head, b"]}"].concat();
        let head: WireHead = json::parse(&head, MAX_SIGNATURES_BYTES + 2)?;
        if head.signatures.len() > MAX_SIGNATURES {
            return Err(DocumentError::Signatures);
        }
        let mut signatures = BTreeMap::new();
        for WireSignature { key, method: WireMethod::Ed25519, signature } in head.signatures {
            let Some(signature) = from_hex(&signature) else {
                return Err(DocumentError::Digits(key));
            };
            if signatures.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DocumentError::Order(key));
            }
            signatures.insert(key, signature);
        }
        Ok(Self { signatures, signed })
    }

    /// Reads the body.
    pub(super) fn body<T: SignedBody>(&self) -> Result<T, DocumentError> {
        let body: T = json::parse(self.signed, T::LIMIT)?;
        body.check()?;
        Ok(body)
    }
}

fn within<T: SignedBody>(length: usize) -> Result<(), JsonError> {
    let limit = T::LIMIT;
    if length > limit { Err(JsonError::TooLong { length, limit }) } else { Ok(()) }
}

fn malformed<T: SignedBody>(reason: impl Into<DocumentError>) -> TrustError {
    TrustError::Malformed { what: T::WHAT.to_owned(), reason: reason.into() }
}

/// Whether `signature` over `signed` is by `key`.
pub(super) fn is_signed_by(
    key: &VerifyingKey,
    domain: &[u8],
    signed: &[u8],
    signature: &[u8; 64],
) -> bool {
    // Strict: one signature has one spelling, and keys of small order sign nothing.
    key.verify_strict(&document_message(domain, signed), &Signature::from_bytes(signature)).is_ok()
}

/// A signed document. Reading it verifies nothing: that is for [`super::TrustSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<T> {
    body: T,
    signed: Vec<u8>,
    signatures: BTreeMap<KeyId, [u8; 64]>,
}

impl<T: SignedBody> Envelope<T> {
    /// A document without signatures.
    ///
    /// # Errors
    /// If the body breaks a rule.
    pub fn new(body: T) -> Result<Self, TrustError> {
        body.check().map_err(malformed::<T>)?;
        let signed = json::to_bytes(&body).map_err(malformed::<T>)?;
        Ok(Self { body, signed, signatures: BTreeMap::new() })
    }

    /// Reads a document, as it lies in a store.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let raw = RawEnvelope::split::<T>(bytes).map_err(malformed::<T>)?;
        let body = raw.body().map_err(malformed::<T>)?;
        Ok(Self { body, signed: raw.signed.to_vec(), signatures: raw.signatures })
    }

    /// What the document says, unverified.
    pub fn body(&self) -> &T {
        &self.body
    }

    /// The exact bytes that are signed, after the domain.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// The keys that claim to have signed it, unverified.
    pub fn claimed_keys(&self) -> impl Iterator<Item = &KeyId> {
        self.signatures.keys()
    }

    /// Adds the signature of `signer`, or replaces the one that this key made before.
    ///
    /// # Errors
    /// If the key cannot sign documents, or the document has no room for another.
    pub fn sign(&mut self, signer: &Signer) -> Result<(), TrustError> {
        let signature = signer.sign_document(T::DOMAIN, &self.signed)?;
        let key = signer.key_id();
        if self.signatures.len() >= MAX_SIGNATURES && !self.signatures.contains_key(&key) {
            let reason = format!("it already has {MAX_SIGNATURES} signatures");
            return Err(TrustError::SigningFailed { key, reason });
        }
        self.signatures.insert(key, signature);
        Ok(())
    }

    /// Which of `keys` made a valid signature of this document.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Vec<&'k VerifyingKey> {
        let signed = |key: &&VerifyingKey| {
            self.signatures
                .get(&KeyId::of_ed25519(key))
                .is_some_and(|signature| is_signed_by(key, T::DOMAIN, &self.signed, signature))
        };
        keys.into_iter().filter(signed).collect()
    }

    /// The document as it lies in a store.
    ///
    /// # Errors
    /// If it is longer than its kind may be.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TrustError> {
        let signatures = self.signatures.iter().map(|(key, signature)| WireSignature {
            key: key.clone(),
            method: WireMethod::Ed25519,
            signature: to_hex(signature),
        });
        let head = WireHead { signatures: signatures.collect() };
        let mut out = json::to_bytes(&head).map_err(malformed::<T>)?;
        // `{"signatures":[..]}` is opened again at its last brace.
        out.truncate(out.len().saturating_sub(1));
        out.extend_from_slice(b",\"signed\":");
        out.extend_from_slice(&self.signed);
        out.push(b'}');
        within::<T>(out.len()).map_err(malformed::<T>)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::ManifestId;
    use crate::format::refs::{IndexBody, IndexEntry, RefBody, RootBody};
    use crate::trust::manifest_message;
    use ed25519_dalek::SigningKey;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn body() -> RefBody {
        let name = "org/model".parse().unwrap();
        RefBody::new(name, Default::default(), ManifestId::of(b"m"), 7, 1000)
    }

    fn signed(seeds: &[u8]) -> Envelope<RefBody> {
        let mut envelope = Envelope::new(body()).unwrap();
        for seed in seeds {
            envelope.sign(&Signer::Ed25519(key(*seed))).unwrap();
        }
        envelope
    }

    #[test]
    fn a_document_is_canonical_json_and_reads_back() {
        for seeds in [&[][..], &[1], &[1, 2, 3]] {
            let envelope = signed(seeds);
            let bytes = envelope.to_bytes().unwrap();
            let value: serde_json::Value = json::parse(&bytes, 1 << 16).unwrap();
            assert_eq!(json::to_bytes(&value["signed"]).unwrap(), envelope.signed_bytes());
            assert_eq!(Envelope::parse(&bytes).unwrap(), envelope);
            assert_eq!(envelope.claimed_keys().count(), seeds.len());
        }
    }

    #[test]
    fn only_the_keys_that_signed_verify() {
        let keys: Vec<_> = (1..=4).map(|seed| key(seed).verifying_key()).collect();
        let envelope = signed(&[3, 1]);
        assert_eq!(envelope.verify(&keys), [&keys[0], &keys[2]]);
        let mut again = envelope.clone();
        again.sign(&Signer::Ed25519(key(1))).unwrap();
        assert_eq!(again, envelope);
    }

    #[test]
    fn no_changed_bit_verifies() {
        let public = key(1).verifying_key();
        let bytes = signed(&[1]).to_bytes().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                if let Ok(envelope) = Envelope::<RefBody>::parse(&bad) {
                    assert!(envelope.verify([&public]).is_empty(), "bit {bit} of byte {at}");
                }
            }
        }
        for length in 0..bytes.len() {
            assert!(Envelope::<RefBody>::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_signature_for_one_domain_says_nothing_about_another() {
        let signer = Signer::Ed25519(key(1));
        let public = key(1).verifying_key();
        let envelope = signed(&[1]);
        let (_, signature) = envelope.signatures.first_key_value().unwrap();
        let bytes = envelope.signed_bytes();
        assert!(is_signed_by(&public, RefBody::DOMAIN, bytes, signature));
        assert!(!is_signed_by(&public, IndexBody::DOMAIN, bytes, signature));
        assert!(!is_signed_by(&public, RootBody::DOMAIN, bytes, signature));
        assert!(!is_signed_by(&public, b"", bytes, signature));
        // Nor does it, over any split of its message into domain and content, sign a manifest.
        let id = ManifestId::of(b"m");
        let manifest = signer.sign_manifest(id, b"m", 0).unwrap();
        let manifest: [u8; 64] = manifest.as_ref().try_into().unwrap();
        assert!(is_signed_by(&public, b"", &manifest_message(id), &manifest));
        assert!(!is_signed_by(&public, RefBody::DOMAIN, id.as_bytes(), &manifest));
        assert!(!is_signed_by(&public, b"", &manifest_message(id), signature));
    }

    #[test]
    fn malformed_documents_are_refused() {
        let good = String::from_utf8(signed(&[1, 2]).to_bytes().unwrap()).unwrap();
        let parts: Vec<&str> = good.splitn(3, "},{").collect();
        assert_eq!(parts.len(), 2);
        let first = parts[0].strip_prefix("{\"signatures\":[{").unwrap();
        let (second, signed) = parts[1].split_once("}],\"signed\":").unwrap();
        let build = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|item| format!("{{{item}}}")).collect();
            format!("{{\"signatures\":[{}],\"signed\":{signed}", list.join(","))
        };
        assert_eq!(build(&[first, second]), good);
        let many = vec![first; 17];
        for bad in [
            String::new(),
            "{}".to_owned(),
            "{\"signatures\":[]}".to_owned(),
            "{\"signatures\":[],\"signed\":}".to_owned(),
            "{\"signatures\":[],\"signed\":null}".to_owned(),
            build(&[second, first]),
            build(&[first, first]),
            build(&many),
            build(&[&first.replace("ed25519", "hmac")]),
            build(&[&first.replace("ed25519", "openpgp")]),
            good.replace("\"version\":7", "\"version\":07"),
            good.replace("\"version\":7", "\"version\":9007199254740992"),
            good.replace("\"version\":7", "\"version\":-7"),
            good.replace("\"version\":7", "\"version\":7,\"wersion\":7"),
            good.replace("tenpak-ref", "tenpak-ref2"),
            good.replace("tenpak-ref", "tenpak-refs-index"),
            good.replace("org/model", "org/../model"),
            good.replace("latest", "main"),
            good.replace(":{\"expires\"", ": {\"expires\""),
            format!("{good}\n"),
            format!(" {good}"),
            format!("{good}{}", " ".repeat(RefBody::LIMIT)),
        ] {
            assert!(Envelope::<RefBody>::parse(bad.as_bytes()).is_err(), "{bad:?} was accepted");
        }
        assert!(Envelope::<IndexBody>::parse(good.as_bytes()).is_err());
    }

    #[test]
    fn sixteen_signatures_fit_and_no_more() {
        let seeds: Vec<u8> = (1..=16).collect();
        let mut envelope = signed(&seeds);
        let bytes = envelope.to_bytes().unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap(), envelope);
        assert!(envelope.sign(&Signer::Ed25519(key(17))).is_err());
        assert!(envelope.sign(&Signer::Ed25519(key(16))).is_ok());
    }

    #[test]
    fn an_unsorted_index_cannot_be_written_or_read() {
        let entry = |name: &str| IndexEntry {
            manifest: ManifestId::of(b"m"),
            name: name.parse().unwrap(),
            tag: Default::default(),
            version: 1,
        };
        let index = IndexBody::new(vec![entry("a"), entry("b")], 1, 2);
        let good = Envelope::new(index.clone()).unwrap().to_bytes().unwrap();
        assert!(Envelope::<IndexBody>::parse(&good).is_ok());
        let bad = String::from_utf8(good).unwrap().replace("\"name\":\"a\"", "\"name\":\"c\"");
        assert!(Envelope::<IndexBody>::parse(bad.as_bytes()).is_err());
        let mut unsorted = index;
        unsorted.refs.swap(0, 1);
        assert!(Envelope::new(unsorted).is_err());
    }
}
