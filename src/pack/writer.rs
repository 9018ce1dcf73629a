//! Writing packs: chunks in load order, sealed at about 16 MiB, stored while the next one fills.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::PackError;
use super::repeat::{Pack, Repeats, Spot, Verdict};
use crate::chunk::codec::Encoded;
use crate::format::id::{PackId, StoredDigest};
use crate::format::layout::Place;
use crate::format::pack::{PackIndex, Trailer};
use crate::format::record::ChunkRecord;
use crate::format::store as paths;
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;
use crate::store::{Lease, Store, StoreError};

/// A quarter of what the format allows: long enough for a request of its own, and a load that asks
/// for packs whole keeps few bytes on their way.
pub(crate) const TARGET: u64 = 16 << 20;
/// Room for a pack with its index, mostly.
const BUFFER: usize = (TARGET as usize) + (64 << 10);
/// Chunks that are placed in one pack before they are read.
const MAX_RESERVED: usize = 1 << 16;

/// What a pack's writing added to the store.
pub(crate) struct Stored {
    pub(crate) id: PackId,
    pub(crate) new_bytes: u64,
}

/// A chunk of the artifact, by when it was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpotIndex(u32);

/// Where chunks lie.
#[derive(Debug, Default)]
pub(super) struct Places {
    spots: Vec<Spot>,
    /// Of chunks that were placed several times, the first.
    first: HashMap<StoredDigest, SpotIndex>,
    /// The names of the new packs.
    packs: Vec<PackId>,
}

impl Places {
    /// Where a chunk lies.
    pub(super) fn get(&self, index: SpotIndex) -> Option<Place> {
        let Spot { pack, offset } = *self.spots.get(index.0 as usize)?;
        let pack = match pack {
            Pack::Old(pack) => pack,
            Pack::New(number) => *self.packs.get(number as usize)?,
        };
        Some(Place { pack, offset })
    }

    /// Where the chunk of that digest lies that was placed first.
    pub(super) fn find(&self, stored: &StoredDigest) -> Option<Place> {
        self.get(*self.first.get(stored)?)
    }

    fn push(&mut self, record: &ChunkRecord, spot: Spot) -> SpotIndex {
        // A table has at most 2^28 records.
        let index = SpotIndex(self.spots.len() as u32);
        self.spots.push(spot);
        self.first.entry(record.stored).or_insert(index);
        index
    }
}

/// Where a chunk of known stored length is read: its own place in its pack.
pub(super) struct Room {
    pub(super) bytes: Slot,
    /// If it begins a pack: the memory of the pack before that nothing was reserved of.
    begins: Option<Slot>,
}

/// The pack that room is reserved in.
#[derive(Default)]
struct Reserving {
    rest: Slot,
    len: u64,
    chunks: usize,
}

/// Gathers chunks into packs and stores them. Either all of them come with room that was reserved, in
/// that order, or none.
pub(super) struct PackWriter {
    store: Store,
    lease: Lease,
    runtime: Handle,
    index: PackIndex,
    /// The chunks of `index`, back to back, and further bytes behind them.
    data: Slot,
    reserving: Reserving,
    buffers: Buffers,
    places: Places,
    repeats: Repeats,
    /// The chunks of the unit that is being added, and which unit that is: a load has them together, so that none
    /// of them need come twice.
    unit: (usize, HashMap<StoredDigest, SpotIndex>),
    /// Packs before the one that is being filled.
    sealed: u32,
    writing: VecDeque<JoinHandle<Result<Stored, StoreError>>>,
    new_bytes: u64,
}

impl PackWriter {
    pub(super) fn new(store: Store, lease: Lease, runtime: Handle) -> Self {
        Self {
            lease,
            runtime,
            index: PackIndex::new(0),
            data: Slot::default(),
            reserving: Reserving::default(),
            buffers: Buffers::new((store.transport().writes_at_once() + 1) * BUFFER),
            places: Places::default(),
            repeats: Repeats::default(),
            unit: (0, HashMap::new()),
            sealed: 0,
            writing: VecDeque::new(),
            new_bytes: 0,
            store,
        }
    }

    /// What is added from now on is of that unit.
    pub(super) fn begin(&mut self, unit: usize) {
        if self.unit.0 != unit {
            self.unit.0 = unit;
            self.unit.1.clear();
        }
    }

