//! Writing chunks that were read from some store into packs of another, or of the same.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

use super::chunks::fetch_right;
use super::error::MaintainError;
use crate::format::id::{ManifestId, PackId, StoredDigest};
use crate::format::layout::Place;
use crate::format::pack::PackIndex;
use crate::pack::Progress;
use crate::pack::writer::{Stored, TARGET, write};
use crate::store::{Lease, Placed, Store, StoreError};

/// Bytes read at a time, and how many such reads are ahead.
const GROUP: u64 = 8 << 20;
const AHEAD: usize = 3;

/// Where chunks went, and what the store gained.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) places: HashMap<StoredDigest, Place>,
    pub(super) bytes: u64,
    pub(super) packs: u64,
}

impl Written {
    fn add(&mut self, stored: Stored) {
        self.bytes += stored.new_bytes;
        self.packs += u64::from(stored.new_bytes > 0);
        for (digest, offset) in stored.places {
            self.places.insert(digest, Place { pack: stored.id, offset });
        }
    }
}

/// Copies a whole pack, every chunk of it verified on the way. It keeps its name, unless that is
/// marked for deletion over there.
pub(super) async fn copy_pack(
    (source, artifact): (&Store, ManifestId),
    id: PackId,
    index: PackIndex,
    target: &Store,
    lease: &Lease,
    progress: &dyn Progress,
) -> Result<Written, MaintainError> {
    let chunks: Vec<_> = index.placed(id).collect();
    let parts = fetch_right(source, artifact, &chunks).await?;
    let bytes = index.data_len();
    let mut written = Written::default();
    let parts = followed_by(parts);
    written.add(write(target.clone(), lease.clone(), index, parts).await?);
    progress.advance(bytes);
    Ok(written)
}

/// The chunks, and then the end of their pack.
fn followed_by(mut chunks: Vec<Bytes>) -> impl FnOnce(Bytes) -> Vec<Bytes> + Send {
    move |end| {
        chunks.push(end);
        chunks
    }
}

/// Writes these chunks, each of which must be there once, into new packs, in this order.
pub(super) async fn rewrite(
    (source, artifact): (&Store, ManifestId),
    chunks: &[Placed],
    target: &Store,
    lease: &Lease,
    progress: &dyn Progress,
) -> Result<Written, MaintainError> {
    let read = |group: Vec<Placed>| async move {
        let stored = fetch_right(source, artifact, &group).await?;
        Ok::<_, MaintainError>((group, stored))
    };
    let mut groups = stream::iter(groups(chunks)).map(read).buffered(AHEAD);
    let mut sink = Sink {
        target,
        lease,
        index: PackIndex::new(0),
        parts: Vec::new(),
        writing: VecDeque::new(),
        written: Written::default(),
    };
    while let Some((group, stored)) = groups.try_next().await? {
        for (chunk, stored) in group.iter().zip(stored) {
            sink.push(chunk, stored).await?;
            progress.advance(u64::from(chunk.record.stored_len));
        }
    }
    sink.seal().await?;
    while !sink.writing.is_empty() {
        sink.settle().await?;
    }
    Ok(sink.written)
}

fn groups(chunks: &[Placed]) -> Vec<Vec<Placed>> {
    let (mut groups, mut group, mut sum) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        let len = u64::from(chunk.record.stored_len);
        if sum + len > GROUP && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            sum = 0;
        }
        group.push(*chunk);
        sum += len;
    }
    groups.extend((!group.is_empty()).then_some(group));
    groups
}

struct Sink<'a> {
    target: &'a Store,
    lease: &'a Lease,
    index: PackIndex,
    parts: Vec<Bytes>,
    writing: VecDeque<JoinHandle<Result<Stored, StoreError>>>,
    written: Written,
}

impl Sink<'_> {
    async fn push(&mut self, chunk: &Placed, stored: Bytes) -> Result<(), MaintainError> {
        let len = chunk.record.stored_len;
        if self.index.data_len() + u64::from(len) > TARGET || !self.index.has_room(len) {
            self.seal().await?;
        }
        // An empty pack has room for any chunk.
        if self.index.push(chunk.record).is_some() {
            self.parts.push(stored);
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<(), MaintainError> {
        let index = std::mem::replace(&mut self.index, PackIndex::new(0));
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return Ok(());
        }
        while self.writing.len() >= self.target.transport().writes_at_once() {
            self.settle().await?;
        }
        let parts = followed_by(parts);
        let write = write(self.target.clone(), self.lease.clone(), index, parts);
        self.writing.push_back(tokio::spawn(write));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), MaintainError> {
        let Some(task) = self.writing.pop_front() else { return Ok(()) };
        self.written.add(task.await.map_err(|_| MaintainError::Worker)??);
        Ok(())
    }
}

/// Each distinct chunk once, in this order.
pub(super) fn distinct(chunks: impl IntoIterator<Item = Placed>) -> Vec<Placed> {
    let mut seen = HashSet::new();
    chunks.into_iter().filter(|chunk| seen.insert(chunk.record.stored)).collect()
}
