//! Chunks as they are stored, whoever's they are: fetched as tensors are, each verified.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::error::{ErrorKind, LoadError};
use super::line::Line;
use super::loader::Loader;
use super::options::LoadOptions;
use super::tensor::LoadStats;
use crate::chunk::codec;
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::{DecodedDigest, ManifestId};
use crate::memory::slot::SlotProvider;
use crate::schedule::plan::TensorRequest;
use crate::store::{Placed, Store, StoreError};
use crate::transport::{TransportError, TransportErrorKind};

/// Unwanted bytes that are read over: a list of chunks has no others between them than those left out.
const GAP: u64 = 0;
/// How often a chunk is fetched that arrives damaged: what damaged it may have been on the way.
const TRIES: u32 = 2;

/// Chunks of a store, in the order in which they lie there.
pub(crate) struct ChunkStream {
    loader: Loader,
    /// Which of the wanted chunks comes next.
    order: VecDeque<usize>,
}

impl ChunkStream {
    /// Begins to fetch `wanted`. For an artifact, the layouts of mirrors count too. If the stream is
    /// `tolerant`, a chunk that cannot be had leaves the others alone.
    pub(crate) fn start(
        store: &Store,
        artifact: Option<ManifestId>,
        wanted: &[Placed],
        tolerant: bool,
    ) -> Self {
        Self::start_in(None, store, artifact, wanted, tolerant)
    }

    /// The same in a line with others, and in memory that they used before.
    pub(crate) fn start_in(
        shared: Option<(Arc<Line>, Arc<dyn SlotProvider>)>,
        store: &Store,
        artifact: Option<ManifestId>,
        wanted: &[Placed],
        tolerant: bool,
    ) -> Self {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|&index| wanted.get(index).map(|chunk| chunk.place));
        let chunks = order.iter().filter_map(|&index| wanted.get(index));
        let request = TensorRequest::of_chunks(chunks.map(|chunk| (chunk.record, chunk.place)));
        let (line, memory) = shared.unzip();
        let mut options =
            LoadOptions { gap: Some(GAP), tolerant, line, memory, ..LoadOptions::default() };
        options.bad_chunks = if tolerant { TRIES } else { options.bad_chunks };
        options.failures = store.retry().retries;
        options.first_pause = store.retry().first_pause;
        options.stall = store.retry().stall;
        let requests = match wanted.is_empty() {
            true => Vec::new(),
            false => vec![Arc::new(request)],
        };
        let loader = Loader::start(store.clone(), artifact, requests, HashMap::new(), &options);
        Self { loader, order: order.into() }
    }

    /// What was fetched so far, and from whom.
    pub(crate) fn stats(&self) -> LoadStats {
        self.loader.stats()
    }

    /// The next chunk, and which of those wanted it is.
    pub(crate) async fn next(&mut self) -> Option<(usize, Result<VerifiedChunk, LoadError>)> {
        let delivered = self.loader.next().await?;
        let index = self.order.pop_front()?;
        let chunk = delivered.and_then(|tensor| {
            let stored = tensor.stored.map(|stored| stored.chunk);
            stored.ok_or(LoadError::Internal("a chunk that was not asked for"))
        });
        Some((index, chunk))
    }
}

/// The error of a store that this one is: it names pack and offset.
pub(crate) fn store_error(error: LoadError) -> StoreError {
    match error {
        LoadError::Corrupt { site, location, error, .. } => StoreError::Chunk {
            location,
            pack: site.pack.to_hex(),
            offset: site.offset,
            source: error,
        },
        LoadError::Transport { error, .. } => error.into(),
        error => {
            let kind = match error.kind() {
                ErrorKind::Network => TransportErrorKind::Stalled,
                _ => TransportErrorKind::Io,
            };
            TransportError::new(kind, "", "packs", error.to_string()).into()
        }
    }
}

/// Fetches chunks; one that is missing or damaged is `None`.
pub(crate) async fn fetch_all(
    store: &Store,
    wanted: &[Placed],
) -> Result<Vec<Option<VerifiedChunk>>, StoreError> {
    let mut all: Vec<_> = wanted.iter().map(|_| None).collect();
    let mut chunks = ChunkStream::start(store, None, wanted, true);
    while let Some((index, chunk)) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                if let Some(slot) = all.get_mut(index) {
                    *slot = Some(chunk);
                }
            }
            Err(error) if error.is_misplaced() => {}
            Err(error) => return Err(store_error(error)),
        }
    }
    Ok(all)
}

/// Fetches, verifies and decodes a chunk; `bases` are what it is stored against, nearest first.
/// `None` if one of them decodes to other bytes than its record says: whoever trusts no manifest that
/// names them may rely on what is returned.
pub(crate) async fn decoded(
    store: &Store,
    chunk: Placed,
    bases: &[Placed],
) -> Result<Option<Bytes>, StoreError> {
    let chain: Vec<Placed> = bases.iter().rev().chain([&chunk]).copied().collect();
    let mut fetched: Vec<_> = chain.iter().map(|_| None).collect();
    let mut chunks = ChunkStream::start(store, None, &chain, false);
    while let Some((index, chunk)) = chunks.next().await {
        if let Some(slot) = fetched.get_mut(index) {
            *slot = Some(chunk.map_err(store_error)?);
        }
    }
    let mut below: Option<Bytes> = None;
    for (placed, chunk) in chain.iter().zip(fetched) {
        let Some(chunk) = chunk else { return Ok(None) };
        let decoded = codec::into_decoded(chunk, below.as_deref());
        let decoded = decoded.map_err(|source| StoreError::Decode {
            location: store.location().to_owned(),
            pack: placed.place.pack.to_hex(),
            offset: placed.place.offset,
            source,
        })?;
        if DecodedDigest::of(&decoded) != placed.record.decoded {
            return Ok(None);
        }
        below = Some(decoded);
    }
    Ok(below)
}
