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
use crate::pack::repeat::{Pack, Repeats, Spot, Verdict};
use crate::pack::writer::{Stored, TARGET, write};
use crate::store::{Lease, Placed, Store, StoreError};

/// Bytes read at a time, and how many such reads are ahead.
const GROUP: u64 = 8 << 20;
const AHEAD: usize = 3;

/// What the store gained.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) packs: u64,
}

/// What becomes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is written.
    Write,
    /// It lies in the store already.
    There(Place),
    /// It lies where that one of the chunks is written.
    Same(usize),
}

/// What becomes of each of these chunks, which are read in this order, by the rule that packing follows too.
/// `known` says where the store has some of them already. Those from `bases` on are what others are stored
/// against: nobody reads them in this order, so that they are linked wherever they are.
pub(super) fn arrange(
    chunks: &[Placed],
    bases: usize,
    known: &HashMap<StoredDigest, Place>,
) -> Vec<Fate> {
    let mut repeats = Repeats::default();
    let mut fates: Vec<Fate> = Vec::with_capacity(chunks.len());
    // Where they would lie if packs were as long as offsets reach.
    let mut spots: Vec<Spot> = Vec::with_capacity(chunks.len());
    let (mut number, mut offset) = (0, 0_u32);
    let mut first = HashMap::<StoredDigest, usize>::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let (stored, len) = (chunk.record.stored, chunk.record.stored_len);
        let own = *first.entry(stored).or_insert(index);
        let old = |place: &Place| Spot { pack: Pack::Old(place.pack), offset: place.offset };
        let at = known.get(&stored).map(old).or(spots.get(own).copied());
        if offset.checked_add(len).is_none() {
            (number, offset) = (number + 1, 0);
        }
        let verdict = match at {
            None => {
                repeats.end();
                Verdict::Write
            }
            Some(_) if index >= bases => Verdict::Link(Vec::new()),
            Some(at) => repeats.again(at, len),
        };
        let link = |stored: &StoredDigest, own| match known.get(stored) {
            Some(place) => Fate::There(*place),
            None => Fate::Same(own),
        };
        match (verdict, at) {
            (Verdict::Link(back), Some(at)) => {
                // The repetition is right before this chunk.
                let begin = index.saturating_sub(back.len());
                let run = chunks.iter().zip(&mut fates).zip(&mut spots).skip(begin).zip(back);
                for (((chunk, fate), spot), back) in run {
                    let stored = &chunk.record.stored;
                    *fate = link(stored, first.get(stored).copied().unwrap_or(index));
                    offset = offset.min(spot.offset);
                    *spot = back;
                }
                fates.push(link(&stored, own));
                spots.push(at);
            }
            _ => {
                fates.push(Fate::Write);
                spots.push(Spot { pack: Pack::New(number), offset });
                offset += len;
            }
        }
    }
    fates
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
) -> Result<Stored, MaintainError> {
    let chunks: Vec<_> = index.placed(id).collect();
    let parts = fetch_right(source, artifact, &chunks).await?;
    let bytes = index.data_len();
    let parts = followed_by(parts);
    let stored = write(target.clone(), lease.clone(), index, parts).await?;
    progress.advance(bytes);
    Ok(stored)
}

/// The chunks, and then the end of their pack.
fn followed_by(mut chunks: Vec<Bytes>) -> impl FnOnce(Bytes) -> Vec<Bytes> + Send {
    move |end| {
        chunks.push(end);
        chunks
    }
}

