//! Decoded chunks that a load need not fetch, because an earlier one has decoded them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::delta_base_cache::DeltaBaseCache;
use crate::format::id::DecodedDigest;
use crate::format::record::ChunkRecord;
use crate::schedule::plan::TensorRequest;

/// What a load knows of decoded chunks beyond its own.
#[derive(Debug, Default)]
pub(super) struct KnownBases {
    /// Bases that were kept before the load began, by content.
    held: HashMap<DecodedDigest, Bytes>,
    /// Where what is decoded is kept for others.
    cache: Option<Arc<DeltaBaseCache>>,
}

impl KnownBases {
    /// What the cache has of the bases of `tensors`. The load holds it, so that nothing is dropped
    /// before it is used.
    pub(super) fn of(tensors: &[Arc<TensorRequest>], cache: Option<Arc<DeltaBaseCache>>) -> Self {
        let Some(cache) = cache else { return Self::default() };
        let bases =
            tensors.iter().flat_map(|request| &request.records).filter_map(|record| record.base);
        let held = bases.filter_map(|base| Some((base.decoded, cache.get(&base.decoded)?)));
        Self { held: held.collect(), cache: Some(cache) }
    }

    /// The decoded chunk of that content.
    pub(super) fn get(&self, content: &DecodedDigest) -> Option<&Bytes> {
        self.held.get(content)
    }

    pub(super) fn contents(&self) -> impl Iterator<Item = &DecodedDigest> {
        self.held.keys()
    }

    /// Takes note of what a chunk was decoded to.
    pub(super) fn offer(&self, record: &ChunkRecord, decoded: &[u8]) {
        if let Some(cache) = &self.cache {
            cache.offer(record, decoded);
        }
    }
}
