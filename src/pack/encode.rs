//! From groups of a unit's chunks to what is stored: read, looked for, encoded. Runs on the workers.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::base::{Below, Linked};
use super::cut::{self, Group};
use super::error::PackError;
use super::hash::Turns;
use super::held::Held;
use super::link::{self, Finder};
use super::pool::Worker;
use super::writer::Room;
use crate::chunk::codec::{Against, CodecChoice, Encoded};
use crate::format::dtype::Dtype;
use crate::format::id::DecodedDigest;
use crate::format::record::{Base, ChunkRecord};
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;
use crate::store::StoreError;

/// A chunk that was encoded, was read where it is stored, or was found.
pub(super) enum Chunk {
    /// With what it is stored against.
    New(Encoded, Option<Linked>),
    Read(ChunkRecord, Room),
    Known(Linked),
}

/// A group of chunks of one unit, to be read.
pub(super) struct Reading {
    pub(super) unit: Held,
    pub(super) element: Dtype,
    pub(super) group: Group,
}

impl Reading {
    fn read(&self, rooms: &mut [Slot], buffers: &Buffers) -> Result<Option<Bytes>, PackError> {
        let read = cut::read(&self.unit, &self.group, rooms, buffers);
        read.map_err(|error| self.unit.error(error))
    }

    /// Chunks that are stored as they are, each read where it lies in its pack.
    pub(super) fn in_place(
        self,
        mut rooms: Vec<Room>,
        turns: Turns,
        buffers: &Buffers,
    ) -> Result<Vec<Chunk>, PackError> {
        let mut bytes: Vec<_> = rooms.iter_mut().map(|r| std::mem::take(&mut r.bytes)).collect();
        let run = self.read(&mut bytes, buffers)?;
        // A chunk is at most 4 MiB.
        let record =
            |chunk: &Slot| ChunkRecord::raw(self.element, chunk.len() as u32, blake3::hash(chunk));
        turns.hash(run, &bytes);
        let records: Vec<_> = bytes.iter().map(record).collect();
        for (room, bytes) in rooms.iter_mut().zip(bytes) {
            room.bytes = bytes;
        }
        Ok(records.into_iter().zip(rooms).map(|(record, room)| Chunk::Read(record, room)).collect())
    }

    /// Chunks that `encode` makes the most of.
    pub(super) fn encoded(
        self,
        turns: Turns,
        buffers: &Buffers,
        encode: impl FnOnce(&[Bytes]) -> Result<Vec<Chunk>, PackError>,
    ) -> Result<Vec<Chunk>, PackError> {
        // A chunk is at most 4 MiB.
        let rects = self.group.rects.iter();
        let mut rooms: Vec<_> = rects.map(|rect| buffers.take(rect.len() as usize)).collect();
        let run = self.read(&mut rooms, buffers)?;
        let decoded: Vec<_> = rooms.into_iter().map(Bytes::from).collect();
        turns.hash(run, &decoded);
        encode(&decoded)
    }
}

/// How the chunks of a group are encoded.
pub(super) struct Encoding {
    pub(super) finder: Arc<Finder>,
    pub(super) runtime: Handle,
    pub(super) choice: CodecChoice,
    pub(super) element: Dtype,
    pub(super) below: Option<Below>,
}

impl Encoding {
    /// What becomes of each chunk: found, or encoded, against its partner's where there is one.
    pub(super) fn encode(
        &self,
        worker: &mut Worker,
        decoded: &[Bytes],
    ) -> Result<Vec<Chunk>, PackError> {
        let (choice, element) = (self.choice, self.element);
        let mut chunks = Vec::with_capacity(decoded.len());
        for decoded in decoded {
            chunks.push(self.known(decoded)?.map(Chunk::Known));
        }
        let missing: Vec<usize> =
            (0..).zip(&chunks).filter(|c| c.1.is_none()).map(|c| c.0).collect();
        let Worker { encoder, bases, .. } = worker;
        let mut encode = |index: usize, below: Option<(&Linked, &[u8])>| {
            let against = below.map(|(linked, decoded)| {
                let record = &linked.chunk.record;
                let base = Base { decoded: record.decoded, depth: record.depth() + 1 };
                Against { base, decoded }
            });
            let encoded = encoder.encode(choice, element, decoded[index].clone(), against);
            let below = below.filter(|_| encoded.record.base.is_some());
            chunks[index] = Some(Chunk::New(encoded, below.map(|(linked, _)| linked.clone())));
        };
        match self.below.as_ref().filter(|_| matches!(choice, CodecChoice::Auto)) {
            None => missing.into_iter().for_each(|index| encode(index, None)),
            Some(below) => {
                let usable =
                    async |below: &Linked| self.finder.linkable().all(&below.packs()).await;
                let store = self.finder.store();
                self.runtime.block_on(below.each(store, &missing, usable, bases, encode))?;
            }
        }
        Ok(chunks.into_iter().flatten().collect())
    }

    /// The chunk that an interrupted run or the base artifact has for these bytes, if it may be linked.
    fn known(&self, decoded: &[u8]) -> Result<Option<Linked>, PackError> {
        if !self.finder.has_chunks() {
            return Ok(None);
        }
        let Some(linked) = self.finder.chunk(&DecodedDigest::of(decoded)) else { return Ok(None) };
        if !link::fits(&linked.chunk.record, self.element, self.choice) {
            return Ok(None);
        }
        let usable = self.runtime.block_on(async {
            let there = self.finder.linkable().all(&linked.packs()).await?;
            Ok::<_, StoreError>(there && (linked.trusted || self.finder.compare(&linked).await?))
        })?;
        Ok(usable.then_some(linked))
    }
}