/// Writes those of the chunks whose fate it is into new packs, in this order, and says where each lies then.
pub(super) async fn rewrite(
    (source, artifact): (&Store, ManifestId),
    chunks: &[Placed],
    fates: &[Fate],
    target: &Store,
    lease: &Lease,
    progress: &dyn Progress,
) -> Result<(Vec<Place>, Written), MaintainError> {
    let is_written = |(_, fate): &(&Placed, &Fate)| **fate == Fate::Write;
    let written: Vec<Placed> =
        chunks.iter().zip(fates).filter(is_written).map(|(chunk, _)| *chunk).collect();
    let read = |group: Vec<Placed>| async move {
        // What comes again in it is read once.
        let mut own = Vec::new();
        let mut first = HashMap::new();
        for chunk in &group {
            first.entry(chunk.record.stored).or_insert_with(|| {
                own.push(*chunk);
                own.len() - 1
            });
        }
        let stored = fetch_right(source, artifact, &own).await?;
        let bytes = |chunk: &Placed| {
            let at = first.get(&chunk.record.stored)?;
            stored.get(*at).cloned()
        };
        let all: Option<Vec<Bytes>> = group.iter().map(bytes).collect();
        Ok::<_, MaintainError>((group, all.ok_or(MaintainError::Worker)?))
    };
    let mut groups = stream::iter(groups(&written)).map(read).buffered(AHEAD);
    let mut sink = Sink {
        target,
        lease,
        index: PackIndex::new(0),
        parts: Vec::new(),
        sealed: 0,
        spots: Vec::with_capacity(written.len()),
        writing: VecDeque::new(),
        packs: Vec::new(),
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
    let Sink { packs, spots, written, .. } = sink;
    let new = |(pack, offset): (usize, u32)| Some(Place { pack: *packs.get(pack)?, offset });
    let mut spots = spots.into_iter();
    let mut places: Vec<Option<Place>> = Vec::with_capacity(chunks.len());
    for fate in fates {
        let place = match *fate {
            Fate::Write => spots.next().and_then(new),
            Fate::There(place) => Some(place),
            // That one comes before.
            Fate::Same(at) => places.get(at).copied().flatten(),
        };
        places.push(place);
    }
    let nowhere = |(chunk, place): (&Placed, Option<Place>)| {
        place.ok_or(MaintainError::Nowhere { artifact, stored: chunk.record.stored })
    };
    let places = chunks.iter().zip(places).map(nowhere).collect::<Result<_, _>>()?;
    Ok((places, written))
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
    /// Packs before this one.
    sealed: usize,
    /// Pack and offset of each chunk.
    spots: Vec<(usize, u32)>,
    writing: VecDeque<JoinHandle<Result<Stored, StoreError>>>,
    packs: Vec<PackId>,
    written: Written,
}

impl Sink<'_> {
    async fn push(&mut self, chunk: &Placed, stored: Bytes) -> Result<(), MaintainError> {
        let len = chunk.record.stored_len;
        if self.index.data_len() + u64::from(len) > TARGET || !self.index.has_room(len) {
            self.seal().await?;
        }
        // An empty pack has room for any chunk.
        if let Some(offset) = self.index.push(chunk.record) {
            self.parts.push(stored);
            self.spots.push((self.sealed, offset));
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
        self.sealed += 1;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), MaintainError> {
        let Some(task) = self.writing.pop_front() else { return Ok(()) };
        let stored = task.await.map_err(|_| MaintainError::Worker)??;
        self.written.bytes += stored.new_bytes;
        self.written.packs += u64::from(stored.new_bytes > 0);
        // They are settled in the order in which they were sealed.
        self.packs.push(stored.id);
        Ok(())
    }
}

/// Each distinct chunk once, in this order.
pub(super) fn distinct(chunks: impl IntoIterator<Item = Placed>) -> Vec<Placed> {
    let mut seen = HashSet::new();
    chunks.into_iter().filter(|chunk| seen.insert(chunk.record.stored)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use crate::format::record::ChunkRecord;

    /// Chunks of that content and length.
    fn chunks(parts: &[(u8, u32)]) -> Vec<Placed> {
        let chunk = |(at, &(content, len)): (usize, &(u8, u32))| Placed {
            record: ChunkRecord::raw(Dtype::U8, len, blake3::hash(&[content])),
            place: Place { pack: PackId::of(b"source"), offset: at as u32 },
        };
        parts.iter().enumerate().map(chunk).collect()
    }

    #[test]
    fn short_repetitions_are_written_and_long_ones_linked() {
        const LONG: u32 = 200 << 10;
        let all = chunks(&[(1, LONG), (2, LONG), (3, 4), (1, LONG), (3, 4), (1, LONG), (2, LONG)]);
        let fates = arrange(&all, all.len(), &HashMap::new());
        let same = [Fate::Same(0), Fate::Same(1)];
        assert_eq!(fates, [[Fate::Write; 5].as_slice(), &same].concat());
        let bases = arrange(&all, 4, &HashMap::new());
        assert_eq!(bases[4], Fate::Same(2), "nobody reads on behind a base");
    }

    #[test]
    fn what_is_there_is_linked_where_it_is_long() {
        let all = chunks(&[(1, 300 << 10), (2, 4), (3, 300 << 10), (4, 100 << 10), (5, 200 << 10)]);
        let there = |content: u8, offset| {
            let pack = PackId::of(b"target");
            (crate::format::id::StoredDigest::of(&[content]), Place { pack, offset })
        };
        let known = HashMap::from([
            there(1, 0),
            there(2, 900),
            there(4, 1000),
            there(5, 1000 + (100 << 10)),
        ]);
        let fates = arrange(&all, all.len(), &known);
        let at = |offset| Fate::There(Place { pack: PackId::of(b"target"), offset });
        assert_eq!(fates, [at(0), Fate::Write, Fate::Write, at(1000), at(1000 + (100 << 10))]);
    }
}
