//! Keys, their ids and what their files say; what a manifest's signature covers and where it lies.
//!
//! An id is derived from the key itself under a context of its own, so it commits to the key and
//! to the method.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{SigningKey, VerifyingKey};

use super::key_error::KeyError;
use crate::format::id::{ManifestId, from_hex, to_hex};

/// What a line of a secret Ed25519 key begins with.
pub(super) const SECRET_PREFIX: &str = "tenpak-ed25519-secret";
/// What a line of a public Ed25519 key begins with.
pub(super) const PUBLIC_PREFIX: &str = "tenpak-ed25519-public";

const MIN_HMAC_SECRET: usize = 16;

/// How a signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Ed25519 over a message with a domain.
    Ed25519,
    /// HMAC-SHA256 over the same message; whoever verifies can forge it.
    Hmac,
    /// A detached OpenPGP signature over the manifest's exact bytes.
    OpenPgp,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::Hmac, Self::OpenPgp];

    /// Its name, which also ends the name of a signature's file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Hmac => "hmac",
            Self::OpenPgp => "openpgp",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or_else(|| KeyError::Method(text.to_owned()))
    }
}

/// The id of a key: 32 lowercase hexadecimal digits for Ed25519 and HMAC, the fingerprint of the
/// primary key (40 or 64 digits) for OpenPGP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id of an Ed25519 key.
    pub fn of_ed25519(key: &VerifyingKey) -> Self {
        Self::derive("tenpak/v1/key-id ed25519", key.as_bytes())
    }

    /// The id of an HMAC secret.
    pub fn of_hmac(secret: &[u8]) -> Self {
        Self::derive("tenpak/v1/key-id hmac", secret)
    }

    /// The id of the OpenPGP key with this fingerprint.
    pub(super) fn of_fingerprint(fingerprint: &[u8]) -> Self {
        Self(to_hex(fingerprint))
    }

    fn derive(context: &str, key: &[u8]) -> Self {
        let derived = blake3::derive_key(context, key);
        Self(to_hex(derived.split_at(16).0))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if matches!(text.len(), 32 | 40 | 64) && text.as_bytes().iter().all(hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(KeyError::Id(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

impl serde::Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What Ed25519 and HMAC sign for a manifest.
pub fn manifest_message(id: ManifestId) -> Vec<u8> {
    [b"tenpak/v1/manifest\0".as_slice(), id.as_bytes()].concat()
}

/// What is signed for the canonical bytes `signed` of a body.
pub(super) fn document_message(domain: &[u8], signed: &[u8]) -> Vec<u8> {
    [domain, signed].concat()
}

/// Where the signature of `key` over the manifest `id` lies in a store.
pub fn signature_path(id: ManifestId, key: &KeyId, method: Method) -> String {
    format!("signatures/{id}/{key}.{method}")
}

/// The 32 bytes of a line `PREFIX HEX [comment]`.
fn key_line(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyError> {
    let mut words = text.split_whitespace();
    if words.next() != Some(prefix) {
        return Err(KeyError::Prefix(prefix));
    }
    if text.trim_end().lines().count() != 1 {
        return Err(KeyError::SeveralLines);
    }
    let digits = words.next().unwrap_or_default();
    from_hex(digits).ok_or(KeyError::Digits { prefix, found: digits.len() })
}

/// Takes the bytes of a public key; weak ones, which verify forgeries, are refused.
///
/// # Errors
/// If they are none, or weak.
pub fn public_key(bytes: &[u8; 32]) -> Result<VerifyingKey, KeyError> {
    match VerifyingKey::from_bytes(bytes) {
        Ok(key) if !key.is_weak() => Ok(key),
        _ => Err(KeyError::Weak),
    }
}

/// Reads a line of a public Ed25519 key, as `keygen` writes it.
///
/// # Errors
/// If it is none.
pub fn parse_public(text: &str) -> Result<VerifyingKey, KeyError> {
    public_key(&key_line(text, PUBLIC_PREFIX)?)
}

pub(super) fn parse_secret(text: &str) -> Result<SigningKey, KeyError> {
    Ok(SigningKey::from_bytes(&key_line(text, SECRET_PREFIX)?))
}

/// Whether these are the first bytes of an armored or a binary OpenPGP object.
pub(super) fn is_openpgp(bytes: &[u8]) -> bool {
    is_armored(bytes) || bytes.first().is_some_and(|first| first & 0x80 != 0)
}

pub(super) fn is_armored(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP ")
}

/// The secret in the bytes of an HMAC key file: all of them but one trailing newline.
pub(super) fn hmac_secret(file: &[u8]) -> Result<&[u8], KeyError> {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    if secret.len() < MIN_HMAC_SECRET {
        return Err(KeyError::ShortSecret { have: secret.len(), least: MIN_HMAC_SECRET });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_lines_hold_one_key_and_perhaps_a_comment() {
        let hex = to_hex(&[7; 32]);
        for good in [
            format!("{SECRET_PREFIX} {hex}"),
            format!("{SECRET_PREFIX} {hex}\n"),
            format!("{SECRET_PREFIX} {hex} of the release team\n"),
        ] {
            assert_eq!(parse_secret(&good).unwrap().to_bytes(), [7; 32]);
        }
        for bad in [
            String::new(),
            hex.clone(),
            format!("{PUBLIC_PREFIX} {hex}"),
            format!("{SECRET_PREFIX} {}", &hex[1..]),
            format!("{SECRET_PREFIX} {hex}0"),
            format!("{SECRET_PREFIX} {}", hex.to_uppercase().replace('0', "A")),
            format!("{SECRET_PREFIX}\n{hex}"),
            format!("{SECRET_PREFIX} {hex}\n{SECRET_PREFIX} {hex}"),
        ] {
            assert!(parse_secret(&bad).is_err(), "{bad:?} was accepted");
        }
        // The identity point verifies forged signatures; so do all points of small order.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(public_key(&identity).is_err());
        assert!(public_key(&[0; 32]).is_err());
    }

    #[test]
    fn hmac_secrets_lose_one_newline_and_have_a_least_length() {
        assert_eq!(hmac_secret(b"0123456789abcdef\n"), Ok(b"0123456789abcdef".as_slice()));
        assert_eq!(hmac_secret(b"0123456789abcde\n\n"), Ok(b"0123456789abcde\n".as_slice()));
        assert!(hmac_secret(b"0123456789abcde\n").is_err());
        assert!(hmac_secret(b"").is_err());
    }

    #[test]
    fn ids_and_methods_have_one_spelling() {
        for method in Method::ALL {
            assert_eq!(method.as_str().parse(), Ok(method));
        }
        assert!("Ed25519".parse::<Method>().is_err());
        for length in [32, 40, 64] {
            assert!("a".repeat(length).parse::<KeyId>().is_ok());
            assert!("A".repeat(length).parse::<KeyId>().is_err());
            assert!("a".repeat(length + 1).parse::<KeyId>().is_err());
        }
        assert!("../../../../../../../../etc/passw".parse::<KeyId>().is_err());
    }
}
