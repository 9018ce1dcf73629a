//! Signed documents: read as they are, and replaced only if they still are what was read.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Store, StoreError};
use crate::format::refs::{DEFAULT_LIFETIME_SECONDS, SignedBody, next_version};
use crate::transport::small::read_all;
use crate::transport::{Expected, ObjectPath, ReadRange, TransportErrorKind};
use crate::trust::{DocumentError, Envelope, Method, Signer, TrustError};

/// How often a lost race is run again.
const TRIES: u32 = 32;

/// The longest time within which a lost race is run again.
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

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
        let mut race = Race::new(path, T::LIMIT);
        loop {
            let previous = race.read(self).await?;
            let previous = previous.map(|bytes| self.parse_document::<T>(path, &bytes));
            let previous = previous.transpose()?;
            let Some(bytes) = next(previous.as_ref().map(Envelope::body))? else { return Ok(()) };
            if race.write(self, bytes).await? {
                return Ok(());
            }
        }
    }
}

/// Within how much time the next try begins, so that many losers keep apart: what the last try took,
/// doubled with every race lost. The more there are, the longer each waits, until one at a time runs.
fn spread(took: Duration, lost: u32) -> Duration {
    let factor = 1_u32.checked_shl(lost).unwrap_or(u32::MAX);
    took.saturating_mul(factor).min(LONGEST_SPREAD)
}

/// An object that many may want to replace at once: read, then written only if it still is what was read,
/// again and again until that succeeds.
pub(super) struct Race<'a> {
    path: &'a ObjectPath,
    limit: u64,
    lost: u32,
    begun: Instant,
    expected: Expected,
}

impl<'a> Race<'a> {
    /// A race for an object of at most `limit` bytes.
    pub(super) fn new(path: &'a ObjectPath, limit: usize) -> Self {
        Self {
            path,
            limit: limit as u64,
            lost: 0,
            begun: Instant::now(),
            expected: Expected::Absent,
        }
    }

    /// The object, if it is there.
    pub(super) async fn read(&mut self, store: &Store) -> Result<Option<Bytes>, StoreError> {
        self.begun = Instant::now();
        let (transport, retry) = (&**store.transport(), store.retry());
        match read_all(transport, self.path, ReadRange::Full, self.limit, retry).await {
            Ok((bytes, version)) => {
                self.expected = version.map_or(Expected::Absent, Expected::Version);
                Ok(Some(bytes))
            }
            Err(error) if error.kind == TransportErrorKind::NotFound => {
                self.expected = Expected::Absent;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the object; false if another writer was faster, who is done by then.
    pub(super) async fn write(&mut self, store: &Store, bytes: Bytes) -> Result<bool, StoreError> {
        match store.transport().put_if(self.path, self.expected.clone(), bytes).await {
            Ok(()) => return Ok(true),
            Err(error) if error.kind == TransportErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
        self.lost += 1;
        if self.lost == TRIES {
            let (location, object) = (store.location().to_owned(), self.path.to_string());
            return Err(StoreError::Contended { location, object, tries: TRIES });
        }
        tokio::time::sleep(spread(self.begun.elapsed(), self.lost).mul_f64(fastrand::f64())).await;
        Ok(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losers_spread_over_what_their_tries_took() {
        let ms = Duration::from_millis;
        assert_eq!([1, 2, 3, 8].map(|lost| spread(ms(10), lost)), [20, 40, 80, 2560].map(ms));
        assert_eq!(spread(ms(10), 9), LONGEST_SPREAD);
        assert_eq!(spread(ms(10), 40), LONGEST_SPREAD);
        assert_eq!(spread(Duration::ZERO, 31), Duration::ZERO);
    }
}
