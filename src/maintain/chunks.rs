//! Fetching chunks: neighbours in one read, each verified on a thread made for work, each with its
//! own result.

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::error::{MaintainError, is_damage};
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::PackId;
use crate::format::store as paths;
use crate::store::{Placed, Store, StoreError};
use crate::transport::TransportErrorKind;

/// The longest read of neighbouring chunks, in bytes.
const RUN: u64 = 8 << 20;

/// Runs `work` on a thread made for blocking.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MaintainError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| MaintainError::Worker)
}

/// Some bytes of a pack.
pub(super) async fn read(
    store: &Store,
    pack: PackId,
    range: std::ops::Range<u64>,
) -> Result<Result<Bytes, StoreError>, MaintainError> {
    let path = paths::pack(pack);
    if !store.transport().reads_block() {
        return Ok(store.read_range(&path, range).await);
    }
    let (store, handle) = (store.clone(), Handle::current());
    off_thread(move || handle.block_on(store.read_range(&path, range))).await
}

/// Fetches and verifies `wanted` and hands each chunk to `each`, with its place in `wanted`, in no
/// certain order. What is damaged is in the results; only what kept the store from answering fails
/// the call.
pub(super) async fn fetch<T: Send + 'static>(
    store: &Store,
    wanted: &[Placed],
    each: impl Fn(VerifiedChunk) -> Result<T, crate::chunk::codec::DecodeError> + Clone + Send + 'static,
) -> Result<Vec<Result<T, StoreError>>, MaintainError> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    let place = |i: usize| wanted.get(i).map(|chunk| chunk.place);
    order.sort_by_key(|&i| place(i));
    let mut results: Vec<Option<Result<T, StoreError>>> = Vec::new();
    results.resize_with(wanted.len(), || None);
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (run, after) = rest.split_at(run_length(rest, wanted).max(1));
        rest = after;
        let chunks: Vec<Placed> = run.iter().filter_map(|&i| wanted.get(i)).copied().collect();
        let mut done = fetch_run(store, chunks.clone(), each.clone()).await?;
        for ((&i, chunk), result) in run.iter().zip(chunks).zip(&mut done) {
            // A run that is cut short says nothing of its first chunks; and a wrong byte may have
            // come from the wire. One more read, of this chunk alone, tells.
            if matches!(result, Err(error) if retried(error))
                && let Some(once_more) = fetch_run(store, vec![chunk], each.clone()).await?.pop()
            {
                *result = once_more;
            }
            if let Some(slot) = results.get_mut(i) {
                *slot = Some(std::mem::replace(result, Err(nothing(store, chunk))));
            }
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// Whether a read of one chunk alone may say more.
fn retried(error: &StoreError) -> bool {
    match error {
        StoreError::Chunk { .. } => true,
        StoreError::Transport(error) => error.kind == TransportErrorKind::OutOfRange,
        _ => false,
    }
}

fn nothing(store: &Store, chunk: Placed) -> StoreError {
    let (location, object) =
        (store.location().to_owned(), paths::pack(chunk.place.pack).to_string());
    StoreError::Incomplete { location, object, by: "a layout".to_owned() }
}

/// How many chunks from the front lie back to back in one pack.
fn run_length(order: &[usize], wanted: &[Placed]) -> usize {
    let mut chunks = order.iter().filter_map(|&i| wanted.get(i));
    let Some(first) = chunks.next() else { return 0 };
    let start = u64::from(first.place.offset);
    let mut end = start + u64::from(first.record.stored_len);
    let mut count = 1;
    for chunk in chunks {
        let next = u64::from(chunk.place.offset) + u64::from(chunk.record.stored_len);
        if chunk.place.pack != first.place.pack
            || u64::from(chunk.place.offset) != end
            || next - start > RUN
        {
            break;
        }
        end = next;
        count += 1;
    }
    count
}

async fn fetch_run<T: Send + 'static>(
    store: &Store,
    chunks: Vec<Placed>,
    each: impl Fn(VerifiedChunk) -> Result<T, crate::chunk::codec::DecodeError> + Send + 'static,
) -> Result<Vec<Result<T, StoreError>>, MaintainError> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(Vec::new()) };
    let pack = first.place.pack;
    let range = u64::from(first.place.offset)
        ..u64::from(last.place.offset) + u64::from(last.record.stored_len);
    let bytes = match read(store, pack, range).await? {
        Ok(bytes) => bytes,
        Err(error) if is_damage(&error) => {
            let again = |_: &Placed| Err(copy_of(store, &error));
            return Ok(chunks.iter().map(again).collect());
        }
        Err(error) => return Err(error.into()),
    };
    let location = store.location().to_owned();
    off_thread(move || {
        let mut bytes = BytesMut::from(bytes);
        let one = |chunk: Placed| {
            let Placed { record, place } = chunk;
            let len = (record.stored_len as usize).min(bytes.len());
            let (pack, offset) = (place.pack.to_hex(), place.offset);
            let location = location.clone();
            match VerifiedChunk::verify(record, bytes.split_to(len)) {
                Ok(chunk) => each(chunk).map_err(|source| StoreError::Decode {
                    location,
                    pack,
                    offset,
                    source,
                }),
                Err(bad) => {
                    Err(StoreError::Chunk { location, pack, offset, source: Box::new(bad.error) })
                }
            }
        };
        chunks.into_iter().map(one).collect()
    })
    .await
}

/// A read that failed for several chunks at once fails each of them.
fn copy_of(store: &Store, error: &StoreError) -> StoreError {
    let StoreError::Transport(error) = error else {
        return StoreError::Incomplete {
            location: store.location().to_owned(),
            object: error.to_string(),
            by: "a layout".to_owned(),
        };
    };
    let (location, object) = (error.location.as_str(), error.object.as_str());
    crate::transport::TransportError::new(error.kind, location, object, error.message.as_str())
        .into()
}
