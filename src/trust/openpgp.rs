//! OpenPGP: detached signatures over the exact bytes of a manifest.
//!
//! A signature counts for a certificate when its primary key, or a signing subkey bound to it in
//! both directions, made it over these bytes with a strong hash, and neither is expired at the
//! time of the check or revoked at all. rPGP does the cryptography; the policy is here, and it
//! fails closed: a revocation that cannot be checked revokes.

use pgp::composed::{
    Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey, SignedSecretKey,
    SubpacketConfig,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SignatureVersion, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{
    KeyDetails, KeyVersion, Password, PublicParams, SecretParams, SigningKey, Tag, Timestamp,
};

use super::key::{KeyId, is_armored};
use super::key_error::KeyError;
use super::verdict::Refusal;
use crate::format::limits::MAX_SIGNATURE;
use crate::format::time::date;

/// The most signature packets one file may hold.
const MAX_PACKETS: usize = 16;
/// The most certificates one key file may hold.
const MAX_CERTIFICATES: usize = 256;
/// How far another machine's clock may be ahead of ours.
const CLOCK_SKEW_SECONDS: u64 = 24 * 60 * 60;
const MIN_RSA_BITS: u16 = 2048;

fn wrong<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Wrong(reason.into()))
}

/// Every object of one kind in armored or binary data, at most `limit` of them.
fn read_all<T: Deserializable>(bytes: &[u8], limit: usize) -> Result<Vec<T>, String> {
    let found: Result<Vec<T>, _> = if is_armored(bytes) {
        T::from_armor_many(bytes).map_err(|error| error.to_string())?.0.take(limit + 1).collect()
    } else {
        let objects = T::from_bytes_many(bytes).map_err(|error| error.to_string())?;
        objects.take(limit + 1).collect()
    };
    let found = found.map_err(|error| error.to_string())?;
    match found.len() {
        0 => Err("no such OpenPGP object in it".to_owned()),
        count if count > limit => Err(format!("more than {limit} OpenPGP objects")),
        _ => Ok(found),
    }
}

/// A certificate: a primary key, its self-signatures and its subkeys.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    key: SignedPublicKey,
}

