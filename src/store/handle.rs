//! A store and its mirrors, and what lies in one besides artifacts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::StoreError;
use crate::format::FormatError;
use crate::format::id::{ManifestId, PackId};
use crate::format::limits::{MAX_MANIFEST, MAX_SMALL};
use crate::format::manifest::Manifest;
use crate::format::pack::{PackIndex, Trailer};
use crate::format::store::{self as paths, Descriptor, STORE_VERSION};
use crate::schedule::plan::Way;
use crate::transport::small::RetryPolicy;
use crate::transport::url::WebOptions;
use crate::transport::{
    Expected, ObjectInfo, ObjectPath, ReadRange, Transport, TransportErrorKind,
};

/// The Unix time in seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A store, and mirrors that hold copies of it. Whatever is read and can be checked comes from the first
/// of them that has it right; only the store itself is written.
#[derive(Debug, Clone)]
pub struct Store {
    /// The store, then its mirrors.
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) retry: RetryPolicy,
    pub(super) reads: Arc<ReadCounters>,
    /// Whether what is published needs no look at the clock.
    pub(super) trusts_clock: bool,
}

#[derive(Debug, Default)]
pub(super) struct ReadCounters {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub way: Mutex<Way>,
    /// Whether this process made the store.
    pub made: AtomicBool,
}

