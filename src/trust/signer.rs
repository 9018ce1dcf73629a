//! The signing half: a secret key of any method, and what it can sign.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::error::TrustError;
use super::key::{
    KeyId, Method, PUBLIC_PREFIX, SECRET_PREFIX, document_message, hmac_secret, is_openpgp,
    manifest_message, parse_secret,
};
use super::key_error::KeyError;
use super::openpgp;
use crate::format::id::ManifestId;

/// A secret key.
#[non_exhaustive]
pub enum Signer {
    /// Signs manifests, refs and their index.
    Ed25519(SigningKey),
    /// Signs manifests, for those who hold the same secret.
    Hmac(Vec<u8>),
    /// Signs manifests, so that `gpg --verify` works.
    OpenPgp(Box<openpgp::SecretKey>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} {})", self.method(), self.key_id())
    }
}

pub(super) fn hmac_tag(secret: &[u8], message: &[u8]) -> Result<Hmac<Sha256>, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|error| error.to_string())?;
    mac.update(message);
    Ok(mac)
}

impl Signer {
    /// Reads a secret key from the bytes of its file. Without a method, the content tells Ed25519
    /// from OpenPGP; an HMAC secret can be any bytes and must be named as such.
    ///
    /// # Errors
    /// If they are no secret key of that method.
    pub fn parse(bytes: &[u8], method: Option<Method>) -> Result<Self, KeyError> {
        if bytes.starts_with(PUBLIC_PREFIX.as_bytes()) && method != Some(Method::Hmac) {
            return Err(KeyError::PublicHalf);
        }
        let method = match method {
            Some(method) => method,
            None if bytes.starts_with(SECRET_PREFIX.as_bytes()) => Method::Ed25519,
            None if is_openpgp(bytes) => Method::OpenPgp,
            None => return Err(KeyError::Unknown),
        };
        match method {
            Method::Ed25519 => {
                let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NotText)?;
                Ok(Self::Ed25519(parse_secret(text)?))
            }
            Method::Hmac => Ok(Self::Hmac(hmac_secret(bytes)?.to_vec())),
            Method::OpenPgp => {
                let key = openpgp::SecretKey::parse(bytes).map_err(KeyError::OpenPgp)?;
                Ok(Self::OpenPgp(Box::new(key)))
            }
        }
    }

    /// How it signs.
    pub fn method(&self) -> Method {
        match self {
            Self::Ed25519(_) => Method::Ed25519,
            Self::Hmac(_) => Method::Hmac,
            Self::OpenPgp(_) => Method::OpenPgp,
        }
    }

    /// The public half, if this is an Ed25519 key.
    pub fn verifying_key(&self) -> Option<ed25519_dalek::VerifyingKey> {
        match self {
            Self::Ed25519(key) => Some(key.verifying_key()),
            _ => None,
        }
    }

    /// The id of the key.
    pub fn key_id(&self) -> KeyId {
        match self {
            Self::Ed25519(key) => KeyId::of_ed25519(&key.verifying_key()),
            Self::Hmac(secret) => KeyId::of_hmac(secret),
            Self::OpenPgp(key) => key.key_id(),
        }
    }

    /// The content of the signature file of a manifest. `bytes` are the manifest's own; `now` is
    /// the Unix time in seconds, of which only OpenPGP takes note.
    ///
    /// # Errors
    /// If `bytes` are another manifest's, or an OpenPGP key may not sign.
    pub fn sign_manifest(
        &self,
        id: ManifestId,
        bytes: &[u8],
        now: u64,
    ) -> Result<Bytes, TrustError> {
        let failed = |reason| TrustError::SigningFailed { key: self.key_id(), reason };
        if ManifestId::of(bytes) != id {
            return Err(failed(format!("the bytes to sign are not those of manifest {id}")));
        }
        match self {
            Self::Ed25519(key) => {
                Ok(Bytes::copy_from_slice(&key.sign(&manifest_message(id)).to_bytes()))
            }
            Self::Hmac(secret) => {
                let mac = hmac_tag(secret, &manifest_message(id)).map_err(failed)?;
                Ok(Bytes::copy_from_slice(&mac.finalize().into_bytes()))
            }
            Self::OpenPgp(key) => key.sign(bytes, now).map(Bytes::from).map_err(failed),
        }
    }

    /// Signs the canonical bytes of a ref or an index, which only Ed25519 can.
    ///
    /// # Errors
    /// If the key is another.
    pub fn sign_document(&self, domain: &[u8], signed: &[u8]) -> Result<[u8; 64], TrustError> {
        match self {
            Self::Ed25519(key) => Ok(key.sign(&document_message(domain, signed)).to_bytes()),
            _ => Err(TrustError::CannotSign {
                method: self.method(),
                what: "a ref or the index of refs",
                advice: "give an Ed25519 key as well",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::{from_hex, to_hex};

    #[test]
    fn dalek_signs_as_rfc_8032_says() {
        // RFC 8032, section 7.1: tests 1 to 3.
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac\
                 c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                &[0x72],
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e\
                 458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                &[0xaf, 0x82],
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290\
                 ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = parse_secret(&format!("{SECRET_PREFIX} {seed}")).unwrap();
            assert_eq!(to_hex(key.verifying_key().as_bytes()), public);
            let made = key.sign(message);
            assert_eq!(to_hex(&made.to_bytes()), signature);
            let signature = from_hex::<64>(signature).unwrap().into();
            key.verifying_key().verify_strict(message, &signature).unwrap();
            assert!(key.verifying_key().verify_strict(b"other", &signature).is_err());
        }
    }

    #[test]
    fn hmac_is_rfc_4231() {
        // RFC 4231, test case 1.
        let mac = hmac_tag(&[0x0b; 20], b"Hi There").unwrap();
        assert_eq!(
            to_hex(&mac.finalize().into_bytes()),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn the_method_is_found_or_must_be_named() {
        let line = format!("{SECRET_PREFIX} {}\n", to_hex(&[1; 32]));
        assert_eq!(Signer::parse(line.as_bytes(), None).unwrap().method(), Method::Ed25519);
        let public = format!("{PUBLIC_PREFIX} {}\n", to_hex(&[1; 32]));
        assert!(Signer::parse(public.as_bytes(), None).unwrap_err().to_string().contains("public"));
        let secret = b"sixteen bytes or more\n";
        assert!(
            Signer::parse(secret, None).unwrap_err().to_string().contains("the method is hmac")
        );
        let signer = Signer::parse(secret, Some(Method::Hmac)).unwrap();
        assert_eq!(signer.key_id(), KeyId::of_hmac(b"sixteen bytes or more"));
        assert!(Signer::parse(secret, Some(Method::Ed25519)).is_err());
        assert!(Signer::parse(secret, Some(Method::OpenPgp)).is_err());
        assert!(!format!("{signer:?}").contains("sixteen"));
    }

    #[test]
    fn only_ed25519_signs_documents_and_nothing_signs_other_bytes() {
        let hmac = Signer::Hmac(vec![1; 16]);
        let error = hmac.sign_document(b"tenpak/v1/ref\0", b"{}").unwrap_err();
        assert!(matches!(error, TrustError::CannotSign { .. }), "{error}");
        assert!(hmac.sign_manifest(ManifestId::of(b"a"), b"b", 0).is_err());
    }
}