    /// Links a chunk that the store has already.
    pub(super) fn link(&mut self, record: &ChunkRecord, place: Place) -> SpotIndex {
        let spot = Spot { pack: Pack::Old(place.pack), offset: place.offset };
        self.repeats.link(spot, record.stored_len);
        self.places.push(record, spot)
    }

    /// Notes where a chunk lies that others are stored against.
    pub(super) fn note(&mut self, record: &ChunkRecord, place: Place) {
        if !self.places.first.contains_key(&record.stored) {
            let spot = Spot { pack: Pack::Old(place.pack), offset: place.offset };
            self.places.push(record, spot);
        }
    }

    /// Room for the next chunk, which is stored as `len` bytes.
    pub(super) fn reserve(&mut self, len: u32) -> Room {
        let pack = &mut self.reserving;
        let full = pack.len + u64::from(len) > TARGET || pack.chunks == MAX_RESERVED;
        let mut begins = None;
        if full || pack.chunks == 0 {
            let next = Reserving { rest: self.buffers.take(BUFFER), len: 0, chunks: 0 };
            begins = Some(std::mem::replace(pack, next).rest);
        }
        pack.len += u64::from(len);
        pack.chunks += 1;
        // Any chunk is shorter than an empty pack.
        let bytes = pack.rest.split_to(pack.rest.len().min(len as usize));
        Room { bytes, begins }
    }

    /// Adds a chunk that was read where it belongs, or links it.
    pub(super) fn push_read(
        &mut self,
        record: ChunkRecord,
        room: Room,
    ) -> Result<SpotIndex, PackError> {
        if let Some(rest) = room.begins {
            self.seal(rest)?;
        }
        let (from, len) = (self.data.len(), room.bytes.len());
        // Rooms of a pack lie back to back; of one that is left out, the place is used by those behind it.
        self.data.join(room.bytes).map_err(|_| PackError::Short)?;
        if let Some(linked) = self.linked(&record) {
            return Ok(linked);
        }
        let (index, at) = self.place(record)?;
        if at != from {
            self.data.copy_within(from..from + len, at);
        }
        Ok(index)
    }

    /// Adds a chunk, or links it.
    pub(super) fn push(&mut self, chunk: Encoded) -> Result<SpotIndex, PackError> {
        let Encoded { record, stored } = chunk;
        if let Some(linked) = self.linked(&record) {
            return Ok(linked);
        }
        let full = self.index.data_len() + u64::from(record.stored_len) > TARGET;
        if full || !self.index.has_room(record.stored_len) {
            self.seal(Slot::default())?;
        }
        let (index, at) = self.place(record)?;
        if self.data.is_empty() {
            self.data = self.buffers.take(BUFFER);
        }
        self.data[at..at + stored.len()].copy_from_slice(&stored);
        Ok(index)
    }

    /// Places a chunk behind the others of its pack, and says where.
    fn place(&mut self, record: ChunkRecord) -> Result<(SpotIndex, usize), PackError> {
        // An empty pack has room for any chunk.
        let offset = self.index.push(record).ok_or(PackError::Short)?;
        let spot = Spot { pack: Pack::New(self.sealed), offset };
        let index = self.places.push(&record, spot);
        self.unit.1.insert(record.stored, index);
        Ok((index, offset as usize))
    }

    /// The spot of a chunk that was placed before and is not to be written again.
    fn linked(&mut self, record: &ChunkRecord) -> Option<SpotIndex> {
        if let Some(own) = self.unit.1.get(&record.stored) {
            // It stays where it is.
            self.repeats.seal();
            let spot = *self.places.spots.get(own.0 as usize)?;
            return Some(self.places.push(record, spot));
        }
        let first = self.places.first.get(&record.stored).copied();
        let own = first.and_then(|first| self.places.spots.get(first.0 as usize).copied());
        let Some(at) = own else {
            self.repeats.end();
            return None;
        };
        let Verdict::Link(back) = self.repeats.again(at, record.stored_len) else { return None };
        self.index.take_back(back.len());
        let first = self.places.spots.len().saturating_sub(back.len());
        self.places.spots.truncate(first);
        self.places.spots.extend(back);
        Some(self.places.push(record, at))
    }

