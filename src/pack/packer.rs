//! The packer: units of files, looked up and linked or encoded, until all of them have records.
//!
//! One file: its steps share the state of one pack run.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::base::{BaseArtifact, Bases, Below, Linked};
use super::cut::{self, Cut, Group};
use super::encode::{self, Chunk, Reading};
use super::error::PackError;
use super::found::{BRIDGE, Found, Key};
use super::hash::{self, Hashing, Turns};
use super::held::Held;
use super::input::{Input, PartSource};
use super::known::KnownFile;
use super::link::{self, Finder};
use super::model::{Part, PartKind};
use super::options::{PackOptions, Progress};
use super::pool::{InOrder, Pending, Pool, WorkerFailed};
use super::unit::{MIN_HINT, Unit};
use super::writer::{Linkable, PackWriter, Places, SpotIndex};
use crate::chunk::codec::CodecChoice;
use crate::format::dtype::Dtype;
use crate::format::grid::Grid;
use crate::format::id::{ContentDigest, DecodedDigest, PackId};
use crate::format::page::FileEntry;
use crate::format::record::ChunkRecord;
use crate::memory::buffers::Buffers;
use crate::schedule::tensor_parallel::choose_grid;
use crate::store::{Lease, Placed, Store, StoreError, candidates};

/// A run of chunks that the store already has is linked from this length on, in bytes; a shorter
/// one is written again, because each run costs every later load a request.
const MIN_RUN: u64 = 1 << 20;
/// Bytes that are being encoded or wait for their pack.
const AHEAD: u64 = 48 << 20;
/// Buffers kept for them.
const BUFFERS: usize = 128 << 20;

/// The units of a part with their bytes.
type Units = Vec<(Unit, Held, Looking)>;

/// A unit with the records of its chunks.
pub(super) struct Done {
    pub(super) unit: Unit,
    /// Of no bytes, until a unit that is hashed while it is encoded has come to its end.
    pub(super) digest: ContentDigest,
    pub(super) records: Vec<ChunkRecord>,
    /// Where they were placed.
    pub(super) spots: Vec<SpotIndex>,
    /// Whether its chunks were written, rather than linked.
    pub(super) written: bool,
}

enum Looking {
    Not,
    Pending(tokio::task::JoinHandle<Result<Option<Found>, StoreError>>),
}

/// The units of a part of a file, on their way.
type PendingUnits = Pending<Result<Units, PackError>>;

/// A group of chunks of unit `at` of the done ones, on its way.
struct Encoding {
    at: usize,
    len: u64,
    chunks: Pending<Result<Vec<Chunk>, PackError>>,
}

/// The digest of a unit that is hashed while it is encoded.
type Digesting = Arc<InOrder<blake3::Hasher>>;

pub(super) struct Packer<'a> {
    options: Arc<PackOptions>,
    runtime: &'a Handle,
    progress: &'a dyn Progress,
    pool: Pool,
    finder: Arc<Finder>,
    fresh: bool,
    /// Whether chunks are stored as they are, all of them new: each is read where it is stored.
    in_place: bool,
    writer: PackWriter,
    done: Vec<Done>,
    encoding: VecDeque<Encoding>,
    /// Bytes of `encoding`.
    under_way: u64,
    digesting: Vec<(usize, Digesting)>,
    /// Of each file that was begun.
    hashing: Vec<Hashing>,
    /// Units that were found, behind each other, and are too short a run so far; and small ones between them
    /// that were not.
    run: Vec<(Unit, Held, Option<Found>)>,
    run_bytes: u64,
    /// Bytes of the units between them.
    bridged: u64,
    /// The last unit of the long run that is being linked.
    linked: Option<Found>,
    bases: Bases,
    /// The packs of files that are taken over.
    known: HashSet<PackId>,
    buffers: Buffers,
    window: usize,
}

