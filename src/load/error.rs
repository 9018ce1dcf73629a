//! Why a load failed: what, where, and whether it is the network's, the store's or the bytes' fault.

use crate::chunk::codec::DecodeError;
use crate::chunk::verified::DigestMismatch;
use crate::format::id::{ManifestId, PackId};
use crate::memory::slot::NoMemory;
use crate::schedule::plan::{ListIndex, RecordIndex};
use crate::transport::{TransportError, TransportErrorKind};

/// What kind of failure it is: programs end with a status of their own for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An object, a ref or a tensor is missing.
    NotFound,
    /// Something is not what was signed, or is not signed.
    Verification,
    /// The network or the store failed, retries included.
    Network,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The kind of a failed access to a store.
    pub fn of_transport(error: &TransportError) -> Self {
        match error.kind {
            TransportErrorKind::NotFound => Self::NotFound,
            // An object that is too short was cut.
            TransportErrorKind::OutOfRange => Self::Verification,
            TransportErrorKind::Invalid
            | TransportErrorKind::Denied
            | TransportErrorKind::ReadOnly
            | TransportErrorKind::Conflict => Self::Other,
            _ => Self::Network,
        }
    }
}

/// Where a chunk was to come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSite {
    /// The artifact, if it is one.
    pub artifact: Option<ManifestId>,
    /// The tensor.
    pub tensor: String,
    /// Which of its chunks.
    pub chunk: RecordIndex,
    /// Whether it is about a chunk that this one is stored against.
    pub is_base: bool,
    /// The pack.
    pub pack: PackId,
    /// Offset in the pack.
    pub offset: u32,
}

impl std::fmt::Display for ChunkSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { artifact, tensor, chunk, is_base, pack, offset } = self;
        let of = if *is_base { "base of chunk" } else { "chunk" };
        if let Some(artifact) = artifact {
            write!(f, "artifact {artifact}: ")?;
        }
        if !tensor.is_empty() {
            write!(f, "tensor {tensor:?}: ")?;
        }
        write!(f, "{of} {} (pack {pack} at {offset})", chunk.get())
    }
}

/// Why a load failed.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A chunk is damaged wherever it was fetched from.
    #[error("{site}: damaged {tries} times, last from {location}")]
    Corrupt {
        site: Box<ChunkSite>,
        tries: u32,
        location: String,
        #[source]
        error: Box<DigestMismatch>,
    },
    /// The store did not give the bytes.
    #[error("{site}: could not be fetched: {error}")]
    Transport {
        site: Box<ChunkSite>,
        #[source]
        error: TransportError,
    },
    /// A chunk is what the manifest names, and still does not decode.
    #[error("{site}: verified, but does not decode; it was packed so")]
    Decode {
        site: Box<ChunkSite>,
        #[source]
        error: DecodeError,
    },
    /// A read neither goes on nor can be ended (a dead network file system).
    #[error("{site}: a read from {location} hangs")]
    Hung { site: Box<ChunkSite>, location: String },
    /// The destination has no memory for a delivery.
    #[error(transparent)]
    Memory(#[from] NoMemory),
    /// A rule of the loader itself does not hold.
    #[error("the loader contradicts itself: {0}; please report this")]
    Internal(&'static str),
}

impl LoadError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } | Self::Decode { .. } => ErrorKind::Verification,
            Self::Transport { error, .. } => ErrorKind::of_transport(error),
            Self::Hung { .. } => ErrorKind::Network,
            Self::Memory(_) | Self::Internal(_) => ErrorKind::Other,
        }
    }

    /// Whether a chunk is not where it should be: other bytes are there, or none.
    pub(crate) fn is_misplaced(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Transport { error, .. } => error.is_absent(),
            _ => false,
        }
    }
}
