//! Reading small objects: from the store or, where what it gives is missing or wrong, from a mirror.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use super::{Store, StoreError};
use crate::format::FormatError;
use crate::schedule::plan::Way;
use crate::transport::small::read_all;
use crate::transport::{ObjectPath, ReadRange, Transport, TransportError, TransportErrorKind};
use crate::trust::TrustError;

/// Reads from one transport that serves something wrong, which may have been damaged on the way.
const TRIES: usize = 2;

/// What was read besides packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadStats {
    /// Requests.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
}

/// Why an object does not count although it could be read.
pub(crate) enum Rejected {
    /// It is not what the format, or its name, says.
    Format(FormatError),
    /// It is not what somebody trusted signed.
    Trust(TrustError),
}

impl From<FormatError> for Rejected {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<TrustError> for Rejected {
    fn from(error: TrustError) -> Self {
        Self::Trust(error)
    }
}

impl Store {
    /// What was read of this store and its mirrors so far, packs apart.
    pub fn stats(&self) -> ReadStats {
        ReadStats {
            requests: self.reads.requests.load(Ordering::Relaxed),
            bytes: self.reads.bytes.load(Ordering::Relaxed),
        }
    }

    /// What these reads tell of the way to the store and its mirrors.
    pub(crate) fn way(&self) -> Way {
        *self.reads.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object of at most `limit` bytes, or a range of it, from the first transport whose answer
    /// passes `check`.
    pub(crate) async fn read_checked<T>(
        &self,
        path: &ObjectPath,
        range: &ReadRange,
        limit: u64,
        check: impl Fn(Bytes) -> Result<T, Rejected>,
    ) -> Result<T, StoreError> {
        let mut last = None;
        for transport in self.transports() {
            for _ in 0..TRIES {
                let bytes = match self.read_from(&**transport, path, range, limit).await {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        last = Some(more_telling(last, error));
                        break;
                    }
                };
                let error = match check(bytes) {
                    Ok(value) => return Ok(value),
                    Err(Rejected::Trust(error)) => error.into(),
                    Err(Rejected::Format(source)) => StoreError::Damaged {
                        location: transport.location().to_owned(),
                        object: path.to_string(),
                        source: Box::new(source),
                    },
                };
                last = Some(more_telling(last, error));
            }
        }
        Err(last.unwrap_or_else(|| {
            let kind = TransportErrorKind::NotFound;
            TransportError::new(kind, self.location(), path, "no store").into()
        }))
    }

    /// An object, or a range of it, as one transport has it.
    pub(super) async fn read_from(
        &self,
        transport: &dyn Transport,
        path: &ObjectPath,
        range: &ReadRange,
        limit: u64,
    ) -> Result<Bytes, StoreError> {
        self.reads.requests.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        match read_all(transport, path, range.clone(), limit, &self.retry).await {
            Ok((bytes, _)) => {
                let len = bytes.len() as u64;
                self.reads.bytes.fetch_add(len, Ordering::Relaxed);
                let mut way = self.reads.way.lock().unwrap_or_else(PoisonError::into_inner);
                way.took(len, begun.elapsed());
                Ok(bytes)
            }
            // A body beyond the limit may be the host's fault, or the object may be too long.
            Err(error)
                if error.kind == TransportErrorKind::Protocol && *range == ReadRange::Full =>
            {
                match transport.head(path).await {
                    Ok(Some(info)) if info.size > limit => {
                        let source = FormatError::Limit { what: "object", value: info.size, limit };
                        let (location, object) = (transport.location(), path.to_string());
                        let (location, source) = (location.to_owned(), Box::new(source));
                        Err(StoreError::Damaged { location, object, source })
                    }
                    _ => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A whole object of at most `limit` bytes, from the first transport that has it.
    ///
    /// # Errors
    /// If it is missing or longer, or the store fails.
    pub async fn read(&self, path: &ObjectPath, limit: usize) -> Result<Bytes, StoreError> {
        self.read_checked(path, &ReadRange::Full, limit as u64, Ok).await
    }

    /// A whole object, or `None` if it is missing.
    ///
    /// # Errors
    /// If it is longer, or the store fails.
    pub async fn read_optional(
        &self,
        path: &ObjectPath,
        limit: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.read(path, limit).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Some bytes of an object.
    ///
    /// # Errors
    /// If they are not there, or the store fails.
    pub async fn read_range(
        &self,
        path: &ObjectPath,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let len = range.end.saturating_sub(range.start);
        self.read_checked(path, &ReadRange::Bounded(range), len, Ok).await
    }
}

/// The more telling of two failures: that something is wrong says more than that it is missing, and the
/// store more than its mirrors.
fn more_telling(last: Option<StoreError>, next: StoreError) -> StoreError {
    match last {
        Some(last) if !last.is_not_found() || next.is_not_found() => last,
        _ => next,
    }
}
