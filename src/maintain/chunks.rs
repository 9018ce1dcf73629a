//! Chunks for maintenance: each with its own result where damage is looked for, or all of them right.

use bytes::Bytes;

use super::error::{MaintainError, is_damage};
use crate::chunk::codec::DecodeError;
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::ManifestId;
use crate::format::store as paths;
use crate::load::chunks::{ChunkStream, store_error};
use crate::memory::pool::{self, Urgency};
use crate::store::{Placed, Store, StoreError};

/// Runs `work` where hashing and decoding is done.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MaintainError> {
    pool::spawn(usize::MAX, Urgency::Now, work).await.map_err(|_| MaintainError::Worker)
}

/// Fetches and verifies `wanted`, and gives what `each` makes of every chunk. What is damaged is in the
/// results; only what kept the store from answering fails the call.
pub(super) async fn fetch<T: Send + 'static>(
    store: &Store,
    wanted: &[Placed],
    each: impl Fn(VerifiedChunk) -> Result<T, DecodeError> + Clone + Send + 'static,
) -> Result<Vec<Result<T, StoreError>>, MaintainError> {
    let mut chunks = ChunkStream::start(store, None, wanted, true);
    let mut begun = Vec::with_capacity(wanted.len());
    while let Some((index, chunk)) = chunks.next().await {
        begun.push((
            index,
            match chunk.map_err(store_error) {
                Ok(chunk) => {
                    let each = each.clone();
                    Ok(pool::spawn(chunk.stored().len(), Urgency::Ahead, move || each(chunk)))
                }
                Err(error) if is_damage(&error) => Err(error),
                Err(error) => return Err(error.into()),
            },
        ));
    }
    let mut results: Vec<Option<Result<T, StoreError>>> = wanted.iter().map(|_| None).collect();
    for (index, begun) in begun {
        let Some((slot, chunk)) = results.get_mut(index).zip(wanted.get(index)) else { continue };
        *slot = Some(match begun {
            Ok(made) => made.await.map_err(|_| MaintainError::Worker)?.map_err(|source| {
                let (location, offset) = (store.location().to_owned(), chunk.place.offset);
                StoreError::Decode { location, pack: chunk.place.pack.to_hex(), offset, source }
            }),
            Err(error) => Err(error),
        });
    }
    let nothing = |chunk: &Placed| {
        let (location, object) = (store.location().to_owned(), paths::pack(chunk.place.pack));
        StoreError::Incomplete { location, object: object.to_string(), by: "a layout".to_owned() }
    };
    Ok(results.into_iter().zip(wanted).map(|(r, chunk)| r.unwrap_or(Err(nothing(chunk)))).collect())
}

/// The stored bytes of an artifact's chunks, in the order of `wanted`, wherever in the store or its mirrors
/// they are right.
pub(super) async fn fetch_right(
    store: &Store,
    artifact: ManifestId,
    wanted: &[Placed],
) -> Result<Vec<Bytes>, MaintainError> {
    let mut chunks = ChunkStream::start(store, Some(artifact), wanted, false);
    let mut all = vec![Bytes::new(); wanted.len()];
    while let Some((index, chunk)) = chunks.next().await {
        if let Some(slot) = all.get_mut(index) {
            *slot = chunk.map_err(store_error)?.into_stored();
        }
    }
    Ok(all)
}
