//! Why something is not trusted.

use std::path::PathBuf;

use super::key::{KeyId, Method};
use super::key_error::KeyError;
use crate::format::FormatError;
use crate::format::id::ManifestId;
use crate::format::json::JsonError;
use crate::format::limits::MAX_SIGNATURES;
use crate::format::time::{self, date};

/// What is wrong with a signed document, or with the record of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It does not begin with its signatures.
    #[error("expected `{{\"signatures\":[..],\"signed\":{{..}}}}`")]
    Head,
    /// It goes on behind what is signed, or ends before.
    #[error("expected `}}` at the end")]
    End,
    /// It is too long, or not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// More signatures than a document may have.
    #[error("more than {MAX_SIGNATURES} signatures")]
    Signatures,
    /// A signature that is none.
    #[error("the signature of {0} is not 128 hexadecimal digits")]
    Digits(KeyId),
    /// Signatures do not ascend by key.
    #[error("the signature of {0} is out of order or listed twice")]
    Order(KeyId),
    /// What is signed breaks a rule.
    #[error(transparent)]
    Rule(#[from] FormatError),
    /// Its name is none that an object of a store can have.
    #[error("{0:?} is no object path")]
    Path(String),
    /// No version can follow.
    #[error("its version is the highest there is")]
    LastVersion,
    /// The record of another ref.
    #[error("it is about another ref")]
    OtherRef,
}

/// A refusal, or a key or record that could not be used.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Nobody signed it.
    #[error("{what} is unsigned")]
    Unsigned { what: String },
    /// A signature names a trusted key, but that key did not make it over these bytes. For OpenPGP, the
    /// reason may be its library's.
    #[error(
        "{what}: the signature by key {key} is wrong ({reason}): the object or its signature was altered; fetch it again or from another mirror"
    )]
    WrongSignature { what: String, key: KeyId, reason: String },
    /// Only keys that nobody trusts here signed it.
    #[error("{what} is signed only by untrusted keys ({keys})")]
    UntrustedKey { what: String, keys: String },
    /// The key was withdrawn.
    #[error("{what}: key {key} is revoked: it must be signed again by a key that is trusted")]
    Revoked { what: String, key: KeyId },
    /// The OpenPGP key is past its own end.
    #[error(
        "{what}: OpenPGP key {key} expired on {}: import its renewed certificate, or have it signed by another key",
        date(*when)
    )]
    KeyExpired { what: String, key: KeyId, when: u64 },
    /// The key is trusted for other names only.
    #[error(
        "{what}: key {key} is trusted, but not for {name}: widen its `names=` in the trust file if it should be"
    )]
    NameNotAllowed { what: String, key: KeyId, name: String },
    /// The signed ref or index is past its end.
    #[error(
        "{what} expired on {} (it is {} now): its publisher must renew it; a host that serves only old refs may be hiding newer ones",
        date(*when), date(*now)
    )]
    Expired { what: String, when: u64, now: u64 },
    /// An older ref than one that was already seen.
    #[error(
        "{what} was rolled back: version {} was seen before, version {} is offered now: try another mirror; only if its publisher says that this is right, remove {}", time::version(*seen), time::version(*got), record.display()
    )]
    RolledBack { what: String, seen: u64, got: u64, record: PathBuf },
    /// Two different refs with one version.
    #[error(
        "{what}: version {} named manifest {seen} before and names {got} now: its publisher signed two refs with one version, or the key is in other hands; only if its publisher says that this is right, remove {}", time::version(*version), record.display()
    )]
    Replaced { what: String, version: u64, seen: ManifestId, got: ManifestId, record: PathBuf },
    /// Two different indexes of a store with one version.
    #[error(
        "{what}: version {} was seen with other content: its publisher signed two indexes with one version, or the key is in other hands; only if its publisher says that this is right, remove {}", time::version(*version), record.display()
    )]
    TwoIndexes { what: String, version: u64, record: PathBuf },
    /// A valid document about something else than what was asked for.
    #[error(
        "{what}: its {field} is {got}, not {expected}: the store serves it under the wrong name"
    )]
    Mismatch { what: String, field: &'static str, expected: String, got: String },
    /// Not the canonical form of such a document.
    #[error("{what} is malformed: {reason}")]
    Malformed { what: String, reason: DocumentError },
    /// A key or trust file that cannot be used.
    #[error("{}: {reason}", path.display())]
    BadKey { path: PathBuf, reason: KeyError },
    /// A key that cannot sign this kind of thing.
    #[error("a key of method {method} cannot sign {what}: {advice}")]
    CannotSign { method: Method, what: &'static str, advice: &'static str },
    /// Signing failed, as the library of the key's method says.
    #[error("signing with key {key} failed: {reason}")]
    SigningFailed { key: KeyId, reason: String },
    /// A remembered version that cannot be read back.
    #[error(
        "{}: the record of the ref versions seen is damaged ({reason}): restore it, or remove it to forget what was seen of that ref", path.display()
    )]
    DamagedRecord { path: PathBuf, reason: DocumentError },
    /// The local system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
}

impl TrustError {
    /// Whether this refuses an object, rather than a key file, an argument or the local system:
    /// the command line ends with status 4 for these.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::BadKey { .. }
                | Self::CannotSign { .. }
                | Self::SigningFailed { .. }
                | Self::DamagedRecord { .. }
                | Self::Io { .. }
        )
    }
}
