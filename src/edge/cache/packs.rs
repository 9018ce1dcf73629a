//! Packs as their origin has them, put together from verified chunks.
//!
//! A pack's identifier commits to its index and its index to every chunk, so that a pack needs no
//! manifest to be served right. What lies between chunks and end, index and trailer, is made anew from
//! the verified index.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use moka::future::Cache;

use crate::edge::cache::origins::transport_error;
use crate::edge::cache::reader::ChunkReader;
use crate::edge::cache::source::ChunkSource;
use crate::edge::options::ABSENT;
use crate::format::id::PackId;
use crate::format::pack::{PackIndex, Trailer};
use crate::store::Placed;
use crate::transport::{TransportError, TransportErrorKind};

/// What is sent at a time where memory is short.
const FRAME: u64 = 64 << 10;
/// A part of a chunk that is this many times smaller is copied: it would hold the whole.
const SMALL: usize = 4;
/// Packs whose indexes are kept.
const INDEXES: u64 = 4096;

/// The packs of a store.
#[derive(Debug)]
pub(crate) struct Packs {
    source: Arc<ChunkSource>,
    indexes: Cache<PackId, Arc<PackMap>>,
    /// Packs that no origin had a moment ago.
    absent: Cache<PackId, Arc<TransportError>>,
}

/// Where a pack's chunks lie.
#[derive(Debug)]
pub(crate) struct PackMap {
    /// The chunks, in order.
    chunks: Vec<Placed>,
    /// What follows the chunks.
    tail: Bytes,
}

impl PackMap {
    fn new(pack: PackId, index: &PackIndex) -> Self {
        let chunks = index.placed(pack).collect();
        let mut tail = index.to_bytes();
        // An index is shorter than a pack, which is at most 64 MiB.
        let trailer = Trailer { index_len: tail.len() as u32 };
        tail.extend_from_slice(&trailer.to_bytes());
        Self { chunks, tail: tail.into() }
    }

    fn data_len(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.range().end)
    }

    /// Bytes of the pack.
    pub(crate) fn size(&self) -> u64 {
        self.data_len() + self.tail.len() as u64
    }

    /// Which chunks hold bytes of `wanted`.
    fn range(&self, wanted: &Range<u64>) -> Range<usize> {
        let from = self.chunks.partition_point(|chunk| chunk.range().end <= wanted.start);
        let to = self.chunks.partition_point(|chunk| chunk.range().start < wanted.end);
        from..to.max(from)
    }

    /// The chunks that hold bytes of `wanted`.
    pub(crate) fn chunks(&self, wanted: &Range<u64>) -> &[Placed] {
        self.chunks.get(self.range(wanted)).unwrap_or_default()
    }
}

/// Somebody who reads a range of a pack.
struct Reading {
    source: Arc<ChunkSource>,
    chunks: ChunkReader,
    /// The bytes to come.
    left: Range<u64>,
    /// Those of them behind the chunks.
    tail: Option<Bytes>,
}

impl Packs {
    pub(crate) fn new(source: Arc<ChunkSource>) -> Arc<Self> {
        Arc::new(Self {
            source,
            indexes: Cache::new(INDEXES),
            absent: Cache::builder().max_capacity(INDEXES).time_to_live(ABSENT).build(),
        })
    }

    /// Where the chunks of a pack lie, from the first origin whose index is the one that the pack's
    /// name commits to.
    pub(crate) async fn map(&self, pack: PackId) -> Result<Arc<PackMap>, Arc<TransportError>> {
        let read = async {
            let (_, origins) = self.source.origins().store();
            let index = origins.pack_index(pack).await;
            index.map(|index| Arc::new(PackMap::new(pack, &index))).map_err(transport_error)
        };
        if let Some(error) = self.absent.get(&pack).await {
            return Err(error);
        }
        let found = self.indexes.try_get_with(pack, read).await;
        if let Err(error) = &found
            && error.kind == TransportErrorKind::NotFound
        {
            self.absent.insert(pack, error.clone()).await;
        }
        found
    }

    /// The bytes `wanted` of a pack, which must lie in it, as they become known to be right.
    pub(crate) fn read(
        &self,
        map: &Arc<PackMap>,
        wanted: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
        let data = map.data_len();
        let tail = wanted.start.max(data)..wanted.end.min(map.size());
        // Both are at most the length of the tail, which is in memory.
        let tail = (!tail.is_empty())
            .then(|| map.tail.slice((tail.start - data) as usize..(tail.end - data) as usize));
        let (source, own, map) = (self.source.clone(), map.range(&wanted), map.clone());
        let coming = own.filter_map(move |at| map.chunks.get(at).copied());
        let chunks = ChunkReader::new(source.clone(), Box::new(coming));
        let reading = Reading { source, chunks, left: wanted, tail };
        stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        })
    }
}

impl Reading {
    /// The next bytes; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        let Some((wanted, chunk)) = self.chunks.front().await? else { return Ok(self.tail.take()) };
        let (budget, place) = (self.source.budget(), wanted.range());
        let is_tight = budget.is_tight();
        let start = self.left.start.max(place.start);
        let mut end = self.left.end.min(place.end);
        if is_tight {
            end = end.min(start + FRAME);
        }
        self.left.start = end;
        if end == self.left.end || end == place.end {
            self.chunks.advance();
        }
        let bytes = chunk.bytes();
        // The part lies in the chunk, whose length the record gave.
        let (start, end) = ((start - place.start) as usize, (end - place.start) as usize);
        let part = bytes.slice(start.min(bytes.len())..end.min(bytes.len()));
        Ok(Some(match is_tight || part.len() < bytes.len() / SMALL {
            true => budget.hold(Bytes::copy_from_slice(&part)),
            false => part,
        }))
    }
}
