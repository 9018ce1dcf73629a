//! Where objects lie: one trait over directories, buckets and static HTTP hosts.
//!
//! A backend moves bytes and never interprets them. Whatever it returns is unverified; the layers
//! above check every byte. Objects appear whole or not at all, under every backend.

#![warn(clippy::indexing_slicing)]

pub mod dir;
pub mod fault;
#[cfg(feature = "cloud")]
mod host_date;
pub mod http;
#[cfg(feature = "cloud")]
pub mod object;
pub mod small;
pub mod url;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

pub use crate::format::path::ObjectPath;

/// Which bytes of an object are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRange {
    /// The whole object (no `Range` header).
    Full,
    /// These bytes; the object must hold them all. An empty range is
    /// [`TransportErrorKind::Invalid`].
    Bounded(Range<u64>),
    /// The last bytes, or the whole object if it is shorter. No bytes at all is
    /// [`TransportErrorKind::Invalid`].
    Suffix(u64),
}

impl ReadRange {
    /// Whether it asks for no byte, which HTTP cannot say.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Full => false,
            Self::Bounded(range) => range.is_empty(),
            Self::Suffix(last) => *last == 0,
        }
    }

    /// The bytes meant in an object of `size` bytes; `None` if they lie beyond its end.
    pub fn within(&self, size: u64) -> Option<Range<u64>> {
        match self {
            Self::Full => Some(0..size),
            Self::Bounded(range) => (range.end <= size).then(|| range.clone()),
            Self::Suffix(last) => Some(size.saturating_sub(*last)..size),
        }
    }
}

/// What changes whenever the object's content does: opaque, to be given back to the store it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// An ETag, or what stands for one.
    pub tag: String,
    /// The store's own number of this version, where it has one: what GCS compares.
    pub generation: Option<String>,
}

impl Version {
    /// A version that the store has no number for.
    pub fn tagged(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), generation: None }
    }
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Where it lies.
    pub path: ObjectPath,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// What a conditional write expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing at that path.
    Absent,
    /// The object whose read returned this version.
    Version(Version),
}

/// The body of a read: bytes in order, pulled by the reader, so that back-pressure reaches the
/// connection.
#[async_trait]
pub trait Body: Send {
    /// Writes further bytes to the beginning of `out` and returns how many, 0 only at the end of the
    /// range or where `out` is empty. A future that is dropped before it is ready has read nothing.
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError>;

    /// Appends between 1 and `max` further bytes to `out`, and returns how many; 0 only at the end.
    async fn append(&mut self, out: &mut BytesMut, max: usize) -> Result<usize, TransportError> {
        let keep = out.len();
        out.resize(keep + max, 0);
        let mut appending = Appending { out, keep };
        let read = self.read(appending.out.get_mut(keep..).unwrap_or_default()).await?;
        appending.keep += read;
        Ok(read)
    }
}

/// Bytes to which more are appended: however that ends, nothing is left but what was read.
struct Appending<'a> {
    out: &'a mut BytesMut,
    keep: usize,
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.keep);
    }
}

/// Moves what fits of `held` to the beginning of `out`, and tells how much.
pub(crate) fn move_bytes(held: &mut Bytes, out: &mut [u8]) -> usize {
    let piece = held.split_to(out.len().min(held.len()));
    if let Some(out) = out.get_mut(..piece.len()) {
        out.copy_from_slice(&piece);
    }
    piece.len()
}

/// An opened read. `range` is what the body will deliver, checked against what was asked.
pub struct ObjectReader {
    /// The bytes of the object that the body delivers. A server that ignores `Range` yields the
    /// whole object here; the reader skips what it did not ask for. Where such a server does not
    /// say how long the object is, the end is `u64::MAX`, `size` is `None`, and the body ends where
    /// the object does.
    pub range: Range<u64>,
    /// The object's whole size, when the store tells it.
    pub size: Option<u64>,
    /// The object's version, when the store tells it.
    pub version: Option<Version>,
    /// The head of a web server's answer, which says how long it may be used again.
    pub head: Option<Box<hyper::HeaderMap>>,
    /// The bytes.
    pub body: Box<dyn Body>,
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectReader")
            .field("range", &self.range)
            .field("size", &self.size)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A store's transport. Reads are ranged and streamed; writes are whole and atomic.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// The store's address, for messages.
    fn location(&self) -> &str;