impl Certificate {
    /// Every certificate of a key file.
    pub(super) fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, String> {
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP PRIVATE") {
            return Err("this is a secret OpenPGP key: trust its public half, as `gpg --export` \
                        writes it"
                .to_owned());
        }
        let keys = read_all::<SignedPublicKey>(bytes, MAX_CERTIFICATES)
            .map_err(|reason| format!("no usable OpenPGP public key: {reason}"))?;
        Ok(keys.into_iter().map(|key| Self { key }).collect())
    }

    /// The fingerprint of the primary key.
    pub(super) fn key_id(&self) -> KeyId {
        KeyId::of_fingerprint(self.key.fingerprint().as_bytes())
    }

    /// Whether any signature packet in `file` is a good one over `data`, at the Unix time `now`.
    /// `revoked` also gets the fingerprints of subkeys.
    pub(super) fn verify(
        &self,
        data: &[u8],
        file: &[u8],
        now: u64,
        revoked: impl Fn(&KeyId) -> bool,
    ) -> Result<(), Refusal> {
        let mut refusal = None;
        for packet in read_signatures(file).map_err(Refusal::Wrong)? {
            match self.verify_one(data, &packet, now, &revoked) {
                Ok(()) => return Ok(()),
                // The reason that tells more wins over "some other key's signature".
                Err(Refusal::Wrong(_)) if refusal.is_some() => {}
                Err(reason) => refusal = Some(reason),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::Wrong("no signature packet in it".to_owned())))
    }

    fn verify_one(
        &self,
        data: &[u8],
        packet: &Signature,
        now: u64,
        revoked: &impl Fn(&KeyId) -> bool,
    ) -> Result<(), Refusal> {
        if packet.typ() != Some(SignatureType::Binary) {
            return wrong("not a signature over a binary document");
        }
        strong(packet)?;
        let Some(created) = packet.created().map(|time| u64::from(time.as_secs())) else {
            return wrong("it has no creation time");
        };
        if created > now.saturating_add(CLOCK_SKEW_SECONDS) {
            return wrong(format!("it was made in the future, on {}", date(created)));
        }
        if let Some(when) = end(created, packet.signature_expiration_time())
            && when <= now
        {
            return Err(Refusal::Expired { when });
        }
        if packet.verify(&self.key.primary_key, data).is_ok() {
            self.check_maker(&self.key.primary_key, created, revoked)?;
            return self.primary(now).and_then(|flags| match flags {
                Some(false) => wrong("the primary key may not sign data"),
                _ => Ok(()),
            });
        }
        for subkey in &self.key.public_subkeys {
            if packet.verify(&subkey.key, data).is_ok() {
                self.check_maker(&subkey.key, created, revoked)?;
                self.primary(now)?;
                return self.subkey(subkey, now);
            }
        }
        wrong("no key of the certificate made it over these bytes")
    }

    fn check_maker(
        &self,
        key: &impl KeyDetails,
        created: u64,
        revoked: &impl Fn(&KeyId) -> bool,
    ) -> Result<(), Refusal> {
        if revoked(&KeyId::of_fingerprint(key.fingerprint().as_bytes())) {
            return Err(Refusal::Revoked);
        }
        if created < u64::from(key.created_at().as_secs()) {
            return wrong("it is older than the key that made it");
        }
        usable_algorithm(key)
    }

    /// Whether the primary key is alive at `now`, and what its flags say about signing data.
    fn primary(&self, now: u64) -> Result<Option<bool>, Refusal> {
        let key = &self.key.primary_key;
        // Not verified on purpose: one by a designated revoker or with a weak hash revokes too.
        if !self.key.details.revocation_signatures.is_empty() {
            return Err(Refusal::Revoked);
        }
        let direct = self.key.details.direct_signatures.iter().filter(|signature| {
            signature.typ() == Some(SignatureType::Key) && signature.verify_key(key).is_ok()
        });
        let mut selves: Vec<&Signature> = direct.collect();
        for user in &self.key.details.users {
            let own: Vec<&Signature> = user
                .signatures
                .iter()
                .filter(|s| s.verify_certification(key, Tag::UserId, &user.id).is_ok())
                .collect();
            let withdrawn = |s: &&Signature| s.typ() == Some(SignatureType::CertRevocation);
            if !own.iter().any(withdrawn) {
                selves.extend(own);
            }
        }
        selves.retain(|signature| strong(signature).is_ok());
        let Some(latest) = newest(&selves) else {
            return wrong("its certificate has no valid self-signature with a strong hash");
        };
        let born = u64::from(key.created_at().as_secs());
        let mut flags = Some(true);
        // Several user ids are often signed in the same second: the strictest one holds.
        for signature in selves.iter().filter(|s| s.created() == Some(latest)) {
            alive(born, signature, now)?;
            flags = flags.and_then(|so_far| Some(so_far && may_sign(signature)?));
        }
        Ok(flags)
    }

    /// Whether a subkey may sign at `now`; the primary key is checked elsewhere.
    fn subkey(&self, subkey: &SignedPublicSubKey, now: u64) -> Result<(), Refusal> {
        let primary = &self.key.primary_key;
        let typed = |typ| subkey.signatures.iter().filter(move |s| s.typ() == Some(typ));
        if typed(SignatureType::SubkeyRevocation).next().is_some() {
            return Err(Refusal::Revoked);
        }
        let bindings: Vec<&Signature> = typed(SignatureType::SubkeyBinding)
            .filter(|s| strong(s).is_ok() && s.verify_subkey_binding(primary, &subkey.key).is_ok())
            .collect();
        let Some(latest) = newest(&bindings) else {
            return wrong("the subkey is not bound to the certificate with a strong hash");
        };
        let born = u64::from(subkey.key.created_at().as_secs());
        for binding in bindings.iter().filter(|s| s.created() == Some(latest)) {
            alive(born, binding, now)?;
            if may_sign(binding) != Some(true) {
                return wrong("the subkey may not sign data");
            }
            let bound_back = binding.embedded_signature().is_some_and(|back| {
                strong(back).is_ok()
                    && back.verify_primary_key_binding(&subkey.key, primary).is_ok()
            });
            if !bound_back {
                return wrong("the subkey does not confirm that it belongs to the certificate");
            }
        }
        Ok(())
    }
}