    /// Stores the pack that is full; `rest` is its memory beyond what is in `data`.
    fn seal(&mut self, rest: Slot) -> Result<(), PackError> {
        let index = std::mem::replace(&mut self.index, PackIndex::new(0));
        let mut data = std::mem::take(&mut self.data);
        let filled = index.data_len() as usize;
        if filled == 0 {
            return Ok(());
        }
        self.repeats.seal();
        self.sealed += 1;
        data.join(rest).map_err(|_| PackError::Short)?;
        while self.writing.len() >= self.store.transport().writes_at_once() {
            self.settle_one()?;
        }
        let (store, lease) = (self.store.clone(), self.lease.clone());
        let parts = move |end: Bytes| {
            let mut behind = data.split_off(filled);
            match behind.get_mut(..end.len()) {
                Some(room) => {
                    room.copy_from_slice(&end);
                    drop(behind.split_off(end.len()));
                    // They lie back to back.
                    drop(data.join(behind));
                    vec![data.into()]
                }
                None => vec![data.into(), end],
            }
        };
        let write = write(store, lease, index, parts);
        self.writing.push_back(self.runtime.spawn(write));
        Ok(())
    }

    fn settle_one(&mut self) -> Result<(), PackError> {
        let Some(task) = self.writing.pop_front() else { return Ok(()) };
        let stored = self.runtime.block_on(task).map_err(|_| super::pool::WorkerFailed)??;
        self.new_bytes += stored.new_bytes;
        // They are settled in the order in which they were sealed.
        self.places.packs.push(stored.id);
        Ok(())
    }

    /// Stores what is left; returns every chunk's place and how many bytes the store gained.
    pub(super) fn finish(mut self) -> Result<(Places, u64), PackError> {
        let rest = std::mem::take(&mut self.reserving.rest);
        self.seal(rest)?;
        while !self.writing.is_empty() {
            self.settle_one()?;
        }
        Ok((std::mem::take(&mut self.places), self.new_bytes))
    }
}

/// What is on its way arrives before anything is done about a failure.
impl Drop for PackWriter {
    fn drop(&mut self) {
        for task in self.writing.drain(..) {
            // Whoever dropped it has an error to tell already.
            drop(self.runtime.block_on(task));
        }
    }
}

/// Stores one pack. It is in the lease before anything else looks at it, and never takes the name
/// of a pack that is marked for deletion. `parts` is given the bytes after the chunks and returns the
/// whole pack.
pub(crate) async fn write(
    store: Store,
    lease: Lease,
    mut index: PackIndex,
    parts: impl FnOnce(Bytes) -> Vec<Bytes> + Send,
) -> Result<Stored, StoreError> {
    loop {
        let bytes = index.to_bytes();
        let id = PackId::of(&bytes);
        let path = paths::pack(id);
        lease.add([path.clone()]).await?;
        if store.transport().head(&paths::tombstone(&path)).await?.is_some() {
            let nonce = index.nonce() + 1;
            index = index.with_nonce(nonce);
            continue;
        }
        let trailer = Trailer { index_len: bytes.len() as u32 };
        let len = index.data_len() + bytes.len() as u64 + Trailer::LEN;
        let present = store.transport().head(&path).await?;
        if present.as_ref().is_some_and(|info| info.size == len) {
            return Ok(Stored { id, new_bytes: 0 });
        }
        let end = [&bytes[..], &trailer.to_bytes()].concat();
        store.transport().put(&path, parts(end.into())).await?;
        if present.is_none() {
            lease.wrote(path).await;
        }
        return Ok(Stored { id, new_bytes: len });
    }
}

/// Places that other artifacts or interrupted runs have for chunks, and packs that may be linked.
pub(super) struct Linkable {
    store: Store,
    lease: Lease,
    known: tokio::sync::Mutex<HashMap<PackId, bool>>,
}

impl Linkable {
    pub(super) fn new(store: Store, lease: Lease) -> Arc<Self> {
        Arc::new(Self { store, lease, known: tokio::sync::Mutex::default() })
    }

    /// Whether all these packs exist and none is marked for deletion; they are in the lease before
    /// that is looked at.
    pub(super) async fn all(&self, packs: &HashSet<PackId>) -> Result<bool, StoreError> {
        let mut known = self.known.lock().await;
        let unknown: Vec<_> = packs.iter().filter(|id| !known.contains_key(id)).copied().collect();
        if !unknown.is_empty() {
            self.lease.add(unknown.iter().map(|id| paths::pack(*id))).await?;
        }
        for id in unknown {
            let path = paths::pack(id);
            let marked = self.store.transport().head(&paths::tombstone(&path)).await?.is_some();
            let usable = !marked && self.store.transport().head(&path).await?.is_some();
            known.insert(id, usable);
        }
        Ok(packs.iter().all(|id| known.get(id) == Some(&true)))
    }
}