    /// The same store, told which artifact the requests will be for (`name@id` or `@id`); `None` where
    /// that makes no difference.
    fn for_artifact(&self, _artifact: &str) -> Option<Arc<dyn Transport>> {
        None
    }

    /// So many requests will be made at the same time soon: where a connection takes long to be made, it is made
    /// meanwhile.
    fn expect(&self, _requests: usize) {}

    /// Opens a read. A missing object is [`TransportErrorKind::NotFound`]; a range beyond the end is
    /// [`TransportErrorKind::OutOfRange`].
    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError>;

    /// Size, time and existence of one object; `None` if it is missing.
    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError>;

    /// Writes the concatenation of `parts`, durably and atomically, replacing what is there.
    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError>;

    /// Writes `content` if `path` still is as `expected`; otherwise
    /// [`TransportErrorKind::Conflict`], and nothing changed.
    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError>;

    /// How many packs are best written at the same time.
    fn writes_at_once(&self) -> usize {
        2
    }

    /// Removes the object; a missing one is no error.
    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError>;

    /// Every object whose path starts with `prefix` (which ends in `/`), sorted by path.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError>;

    /// What time it is by the host's word, if it gave that with its answers.
    fn date(&self) -> Option<SystemTime> {
        None
    }

    /// Removes what killed writers left more than `age` ago and no listing shows; returns how many
    /// things.
    async fn sweep(&self, _age: Duration) -> Result<usize, TransportError> {
        Ok(0)
    }

    /// Whether reads block the calling thread (local files): the caller then reads on threads made
    /// for blocking.
    fn reads_block(&self) -> bool {
        false
    }
}

/// What went wrong; whether to try again depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No such object.
    NotFound,
    /// The object is shorter than the range asked for.
    OutOfRange,
    /// Credentials are missing or do not suffice, or the server refuses such requests.
    Denied,
    /// The object changed under a conditional write.
    Conflict,
    /// The store takes no writes.
    ReadOnly,
    /// The store cannot say what it holds.
    Unlistable,
    /// The address or the request makes no sense to this backend.
    Invalid,
    /// The server broke the protocol: a body of the wrong length, a range that was not asked for.
    Protocol,
    /// No byte arrived for the stall limit.
    Stalled,
    /// Reset, refused, 5xx, 429: may pass.
    Transient,
    /// The local system failed: disk full, permission, I/O error.
    Io,
}

/// A failed operation on one object.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {object}: {message}")]
#[non_exhaustive]
pub struct TransportError {
    /// What went wrong.
    pub kind: TransportErrorKind,
    /// The store.
    pub location: String,
    /// The object.
    pub object: String,
    /// What happened, for people.
    pub message: String,
    /// How long the server asks to wait before the next try.
    pub retry_after: Option<Duration>,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TransportError {
    /// An error without a cause.
    pub fn new(
        kind: TransportErrorKind,
        location: impl Into<String>,
        object: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            location: location.into(),
            object: object.to_string(),
            message: message.into(),
            retry_after: None,
            source: None,
        }
    }

    /// The same with its cause, whose text joins the message.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        let mut inner: Option<&(dyn std::error::Error + 'static)> = Some(&*cause);
        while let Some(error) = inner {
            let text = error.to_string();
            if !self.message.contains(&text) {
                self.message.push_str(": ");
                self.message.push_str(&text);
            }
            inner = error.source();
        }
        self.source = Some(cause);
        self
    }

    /// Whether the same request may succeed when sent again.
    pub fn is_transient(&self) -> bool {
        use TransportErrorKind::*;
        matches!(self.kind, Protocol | Stalled | Transient)
    }

    /// Whether the bytes asked for are not there: no such object, or a shorter one.
    pub fn is_absent(&self) -> bool {
        use TransportErrorKind::*;
        matches!(self.kind, NotFound | OutOfRange)
    }
}