/// The time of the newest of some signatures.
fn newest(signatures: &[&Signature]) -> Option<Timestamp> {
    signatures.iter().filter_map(|signature| signature.created()).max()
}

/// When something that began at `start` ends, if ever: a duration of 0 means never.
fn end(start: u64, after: Option<pgp::types::Duration>) -> Option<u64> {
    match after.map_or(0, pgp::types::Duration::as_secs) {
        0 => None,
        seconds => Some(start.saturating_add(u64::from(seconds))),
    }
}

/// Whether a key born at `born` lives at `now`, by this self-signature, which must live too.
fn alive(born: u64, by: &Signature, now: u64) -> Result<(), Refusal> {
    let made = by.created().map_or(0, |time| u64::from(time.as_secs()));
    let ends = [end(born, by.key_expiration_time()), end(made, by.signature_expiration_time())];
    match ends.into_iter().flatten().min() {
        Some(when) if when <= now => Err(Refusal::Expired { when }),
        _ => Ok(()),
    }
}

/// What the key flags of a self-signature say about signing data, if it has any.
fn may_sign(signature: &Signature) -> Option<bool> {
    signature.config()?.hashed_subpackets().find_map(|packet| match &packet.data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    })
}

/// A hash that nobody can find collisions for, a version of today, nothing critical unknown.
fn strong(signature: &Signature) -> Result<(), Refusal> {
    let (Some(config), SignatureVersion::V4 | SignatureVersion::V6) =
        (signature.config(), signature.version())
    else {
        return wrong("signatures of this OpenPGP version are not supported");
    };
    if !matches!(
        config.hash_alg,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    ) {
        return wrong(format!("the hash {} is too weak: use SHA-256 or better", config.hash_alg));
    }
    for packet in config.hashed_subpackets() {
        let unknown = matches!(
            packet.data,
            SubpacketData::Notation(_) | SubpacketData::Experimental(..) | SubpacketData::Other(..)
        );
        if packet.is_critical && unknown {
            return wrong("it carries a critical subpacket that is not understood");
        }
    }
    Ok(())
}

fn usable_algorithm(key: &impl KeyDetails) -> Result<(), Refusal> {
    match key.public_params() {
        PublicParams::RSA(params) => {
            // The first field is a multi-precision integer: two bytes that count its bits.
            let mut bytes = Vec::new();
            let written = params.to_writer(&mut bytes);
            match (written, bytes.first_chunk::<2>()) {
                (Ok(()), Some(bits)) if u16::from_be_bytes(*bits) >= MIN_RSA_BITS => Ok(()),
                _ => wrong(format!("its RSA key has fewer than {MIN_RSA_BITS} bits")),
            }
        }
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        _ => wrong(format!("keys of the algorithm {:?} are not supported", key.algorithm())),
    }
}

fn read_signatures(file: &[u8]) -> Result<Vec<Signature>, String> {
    if file.len() > MAX_SIGNATURE {
        return Err(format!("{} bytes exceed the limit of {MAX_SIGNATURE}", file.len()));
    }
    let found = read_all::<DetachedSignature>(file, MAX_PACKETS)?;
    Ok(found.into_iter().map(|detached| detached.signature).collect())
}

