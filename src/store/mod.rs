//! A store: typed objects over a transport. Everything read here is checked before it is returned.

mod decode;
mod ensure;
mod error;
mod graph;
mod lease;
mod refs;
mod resolve;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::format::FormatError;
use crate::format::id::{ManifestId, PackId};
use crate::format::limits::{MAX_MANIFEST, MAX_SMALL};
use crate::format::manifest::Manifest;
use crate::format::pack::{PackIndex, Trailer};
use crate::format::store::{self as paths, Descriptor, STORE_VERSION};
use crate::transport::small::{RetryPolicy, read_all};
use crate::transport::{Expected, ObjectPath, ReadRange, Transport, TransportErrorKind};

pub(crate) use decode::{decoded, fetch_all};
pub use error::StoreError;
pub use graph::{ArtifactGraph, Placed};
pub(crate) use lease::LIFETIME as LEASE_LIFETIME;
pub use lease::{Lease, candidates};
pub use refs::{Lifetime, Published, RefPlaced};
pub use resolve::{Resolved, ref_object};

/// The Unix time in seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A store behind a backend.
#[derive(Debug, Clone)]
pub struct Store {
    transport: Arc<dyn Transport>,
    retry: RetryPolicy,
}

impl Store {
    /// A store that is there already; nothing is read yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, retry: RetryPolicy::default() }
    }

    /// The same store, whose failures are waited out so.
    pub fn with_retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// Makes the store's descriptor unless it is there. Returns whether the store is new.
    pub async fn create(&self) -> Result<bool, StoreError> {
        let path = paths::descriptor();
        if let Some(bytes) = self.read_optional(&path, MAX_SMALL).await? {
            let descriptor = Descriptor::parse(&bytes);
            return descriptor
                .and_then(|d| d.check())
                .map(|()| false)
                .map_err(StoreError::format(self, &path));
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::Random(error.to_string()))?;
        let descriptor = Descriptor::new(crate::format::id::to_hex(&id), STORE_VERSION);
        let bytes = descriptor.to_bytes().map_err(StoreError::format(self, &path))?;
        match self.transport.put_if(&path, Expected::Absent, bytes.into()).await {
            Ok(()) => Ok(true),
            // Another writer made it in between.
            Err(error) if error.kind == TransportErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// How failures that may pass are waited out.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// The store's address, for messages.
    pub fn location(&self) -> &str {
        self.transport.location()
    }

    /// A whole object of at most `limit` bytes.
    pub async fn read(&self, path: &ObjectPath, limit: usize) -> Result<Bytes, StoreError> {
        let limit = limit as u64;
        match read_all(&*self.transport, path, ReadRange::Full, limit, &self.retry).await {
            Ok((bytes, _)) => Ok(bytes),
            // A body beyond the limit may be the host's fault, or the object may be too long.
            Err(error) if error.kind == TransportErrorKind::Protocol => {
                match self.transport.head(path).await {
                    Ok(Some(info)) if info.size > limit => {
                        let (what, value) = ("object", info.size);
                        Err(StoreError::format(self, path)(FormatError::Limit {
                            what,
                            value,
                            limit,
                        }))
                    }
                    _ => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A whole object, or `None` if it is missing.
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
    pub async fn read_range(
        &self,
        path: &ObjectPath,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let len = range.end.saturating_sub(range.start);
        let range = ReadRange::Bounded(range);
        let (bytes, _) = read_all(&*self.transport, path, range, len, &self.retry).await?;
        Ok(bytes)
    }

    /// A manifest and its exact bytes.
    pub async fn manifest(&self, id: ManifestId) -> Result<(Manifest, Bytes), StoreError> {
        let path = paths::manifest(id);
        let bytes = self.read(&path, MAX_MANIFEST).await?;
        let manifest = Manifest::parse(&bytes, id).map_err(StoreError::format(self, &path))?;
        Ok((manifest, bytes))
    }

    /// The index of a pack, read from the pack's end.
    pub async fn pack_index(&self, id: PackId) -> Result<PackIndex, StoreError> {
        let path = paths::pack(id);
        let wrong = StoreError::format(self, &path);
        let suffix =
            |len| read_all(&*self.transport, &path, ReadRange::Suffix(len), len, &self.retry);
        // One request for nearly every pack: 64 MiB of 1 MiB chunks have an index of 8 KiB.
        let mut tail = suffix(16 << 10).await?.0;
        let trailer_at = tail.len().saturating_sub(Trailer::LEN as usize);
        let trailer = Trailer::parse(&tail[trailer_at..]).map_err(&wrong)?;
        let need = u64::from(trailer.index_len) + Trailer::LEN;
        if need > tail.len() as u64 {
            tail = suffix(need).await?.0;
        }
        let start = (tail.len() as u64).saturating_sub(need) as usize;
        let end = tail.len().saturating_sub(Trailer::LEN as usize);
        PackIndex::parse(&tail[start..end], id).map_err(wrong)
    }

    /// Every object below `prefix`, which ends in `/`.
    pub async fn list(
        &self,
        prefix: &str,
    ) -> Result<Vec<crate::transport::ObjectInfo>, StoreError> {
        Ok(self.transport.list(prefix).await?)
    }
}