pub(super) struct Packed {
    pub(super) options: Arc<PackOptions>,
    pub(super) files: Vec<(FileEntry, Vec<ChunkRecord>)>,
    pub(super) done: Vec<Done>,
    pub(super) places: Places,
    pub(super) bases: HashMap<DecodedDigest, ChunkRecord>,
    pub(super) new_bytes: u64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        store: &Store,
        lease: &Lease,
        fresh: bool,
        options: Arc<PackOptions>,
        runtime: &'a Handle,
        progress: &'a dyn Progress,
    ) -> Result<Self, PackError> {
        let linkable = Linkable::new(store.clone(), lease.clone());
        let mut chunks = HashMap::new();
        if !fresh {
            let packs = runtime.block_on(candidates(store))?;
            chunks = runtime.block_on(link::left_behind(store, packs))?;
        }
        let read = |id| runtime.block_on(BaseArtifact::read(store, &options.trust, id));
        let base = options.base.map(read).transpose()?.map(Arc::new);
        let finder = Finder::new(store.clone(), options.clone(), linkable, chunks, base);
        let finder = Arc::new(finder);
        let writer = PackWriter::new(store.clone(), lease.clone(), runtime.clone());
        let threads = options.threads.max(1);
        let in_place = fresh && !finder.has_chunks() && options.codec == CodecChoice::Raw;
        Ok(Self {
            in_place,
            options,
            runtime,
            progress,
            pool: Pool::new(threads),
            finder,
            fresh,
            writer,
            done: Vec::new(),
            encoding: VecDeque::new(),
            under_way: 0,
            digesting: Vec::new(),
            hashing: Vec::new(),
            run: Vec::new(),
            run_bytes: 0,
            bridged: 0,
            linked: None,
            bases: Bases::default(),
            known: HashSet::new(),
            buffers: Buffers::new(BUFFERS),
            window: 2 * threads + 4,
        })
    }

    pub(super) fn run(
        mut self,
        files: &[Input],
        maker: &mut dyn PartSource,
    ) -> Result<Packed, PackError> {
        // Units being digested or looked up, in order; enough to keep every thread busy.
        let mut ahead = VecDeque::new();
        for file in files {
            let Input::Known(known) = file else { continue };
            let packs = known.packs();
            if !self.runtime.block_on(self.finder.linkable().all(&packs))? {
                return Err(PackError::Gone(known.path().to_owned()));
            }
            self.known.extend(packs);
        }
        for (i, file) in files.iter().enumerate() {
            self.hashing.push(Hashing::begin(file, self.options.sha256, &self.pool));
            if let Input::Known(known) = file {
                while !ahead.is_empty() {
                    self.take(&mut ahead)?;
                }
                self.take_over(i, known)?;
            }
            for (number, part) in file.parts().iter().enumerate() {
                let held = match file {
                    Input::File(file) => Held::File { file: file.clone(), offset: part.offset },
                    Input::Made(_) => maker.make(i, number)?,
                    Input::Known(_) => continue,
                };
                ahead.push_back(self.analyse(i, file.path(), part, held));
                if ahead.len() > self.window {
                    self.take(&mut ahead)?;
                }
            }
        }
        while !ahead.is_empty() {
            self.take(&mut ahead)?;
        }
        self.flush_run()?;
        while !self.encoding.is_empty() {
            self.settle_group()?;
        }
        for (at, digesting) in std::mem::take(&mut self.digesting) {
            let digest = digesting.read(|hasher| ContentDigest::from_hash(hasher.finalize()));
            self.done[at].digest = digest;
        }
        maker.finish()?;
        let mut entries = Vec::with_capacity(files.len());
        for (file, hashing) in files.iter().zip(self.hashing) {
            let hashes = hashing.wait(file)?;
            if let Input::File(file) = file {
                file.check_unchanged()?;
            }
            let entry = FileEntry {
                path: file.path().to_owned(),
                executable: file.executable(),
                size: file.size(),
                sha256: hashes.sha256,
                git_sha1: hashes.git_sha1,
                extents: Vec::new(),
            };
            entries.push((entry, Vec::new()));
        }
        let (places, new_bytes) = self.writer.finish()?;
        let (options, done) = (self.options, self.done);
        let bases = self.bases.into_records();
        Ok(Packed { options, files: entries, done, places, bases, new_bytes })
    }

    fn analyse(&self, index: usize, path: &str, part: &Part, held: Held) -> PendingUnits {
        let (path, part) = (path.to_owned(), part.clone());
        let starts = part.offset == 0;
        let (finder, runtime, fresh) = (self.finder.clone(), self.runtime.clone(), self.fresh);
        self.pool.spawn(move |worker| {
            let wrong = |error| held.error(error);
            let units: Vec<(Unit, Held)> = match &part.kind {
                PartKind::Content => {
                    let extents = cut::content(&held, part.len).map_err(wrong)?;
                    let unit = |extent: cut::ContentExtent| {
                        let unit = Unit {
                            file: index,
                            len: extent.len,
                            digest: Some(extent.digest),
                            element: Dtype::Bytes,
                            cut: Cut::Lengths(extent.lengths),
                            tensor: None,
                            partner: None,
                        };
                        (unit, held.from(extent.offset))
                    };
                    extents.into_iter().map(unit).collect()
                }
                PartKind::Tensor { name, dtype, shape } => {
                    let base = finder.base();
                    let partner = base.and_then(|b| b.partner(&path, name, *dtype, shape));
                    let grid = match &partner {
                        // So that chunk stands against chunk.
                        Some(partner) => partner.grid,
                        None => choose_grid(name, *dtype, shape).unwrap_or(Grid::EMPTY),
                    };
                    let (len, element) = (part.len, *dtype);
                    let cut = Cut::Grid(grid);
                    // Where nothing can be found, the tensor is hashed when it is encoded, if each
                    // of its bytes is read once for that.
                    let later = fresh && cut::groups(&cut.rects()).is_some();
                    let digest = || cut::digest(&held, len, &mut worker.buffer);
                    let digest = (!later).then(digest).transpose().map_err(wrong)?;
                    let unit = Unit {
                        file: index,
                        len,
                        digest,
                        element,
                        cut,
                        tensor: Some(part),
                        partner,
                    };
                    vec![(unit, held.clone())]
                }
            };
            let look = |unit: &Unit| {
                // Whoever wrote it before left no hint at what is small, but at the start of a file.
                let may_be_hinted = unit.len >= MIN_HINT || starts;
                let Some(key) = unit.key().filter(|_| !fresh && may_be_hinted) else {
                    return Looking::Not;
                };
                let finder = finder.clone();
                Looking::Pending(runtime.spawn(async move { finder.unit(key).await }))
            };
            let look = |(unit, held): (Unit, Held)| {
                let looking = look(&unit);
                (unit, held, looking)
            };
            Ok(units.into_iter().map(look).collect())
        })
    }

    fn take(&mut self, ahead: &mut VecDeque<PendingUnits>) -> Result<(), PackError> {
        let Some(units) = ahead.pop_front() else { return Ok(()) };
        for (unit, held, looking) in units.wait()?? {
            let found = match looking {
                Looking::Not => None,
                Looking::Pending(task) => {
                    self.runtime.block_on(task).map_err(|_| WorkerFailed)??
                }
            };
            let found = match (found, unit.key().filter(|_| !self.fresh)) {
                (found, Some(key)) => self.nearest(found, key),
                (found, None) => found,
            };
            match found.filter(|found| self.fits(found, &unit)) {
                Some(found) => {
                    if !self.last().is_none_or(|last| last.continues_in(&found)) {
                        self.flush_run()?;
                        self.linked = None;
                    }
                    self.run_bytes += found.rewritten();
                    self.run.push((unit, held, Some(found)));
                    // Long enough: what goes on behind it is linked as it comes, and not held.
                    if self.is_long() {
                        self.flush_run()?;
                    }
                }
                // A run may go on behind it: a load reads over what it has there instead.
                None if unit.len <= BRIDGE && self.last().is_some() => {
                    self.bridged += unit.len;
                    self.run.push((unit, held, None));
                    if self.bridged > MIN_RUN {
                        self.linked = None;
                        self.flush_run()?;
                    }
                }
                None => {
                    self.flush_run()?;
                    self.linked = None;
                    self.encode(unit, held)?;
                }
            }
        }
        Ok(())
    }

    /// Whether so much of the run was found that it is worth a link, and more than what lies between.
    fn is_long(&self) -> bool {
        let long = self.linked.is_some() || self.run_bytes >= MIN_RUN;
        long && self.run_bytes >= self.bridged
    }

    /// The last unit of the run that is held, or of the one that is being linked.
    fn last(&self) -> Option<&Found> {
        let last = self.run.iter().rev().find_map(|(_, _, found)| found.as_ref());
        last.or(self.linked.as_ref())
    }

    /// Of what is found of that content: what lies next behind the run, if there is such.
    fn nearest(&self, found: Option<Found>, key: Key) -> Option<Found> {
        let next = self.last().and_then(|last| last.next(key));
        let found = next.or(found);
        found.or_else(|| self.runtime.block_on(self.finder.known(key)))
    }

    fn fits(&self, found: &Found, unit: &Unit) -> bool {
        let codec = self.options.codec;
        found.chunks().iter().all(|c| link::fits(&c.record, unit.element, codec))
    }

    /// Links the run of units found so far, or writes them again if it is short. Those of the base
    /// artifact, and those beside a file that is taken over, are linked however short they are: whoever
    /// loads this one reads there anyway.
    fn flush_run(&mut self) -> Result<(), PackError> {
        let long = self.is_long();
        let run = std::mem::take(&mut self.run);
        (self.run_bytes, self.bridged) = (0, 0);
        if long {
            let last = run.iter().rev().find_map(|(_, _, found)| found.clone());
            self.linked = last.or(self.linked.take());
        }
        for (unit, held, found) in run {
            let worth = |found: &Found| {
                let known = |chunk: &Placed| self.known.contains(&chunk.place.pack);
                long || found.is_of_base() || found.chunks().iter().all(known)
            };
            let found = found.filter(worth);
            let linked = found.as_ref().map(|found| self.link(&held, found)).transpose()?;
            let Some((found, linked)) = found.zip(linked.flatten()) else {
                self.encode(unit, held)?;
                continue;
            };
            self.hash_alone(&unit, &held);
            let unit = Unit { cut: found.cut(), ..unit };
            self.finish_linked(unit, &linked);
        }
        Ok(())
    }

    /// Takes over a file whose packs may be linked.
    fn take_over(&mut self, index: usize, file: &KnownFile) -> Result<(), PackError> {
        self.flush_run()?;
        self.linked = None;
        let units = file.linked(index, &mut self.bases);
        for (unit, linked) in units.ok_or_else(|| PackError::Gone(file.path().to_owned()))? {
            self.finish_linked(unit, &linked);
        }
        Ok(())
    }

    /// The chunks of a unit that was found, with what they are stored against, if all of it may be
    /// linked.
    fn link(&self, unit: &Held, found: &Found) -> Result<Option<Vec<Linked>>, PackError> {
        let base = self.finder.base().map(Arc::as_ref);
        let (bases, trusted) = (found.bases(), found.is_trusted());
        let resolve = |chunk: &Placed| self.bases.resolve(base, *chunk, &bases, trusted);
        let Some(linked) = found.chunks().iter().map(resolve).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let packs: HashSet<PackId> = linked.iter().flat_map(Linked::packs).collect();
        let usable = self.runtime.block_on(async {
            let there = self.finder.linkable().all(&packs).await?;
            Ok::<_, StoreError>(
                there
                    && (linked.iter().all(|linked| linked.trusted)
                        || self.finder.compare_unit(unit, &found.cut(), &linked).await?),
            )
        })?;
        Ok(usable.then_some(linked))
    }

    /// Notes chunks that others are stored against.
    fn note(&mut self, bases: &[Placed]) {
        for base in bases {
            self.writer.note(&base.record, base.place);
        }
        self.bases.add(bases);
    }

    /// A unit all of whose chunks the store has.
    fn finish_linked(&mut self, unit: Unit, linked: &[Linked]) {
        self.progress.advance(unit.len);
        let at = self.done.len();
        self.finish(unit, linked.iter().map(|linked| linked.chunk.record).collect(), false);
        for Linked { chunk, bases, .. } in linked {
            self.note(bases);
            let spot = self.writer.link(&chunk.record, chunk.place);
            self.done[at].spots.push(spot);
        }
    }

    fn encode(&mut self, unit: Unit, held: Held) -> Result<(), PackError> {
        let at = self.done.len();
        let element = unit.element;
        let rects = unit.cut.rects();
        let groups = cut::groups(&rects);
        // Chunks in another order than their bytes: those are read once more for the file's hashes.
        let in_order = groups.is_some();
        if !in_order {
            self.hash_alone(&unit, &held);
        }
        let file = unit.file;
        let groups = groups.unwrap_or_else(|| rects.iter().copied().map(Group::alone).collect());
        let digesting = unit.digest.is_none().then(Digesting::default);
        self.digesting.extend(digesting.clone().map(|digesting| (at, digesting)));
        let base = self.finder.base().cloned();
        let below = unit.partner.zip(base).map(|(partner, artifact)| Below { artifact, partner });
        self.finish(unit, Vec::with_capacity(rects.len()), true);
        let mut first = 0;
        for (number, group) in groups.into_iter().enumerate() {
            let len = group.len();
            while self.encoding.len() >= self.window
                || (self.under_way + len > AHEAD && !self.encoding.is_empty())
            {
                self.settle_group()?;
            }
            let turns = Turns {
                unit: digesting.as_ref().map(|digesting| digesting.turn(number)),
                file: in_order.then(|| self.hashing[file].turn()).flatten(),
            };
            let count = group.rects.len();
            let reading = Reading { unit: held.clone(), element, group };
            let chunks = if self.in_place {
                // A chunk is at most 4 MiB.
                let rects = reading.group.rects.iter();
                let rooms = rects.map(|rect| self.writer.reserve(rect.len() as u32)).collect();
                let buffers = self.buffers.clone();
                self.pool.spawn(move |_| reading.in_place(rooms, turns, &buffers))
            } else {
                let encoding = encode::Encoding {
                    finder: self.finder.clone(),
                    runtime: self.runtime.clone(),
                    choice: self.options.codec,
                    element,
                    below: below.as_ref().map(|below| below.from(first)),
                };
                let buffers = self.buffers.clone();
                self.pool.spawn(move |worker| {
                    reading.encoded(turns, &buffers, |chunks| encoding.encode(worker, chunks))
                })
            };
            first += count;
            self.under_way += len;
            self.encoding.push_back(Encoding { at, len, chunks });
        }
        Ok(())
    }

    /// Hashes a unit for its file, if that is hashed along and the unit is not read for its chunks.
    fn hash_alone(&mut self, unit: &Unit, held: &Held) {
        let Some(turn) = self.hashing[unit.file].turn() else { return };
        let (held, len, at) = (held.clone(), unit.len, self.done.len());
        let chunks = self.pool.spawn(move |worker| {
            hash::alone(turn, &held, len, &mut worker.buffer).map(|()| Vec::new())
        });
        self.encoding.push_back(Encoding { at, len: 0, chunks });
    }

    fn finish(&mut self, unit: Unit, records: Vec<ChunkRecord>, written: bool) {
        let digest = unit.digest.unwrap_or_else(|| ContentDigest::of(b""));
        let spots = Vec::with_capacity(records.len());
        self.done.push(Done { unit, digest, records, spots, written });
    }

    fn settle_group(&mut self) -> Result<(), PackError> {
        let Some(Encoding { at, len, chunks }) = self.encoding.pop_front() else { return Ok(()) };
        self.under_way -= len;
        self.writer.begin(at);
        for chunk in chunks.wait()?? {
            let (record, spot) = match chunk {
                Chunk::New(encoded, below) => {
                    if let Some(Linked { chunk, mut bases, .. }) = below {
                        bases.push(chunk);
                        self.note(&bases);
                    }
                    (encoded.record, self.writer.push(encoded)?)
                }
                Chunk::Read(record, room) => (record, self.writer.push_read(record, room)?),
                Chunk::Known(Linked { chunk, bases, .. }) => {
                    self.note(&bases);
                    (chunk.record, self.writer.link(&chunk.record, chunk.place))
                }
            };
            self.done[at].records.push(record);
            self.done[at].spots.push(spot);
        }
        self.progress.advance(len);
        Ok(())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("units", &self.done.len()).finish_non_exhaustive()
    }
}
