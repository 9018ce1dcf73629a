//! Signed documents: read as they are, and replaced only if they still are what was read.

use std::time::Duration;

use bytes::Bytes;

use super::{Store, StoreError};
use crate::format::refs::{DEFAULT_LIFETIME_SECONDS, SignedBody, next_version};
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

impl Store {
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

    pub(super) fn parse<T: SignedBody>(
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

    /// Reads the document, asks `next` for the one that replaces it, and writes that only if the
    /// document still is the one that was read.
    pub(super) async fn update<T: SignedBody>(
        &self,
        path: &ObjectPath,
        mut next: impl FnMut(Option<&T>) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        let swapped = self.swap(path, T::LIMIT, async |previous| {
            let previous = previous.map(|bytes| self.parse_document::<T>(path, &bytes));
            next(previous.transpose()?.as_ref().map(Envelope::body))
        });
        swapped.await.map(drop)
    }

    /// The same of bytes. Returns whether something was written.
    pub(super) async fn swap(
        &self,
        path: &ObjectPath,
        limit: usize,
        mut next: impl AsyncFnMut(Option<Bytes>) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<bool, StoreError> {
        for attempt in 0..TRIES {
            let limit = limit as u64;
            let read =
                read_all(&**self.transport(), path, ReadRange::Full, limit, self.retry()).await;
            let (previous, expected) = match read {
                Ok((bytes, version)) => {
                    (Some(bytes), version.map_or(Expected::Absent, Expected::Version))
                }
                Err(error) if error.kind == TransportErrorKind::NotFound => {
                    (None, Expected::Absent)
                }
                Err(error) => return Err(error.into()),
            };
            let Some(bytes) = next(previous).await? else { return Ok(false) };
            match self.transport().put_if(path, expected, bytes).await {
                Ok(()) => return Ok(true),
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

pub(super) fn version_after(previous: Option<u64>, what: &str) -> Result<u64, StoreError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    next_version(previous, now).ok_or_else(|| {
        let reason = DocumentError::LastVersion;
        StoreError::Trust(TrustError::Malformed { what: what.to_owned(), reason })
    })
}

pub(super) fn sealed<T: SignedBody>(body: T, signers: &[Signer]) -> Result<Bytes, StoreError> {
    let mut envelope = Envelope::new(body)?;
    // OpenPGP and HMAC never sign refs.
    for signer in signers.iter().filter(|signer| signer.method() == Method::Ed25519) {
        envelope.sign(signer)?;
    }
    Ok(envelope.to_bytes()?.into())
}
