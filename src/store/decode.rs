//! Chunks of a store down to their decoded bytes: fetched, verified, their bases first.

use bytes::{Bytes, BytesMut};

use super::{Placed, Store, StoreError};
use crate::chunk::codec;
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::DecodedDigest;
use crate::format::store as paths;
use crate::transport::TransportErrorKind;

/// The longest read of neighbouring chunks, in bytes.
const RUN: u64 = 8 << 20;

/// Fetches, verifies and decodes a chunk; `bases` are what it is stored against, nearest first.
/// `None` if one of them decodes to other bytes than its record says: whoever trusts no manifest that
/// names them may rely on what is returned.
pub(crate) async fn decoded(
    store: &Store,
    chunk: Placed,
    bases: &[Placed],
) -> Result<Option<Bytes>, StoreError> {
    let mut below: Option<Bytes> = None;
    for chunk in bases.iter().rev().chain([&chunk]) {
        let verified = fetch(store, *chunk).await?;
        let decoded = codec::into_decoded(verified, below.as_deref());
        let decoded = decoded.map_err(|source| failed(store, chunk, source))?;
        if DecodedDigest::of(&decoded) != chunk.record.decoded {
            return Ok(None);
        }
        below = Some(decoded);
    }
    Ok(below)
}

fn failed(store: &Store, chunk: &Placed, source: codec::DecodeError) -> StoreError {
    let (location, pack) = (store.location().to_owned(), chunk.place.pack.to_hex());
    StoreError::Decode { location, pack, offset: chunk.place.offset, source }
}

async fn fetch(store: &Store, chunk: Placed) -> Result<VerifiedChunk, StoreError> {
    let stored = store.read_range(&paths::pack(chunk.place.pack), chunk.range()).await?;
    VerifiedChunk::verify(chunk.record, BytesMut::from(stored)).map_err(|bad| {
        let (location, pack) = (store.location().to_owned(), chunk.place.pack.to_hex());
        let offset = chunk.place.offset;
        StoreError::Chunk { location, pack, offset, source: Box::new(bad.error) }
    })
}

/// Fetches and verifies chunks, neighbours in one read. One that is missing or damaged is `None`.
pub(crate) async fn fetch_all(
    store: &Store,
    chunks: &[Placed],
) -> Result<Vec<Option<VerifiedChunk>>, StoreError> {
    let mut order: Vec<(Placed, usize)> = chunks.iter().copied().zip(0..).collect();
    order.sort_by_key(|(chunk, at)| (chunk.place, *at));
    let mut all: Vec<_> = chunks.iter().map(|_| None).collect();
    let mut rest = order.as_slice();
    while let Some((first, _)) = rest.first() {
        let mut end = first.range().start;
        let follows = |(chunk, _): &&(Placed, usize)| {
            let range = chunk.range();
            let next = chunk.place.pack == first.place.pack
                && range.start == end
                && (range.end - first.range().start <= RUN || chunk == first);
            end = range.end;
            next
        };
        let count = rest.iter().take_while(follows).count().max(1);
        let (run, after) = rest.split_at(count);
        rest = after;
        let last = run.last().map_or(first.range().end, |(chunk, _)| chunk.range().end);
        let range = first.range().start..last;
        let mut bytes = match store.read_range(&paths::pack(first.place.pack), range).await {
            Ok(bytes) => BytesMut::from(bytes),
            Err(StoreError::Transport(error)) if is_absent(error.kind) => continue,
            Err(error) => return Err(error),
        };
        for (chunk, at) in run {
            let own = bytes.split_to((chunk.record.stored_len as usize).min(bytes.len()));
            if let Some(slot) = all.get_mut(*at) {
                *slot = VerifiedChunk::verify(chunk.record, own).ok();
            }
        }
    }
    Ok(all)
}

fn is_absent(kind: TransportErrorKind) -> bool {
    matches!(kind, TransportErrorKind::NotFound | TransportErrorKind::OutOfRange)
}