impl Store {
    /// A store that is there already; nothing is read yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        let (retry, reads) = (RetryPolicy::default(), Arc::default());
        Self { transports: vec![transport], retry, reads, trusts_clock: false }
    }

    /// The store at an address: a path, `s3://`, `gs://`, `az://` or `http(s)://`.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(location: &str) -> Result<Self, StoreError> {
        Ok(Self::new(crate::transport::url::open(location)?))
    }

    /// The same, reached as `options` say.
    ///
    /// # Errors
    /// If it is none.
    pub fn open_with(location: &str, options: &WebOptions) -> Result<Self, StoreError> {
        Ok(Self::new(crate::transport::url::open_with(location, options)?))
    }

    /// The same store with further mirrors, in the order in which they are preferred.
    pub fn with_mirrors(mut self, mirrors: impl IntoIterator<Item = Arc<dyn Transport>>) -> Self {
        self.transports.extend(mirrors);
        self
    }

    /// The same store and what is known of the way to it, over other transports (its own if there are
    /// none).
    pub(crate) fn over(&self, transports: Vec<Arc<dyn Transport>>) -> Self {
        match transports.is_empty() {
            true => self.clone(),
            false => Self { transports, ..self.clone() },
        }
    }

    /// The same store, whose failures are waited out so.
    pub fn with_retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// The same store and mirrors, told which artifact requests will be for (`name@id` or `@id`).
    pub(super) fn for_artifact(mut self, artifact: &str) -> Self {
        for transport in &mut self.transports {
            if let Some(told) = transport.for_artifact(artifact) {
                *transport = told;
            }
        }
        self
    }

    /// Checks that there is a store, here or in a mirror. Whoever finds nothing asks this: a store that is not
    /// there must not look like an empty one.
    ///
    /// # Errors
    /// [`StoreError::NoStore`]; or the store fails, or has a version that this release does not know.
    pub async fn require(&self) -> Result<(), StoreError> {
        let check = |bytes: Bytes| Ok(Descriptor::parse(&bytes)?.check()?);
        let (path, limit) = (paths::descriptor(), MAX_SMALL as u64);
        match self.read_checked(&path, &ReadRange::Full, limit, check).await {
            Err(error) if error.is_not_found() => {
                Err(StoreError::NoStore { location: self.location().to_owned() })
            }
            other => other,
        }
    }

    /// Whether this process made the store.
    pub fn was_made(&self) -> bool {
        self.reads.made.load(Ordering::Relaxed)
    }

    /// Makes the store's descriptor unless it is there. Returns whether the store is new.
    ///
    /// # Errors
    /// If the store fails, or has a version that this release does not know.
    pub async fn create(&self) -> Result<bool, StoreError> {
        match self.require().await {
            Ok(()) => return Ok(false),
            Err(StoreError::NoStore { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = paths::descriptor();
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(StoreError::Random)?;
        let descriptor = Descriptor::new(crate::format::id::to_hex(&id), STORE_VERSION);
        let bytes = descriptor.to_bytes().map_err(StoreError::format(self, &path))?;
        match self.transport().put_if(&path, Expected::Absent, bytes.into()).await {
            Ok(()) => {
                self.reads.made.store(true, Ordering::Relaxed);
                Ok(true)
            }
            // Another writer made it in between.
            Err(error) if error.kind == TransportErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the store and its mirrors that so many requests will be made at the same time soon.
    pub fn expect(&self, requests: usize) {
        self.transport().expect(requests);
    }

    /// The store's own transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        self.transports.first().unwrap_or_else(|| unreachable!("a store is made with a transport"))
    }

    /// The transports of the store and its mirrors, in the order in which they are preferred.
    pub fn transports(&self) -> &[Arc<dyn Transport>] {
        &self.transports
    }

    /// How failures that may pass are waited out.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// The store's address, for messages.
    pub fn location(&self) -> &str {
        self.transport().location()
    }

    /// A manifest and its exact bytes.
    ///
    /// # Errors
    /// If it is missing or malformed, or the store fails.
    pub async fn manifest(&self, id: ManifestId) -> Result<(Manifest, Bytes), StoreError> {
        let parse = |bytes: Bytes| Ok((Manifest::parse(&bytes, id)?, bytes));
        let (path, range) = (paths::manifest(id), ReadRange::Full);
        self.read_checked(&path, &range, MAX_MANIFEST as u64, parse).await
    }

    /// The index of a pack, read from the pack's end.
    ///
    /// # Errors
    /// If it is missing or malformed, or the store fails.
    pub async fn pack_index(&self, id: PackId) -> Result<PackIndex, StoreError> {
        let path = paths::pack(id);
        // One request for nearly every pack: 64 MiB of 1 MiB chunks have an index of 8 KiB.
        let mut len = 16 << 10;
        loop {
            let parse = |tail: Bytes| {
                let trailer_at = tail.len().saturating_sub(Trailer::LEN as usize);
                let trailer = Trailer::parse(&tail[trailer_at..])?;
                let need = u64::from(trailer.index_len) + Trailer::LEN;
                if need > tail.len() as u64 && len < need {
                    return Ok(Err(need));
                }
                let start = (tail.len() as u64).saturating_sub(need) as usize;
                Ok(Ok(PackIndex::parse(&tail[start..trailer_at], id)?))
            };
            match self.read_checked(&path, &ReadRange::Suffix(len), len, parse).await? {
                Ok(index) => return Ok(index),
                Err(need) => len = need,
            }
        }
    }

    /// Every object below `prefix`, which ends in `/`, of the store and its mirrors, sorted by path.
    ///
    /// # Errors
    /// If the store cannot list, or fails.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let (mut all, mut failed) = (std::collections::BTreeMap::new(), None);
        let mut answered = false;
        for transport in &self.transports {
            match transport.list(prefix).await {
                Ok(listed) => {
                    answered = true;
                    for info in listed {
                        all.entry(info.path.clone()).or_insert(info);
                    }
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        match failed {
            Some(error) if !answered => Err(error.into()),
            _ => Ok(all.into_values().collect()),
        }
    }
}

impl StoreError {
    /// An error constructor for a damaged object.
    pub fn format(store: &Store, object: &ObjectPath) -> impl Fn(FormatError) -> Self + use<> {
        let (location, object) = (store.location().to_owned(), object.to_string());
        move |error| Self::Damaged {
            location: location.clone(),
            object: object.clone(),
            source: Box::new(error),
        }
    }
}