/// The binary form of a signature file, armored or binary: what a store keeps.
///
/// # Errors
/// If it is no OpenPGP signature.
pub fn check_signature_packets(file: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::new();
    for signature in read_signatures(file).map_err(KeyError::OpenPgp)? {
        let written = DetachedSignature::new(signature).to_writer(&mut out);
        written.map_err(|error| KeyError::OpenPgp(error.to_string()))?;
    }
    Ok(out)
}

/// An unprotected secret key.
pub struct SecretKey {
    key: SignedSecretKey,
    certificate: Certificate,
}

impl SecretKey {
    /// Reads one armored or binary secret key.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP PUBLIC") {
            return Err("this is a public OpenPGP key: sign with the secret one, as `gpg \
                        --export-secret-keys` writes it"
                .to_owned());
        }
        let mut keys = read_all::<SignedSecretKey>(bytes, 1)
            .map_err(|reason| format!("no usable OpenPGP secret key: {reason}"))?;
        let key = keys.pop().ok_or("no OpenPGP secret key in it")?;
        let certificate = Certificate { key: SignedPublicKey::from(key.clone()) };
        Ok(Self { key, certificate })
    }

    pub(super) fn key_id(&self) -> KeyId {
        self.certificate.key_id()
    }

    /// A binary detached signature over `data` by the newest valid signing subkey, or else by the
    /// primary key.
    pub(super) fn sign(&self, data: &[u8], now: u64) -> Result<Vec<u8>, String> {
        let said = |refusal| match refusal {
            Refusal::Wrong(reason) => reason,
            Refusal::Revoked => "the OpenPGP key is revoked".to_owned(),
            Refusal::Expired { when } => format!("the OpenPGP key expired on {}", date(when)),
        };
        let may_sign = self.certificate.primary(now).map_err(said)?;
        let usable = self.key.secret_subkeys.iter().filter(|subkey| {
            let public = subkey.signed_public_key();
            self.certificate.subkey(&public, now).is_ok() && usable_algorithm(&public.key).is_ok()
        });
        let newest = usable.max_by_key(|subkey| subkey.key.public_key().created_at());
        let file = match newest {
            Some(subkey) => detached(&subkey.key, subkey.key.secret_params(), data, now)?,
            None if may_sign == Some(false) => {
                return Err("neither the primary key nor a valid subkey may sign data".to_owned());
            }
            None => {
                let primary = &self.key.primary_key;
                usable_algorithm(primary).map_err(said)?;
                detached(primary, primary.secret_params(), data, now)?
            }
        };
        // What leaves here verifies here, whatever the key file holds.
        self.certificate.verify(data, &file, now, |_| false).map_err(said)?;
        Ok(file)
    }
}

fn detached(
    key: &impl SigningKey,
    secret: &SecretParams,
    data: &[u8],
    now: u64,
) -> Result<Vec<u8>, String> {
    if matches!(secret, SecretParams::Encrypted(_)) {
        return Err("the secret key is protected by a passphrase: export an unprotected copy of \
                    it for signing"
            .to_owned());
    }
    let now = u32::try_from(now).map_err(|_| "the clock is beyond what OpenPGP can write")?;
    let subpacket = |data| Subpacket::regular(data).map_err(|error| error.to_string());
    let hashed = vec![
        subpacket(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
        subpacket(SubpacketData::SignatureCreationTime(Timestamp::from_secs(now)))?,
    ];
    // Version 6 forbids this hint, which older verifiers look for.
    let unhashed = match key.version() {
        KeyVersion::V4 => vec![subpacket(SubpacketData::IssuerKeyId(key.legacy_key_id()))?],
        _ => Vec::new(),
    };
    let signature = DetachedSignature::sign_binary_data_with_subpackets(
        rand::rngs::OsRng,
        key,
        &Password::empty(),
        key.hash_alg(),
        data,
        SubpacketConfig::UserDefined { hashed, unhashed },
    )
    .map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    signature.to_writer(&mut out).map_err(|error| error.to_string())?;
    Ok(out)
}
