//! Packing: a model's files into the store, as a signed artifact.
//!
//! Packs come first, the ref last, so that an interrupted run leaves nothing that a reader sees,
//! and the next run goes on from the packs that the interrupted one's lease lists. Memory is bounded
//! by the number of chunks on their way, whatever the model's size.

mod cut;
pub(crate) mod link;
mod pool;
mod publish;
pub(crate) mod writer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha1::Digest as _;
use tokio::runtime::Handle;

use crate::buffers::Buffers;
use crate::codec::{CodecChoice, Encoded};
use crate::dtype::Dtype;
use crate::format::FormatError;
use crate::format::grid::Grid;
use crate::format::name::{ArtifactName, Tag};
use crate::format::page::FileEntry;
use crate::format::record::ChunkRecord;
use crate::id::{ContentDigest, DecodedDigest, ManifestId, PackId};
use crate::model::{self, ModelError, Part, PartKind, SourceFile};
use crate::parallel::choose_grid;
use crate::store::{Lease, Lifetime, Placed, Published, Store, StoreError, Whole, candidates};
use crate::trust::{Signer, TrustSet};

use cut::{Cut, Group};
use link::{Finder, Found};
use pool::{InOrder, Pending, Pool, Turn, WorkerFailed};
use writer::{Linkable, PackWriter, Room};

/// A run of chunks that the store already has is linked from this length on, in bytes; a shorter
/// one is written again, because each run costs every later load a request.
const MIN_RUN: u64 = 1 << 20;
/// Bytes that are being encoded or wait for their pack.
const AHEAD: u64 = 48 << 20;
/// Buffers kept for them.
const BUFFERS: usize = 128 << 20;

/// A model that was not packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model is beyond a limit of the format.
    #[error("this model does not fit the format: {0}")]
    Format(#[from] FormatError),
    /// A thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

impl From<crate::source::SourceError> for PackError {
    fn from(error: crate::source::SourceError) -> Self {
        Self::Store(error.into())
    }
}

/// How to pack.
#[derive(Debug)]
pub struct PackOptions {
    /// The codecs to choose from.
    pub codec: CodecChoice,
    /// Keys that sign the manifest and, where they can, the ref.
    pub signers: Vec<Signer>,
    /// Whose artifacts may be linked without comparing.
    pub trust: TrustSet,
    /// Threads that hash and encode.
    pub threads: usize,
    /// Whether each file's SHA-256 is computed: registries and Hub clients want it.
    pub sha256: bool,
    /// What the model calls itself.
    pub model_id: Option<String>,
    /// An artifact whose chunks are looked for first.
    pub base: Option<ManifestId>,
    /// How long the ref is valid.
    pub lifetime: Lifetime,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            codec: CodecChoice::Auto,
            signers: Vec::new(),
            trust: TrustSet::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            sha256: true,
            model_id: None,
            base: None,
            lifetime: Lifetime::default(),
        }
    }
}

/// What packing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackReport {
    /// The artifact.
    pub manifest: ManifestId,
    /// Its files, tensors, chunks and bytes.
    pub totals: crate::format::manifest::Totals,
    /// Bytes of every object written.
    pub new_bytes: u64,
    /// Tensors and content extents that were linked instead of written.
    pub linked: u64,
    /// The ref.
    pub published: Published,
}

/// Follows the progress of packing.
pub trait Progress: Send + Sync {
    /// There are `bytes` to pack.
    fn begin(&self, bytes: u64);
    /// Another `bytes` are done.
    fn advance(&self, bytes: u64);
}

/// Nobody watches.
impl Progress for () {
    fn begin(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// Packs the folder or file at `path` and publishes it as `name:tag`. Blocks; call it from outside
/// the runtime that `runtime` drives.
pub fn pack(
    path: &Path,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: PackOptions,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    let files: Vec<_> = model::walk(path)?.into_iter().map(Arc::new).collect();
    progress.begin(files.iter().map(|file| file.size).sum());
    let fresh = runtime.block_on(store.create())?;
    let lease = runtime.block_on(Lease::take(store))?;
    let packer = Packer::new(store, &lease, fresh, options, runtime, progress)?;
    let packed = packer.run(&files)?;
    let report = runtime.block_on(packed.publish(store, &lease, name, tag))?;
    runtime.block_on(lease.release())?;
    Ok(report)
}

/// What is looked up and linked, or encoded, as one.
struct Unit {
    file: usize,
    offset: u64,
    len: u64,
    /// Of a tensor that is looked up nowhere, once it is encoded.
    digest: Option<ContentDigest>,
    element: Dtype,
    cut: Cut,
    tensor: Option<model::Part>,
}

/// A unit with the records of its chunks.
struct Done {
    unit: Unit,
    /// Of no bytes, until a unit that is hashed while it is encoded has come to its end.
    digest: ContentDigest,
    records: Vec<ChunkRecord>,
    /// Whether its chunks were written, rather than linked.
    written: bool,
}

/// A file's hashes, on their way.
struct FileHashes {
    sha256: [u8; 32],
    git_sha1: Option<[u8; 20]>,
}

enum Looking {
    Not,
    Pending(tokio::task::JoinHandle<Result<Option<Found>, StoreError>>),
}

/// The units of a part of a file, on their way.
type PendingUnits = Pending<Result<Vec<(Unit, Looking)>, PackError>>;

/// A group of chunks of unit `at` of the done ones, on its way.
struct Encoding {
    at: usize,
    len: u64,
    chunks: Pending<Result<Vec<Chunk>, PackError>>,
}

/// The digest of a unit that is hashed while it is encoded.
type Digesting = Arc<InOrder<blake3::Hasher>>;

struct Packer<'a> {
    options: PackOptions,
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
    run: Vec<(Unit, Found)>,
    buffers: Buffers,
    window: usize,
}

/// A chunk that was encoded, was read where it is stored, or was found.
enum Chunk {
    New(Encoded),
    Read(ChunkRecord, Room),
    Known(Placed),
}

/// A group of chunks of one unit, to be read.
struct Reading {
    source: Arc<SourceFile>,
    /// Where the unit begins in the file.
    offset: u64,
    element: Dtype,
    group: Group,
}

impl Reading {
    fn read(&self, rooms: &mut [BytesMut], buffers: &Buffers) -> Result<Option<Bytes>, PackError> {
        let read = cut::read(&self.source.file, self.offset, &self.group, rooms, buffers);
        Ok(read.map_err(ModelError::io(&self.source.location))?)
    }

    /// Chunks that are stored as they are, each read where it lies in its pack.
    fn in_place(
        self,
        mut rooms: Vec<Room>,
        turn: Option<Turn<blake3::Hasher>>,
        buffers: &Buffers,
    ) -> Result<Vec<Chunk>, PackError> {
        let mut bytes: Vec<_> = rooms.iter_mut().map(|r| std::mem::take(&mut r.bytes)).collect();
        let run = self.read(&mut bytes, buffers)?;
        // A chunk is at most 4 MiB.
        let record = |chunk: &BytesMut| {
            ChunkRecord::raw(self.element, chunk.len() as u32, blake3::hash(chunk))
        };
        let records: Vec<_> = bytes.iter().map(record).collect();
        digest(turn, run, &bytes);
        for (room, bytes) in rooms.iter_mut().zip(bytes) {
            room.bytes = bytes;
        }
        Ok(records.into_iter().zip(rooms).map(|(record, room)| Chunk::Read(record, room)).collect())
    }

    /// Chunks that `encode` makes the most of.
    fn encoded(
        self,
        turn: Option<Turn<blake3::Hasher>>,
        buffers: &Buffers,
        mut encode: impl FnMut(Bytes) -> Result<Chunk, PackError>,
    ) -> Result<Vec<Chunk>, PackError> {
        // A chunk is at most 4 MiB.
        let lengths = self.group.rects.iter().map(|rect| rect.len() as usize);
        let mut rooms: Vec<_> = lengths.clone().map(|len| buffers.take(len)).collect();
        let run = self.read(&mut rooms, buffers)?;
        let decoded: Vec<_> =
            rooms.into_iter().zip(lengths).map(|(room, len)| buffers.share(room, len)).collect();
        let chunks = decoded.iter().map(|decoded| encode(decoded.clone())).collect();
        digest(turn, run, &decoded);
        chunks
    }
}

/// Hashes a group for its unit, when its turn comes.
fn digest(turn: Option<Turn<blake3::Hasher>>, run: Option<Bytes>, chunks: &[impl AsRef<[u8]>]) {
    let Some(turn) = turn else { return };
    turn.change(|hasher| {
        let chunks = chunks.iter().map(AsRef::as_ref);
        for bytes in run.as_deref().map_or_else(|| Vec::from_iter(chunks), |run| vec![run]) {
            hasher.update(bytes);
        }
    });
}

struct Packed {
    options: PackOptions,
    files: Vec<(FileEntry, Vec<ChunkRecord>)>,
    done: Vec<Done>,
    places: HashMap<crate::id::StoredDigest, crate::format::layout::Place>,
    new_bytes: u64,
}

impl<'a> Packer<'a> {
    fn new(
        store: &Store,
        lease: &Lease,
        fresh: bool,
        mut options: PackOptions,
        runtime: &'a Handle,
        progress: &'a dyn Progress,
    ) -> Result<Self, PackError> {
        let linkable = Linkable::new(store.clone(), lease.clone());
        let mut chunks = HashMap::new();
        if !fresh {
            let packs = runtime.block_on(candidates(store))?;
            chunks = runtime.block_on(link::left_behind(store, packs))?;
        }
        if let Some(base) = options.base {
            let whole = runtime.block_on(Whole::read(store, base))?;
            for chunk in &whole.chunks {
                chunks.entry(chunk.record.decoded).or_insert((*chunk, false));
            }
        }
        let trust = Arc::new(std::mem::take(&mut options.trust));
        let finder = Arc::new(Finder::new(store.clone(), trust, linkable, chunks));
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
            run: Vec::new(),
            buffers: Buffers::new(BUFFERS),
            window: 2 * threads + 4,
        })
    }

    fn run(mut self, files: &[Arc<SourceFile>]) -> Result<Packed, PackError> {
        let mut hashes = Vec::with_capacity(files.len());
        // Units being digested or looked up, in order; enough to keep every thread busy.
        let mut ahead = VecDeque::new();
        for (i, file) in files.iter().enumerate() {
            hashes.push(self.hash_file(file));
            for part in &file.parts {
                ahead.push_back(self.analyse(i, file, part));
                if ahead.len() > self.window {
                    self.take(files, &mut ahead)?;
                }
            }
        }
        while !ahead.is_empty() {
            self.take(files, &mut ahead)?;
        }
        self.flush_run(files)?;
        while !self.encoding.is_empty() {
            self.settle_group()?;
        }
        for (at, digesting) in std::mem::take(&mut self.digesting) {
            let digest = digesting.read(|hasher| ContentDigest::from_hash(hasher.finalize()));
            self.done[at].digest = digest;
        }
        let mut entries = Vec::with_capacity(files.len());
        for (file, hashes) in files.iter().zip(hashes) {
            let hashes = hashes.wait()?.map_err(ModelError::io(&file.location))?;
            file.check_unchanged()?;
            let entry = FileEntry {
                path: file.path.clone(),
                executable: file.executable,
                size: file.size,
                sha256: hashes.sha256,
                git_sha1: hashes.git_sha1,
                extents: Vec::new(),
            };
            entries.push((entry, Vec::new()));
        }
        let (places, new_bytes) = self.writer.finish()?;
        Ok(Packed { options: self.options, files: entries, done: self.done, places, new_bytes })
    }

    fn hash_file(&self, file: &Arc<SourceFile>) -> Pending<std::io::Result<FileHashes>> {
        let (file, sha256) = (file.clone(), self.options.sha256);
        self.pool.spawn(move |worker| {
            let mut sha = sha256.then(sha2::Sha256::new);
            let mut git = FileEntry::has_git_sha1(file.size).then(|| {
                let mut git = sha1::Sha1::new();
                git.update(format!("blob {}\0", file.size));
                git
            });
            if sha.is_some() || git.is_some() {
                cut::for_each(&file.file, 0, file.size, &mut worker.buffer, |bytes| {
                    if let Some(sha) = &mut sha {
                        sha.update(bytes);
                    }
                    if let Some(git) = &mut git {
                        git.update(bytes);
                    }
                })?;
            }
            Ok(FileHashes {
                sha256: sha.map_or([0; 32], |sha| sha.finalize().into()),
                git_sha1: git.map(|git| git.finalize().into()),
            })
        })
    }

    fn analyse(&self, index: usize, file: &Arc<SourceFile>, part: &Part) -> PendingUnits {
        let (file, part) = (file.clone(), part.clone());
        let (finder, runtime, fresh) = (self.finder.clone(), self.runtime.clone(), self.fresh);
        self.pool.spawn(move |worker| {
            let io = |error| ModelError::io(&file.location)(error);
            let units = match &part.kind {
                PartKind::Content => {
                    let extents = cut::content(&file.file, part.offset, part.len).map_err(io)?;
                    let unit = |extent: cut::ContentExtent| Unit {
                        file: index,
                        offset: extent.offset,
                        len: extent.len,
                        digest: Some(extent.digest),
                        element: Dtype::Bytes,
                        cut: Cut::Lengths(extent.lengths),
                        tensor: None,
                    };
                    extents.into_iter().map(unit).collect()
                }
                PartKind::Tensor { name, dtype, shape } => {
                    let grid = choose_grid(name, *dtype, shape).unwrap_or(Grid::EMPTY);
                    let (offset, len, element) = (part.offset, part.len, *dtype);
                    let cut = Cut::Grid(grid);
                    // Where nothing can be found, the tensor is hashed when it is encoded, if each
                    // of its bytes is read once for that.
                    let later = fresh && cut::groups(&cut.rects()).is_some();
                    let digest = || cut::digest(&file.file, offset, len, &mut worker.buffer);
                    let digest = (!later).then(digest).transpose().map_err(io)?;
                    vec![Unit {
                        file: index,
                        offset,
                        len,
                        digest,
                        element,
                        cut,
                        tensor: Some(part),
                    }]
                }
            };
            let look = |unit: &Unit| {
                let Some(digest) = unit.digest.filter(|_| !fresh && unit.len > 0) else {
                    return Looking::Not;
                };
                let (finder, element) = (finder.clone(), unit.element);
                Looking::Pending(runtime.spawn(async move { finder.unit(digest, element).await }))
            };
            Ok(units.into_iter().map(|unit| (look(&unit), unit)).map(|(l, u)| (u, l)).collect())
        })
    }

    fn take(
        &mut self,
        files: &[Arc<SourceFile>],
        ahead: &mut VecDeque<PendingUnits>,
    ) -> Result<(), PackError> {
        let Some(units) = ahead.pop_front() else { return Ok(()) };
        for (unit, looking) in units.wait()?? {
            let found = match looking {
                Looking::Not => None,
                Looking::Pending(task) => {
                    self.runtime.block_on(task).map_err(|_| WorkerFailed)??
                }
            };
            let fits = |found: &Found| {
                let codec = self.options.codec;
                found.chunks.iter().all(|c| link::fits(&c.record, unit.element, codec))
            };
            match found.filter(fits) {
                Some(found) => {
                    if !self.run.last().is_none_or(|(_, last)| continues(last, &found)) {
                        self.flush_run(files)?;
                    }
                    self.run.push((unit, found));
                }
                None => {
                    self.flush_run(files)?;
                    self.encode(files, unit)?;
                }
            }
        }
        Ok(())
    }

    /// Links the run of units found so far, or writes them again if it is short.
    fn flush_run(&mut self, files: &[Arc<SourceFile>]) -> Result<(), PackError> {
        let run = std::mem::take(&mut self.run);
        let chunks = run.iter().flat_map(|(_, found)| &found.chunks);
        let total: u64 = chunks.map(|chunk| u64::from(chunk.record.stored_len)).sum();
        for (unit, found) in run {
            let source = &files[unit.file];
            let link = total >= MIN_RUN
                && (found.trusted
                    || self.runtime.block_on(self.finder.compare_unit(
                        &source.file,
                        unit.offset,
                        &found,
                    ))?);
            if !link {
                self.encode(files, unit)?;
                continue;
            }
            for chunk in &found.chunks {
                self.writer.link(&chunk.record, chunk.place);
            }
            self.progress.advance(unit.len);
            let records = found.chunks.iter().map(|chunk| chunk.record).collect();
            let unit = Unit { cut: found.cut, ..unit };
            self.finish(unit, records, false);
        }
        Ok(())
    }

    fn encode(&mut self, files: &[Arc<SourceFile>], unit: Unit) -> Result<(), PackError> {
        let at = self.done.len();
        let (source, offset, element) = (files[unit.file].clone(), unit.offset, unit.element);
        let rects = unit.cut.rects();
        let groups = cut::groups(&rects);
        let groups = groups.unwrap_or_else(|| rects.iter().copied().map(Group::alone).collect());
        let digesting = unit.digest.is_none().then(Digesting::default);
        self.digesting.extend(digesting.clone().map(|digesting| (at, digesting)));
        self.finish(unit, Vec::with_capacity(rects.len()), true);
        for (number, group) in groups.into_iter().enumerate() {
            let len = group.len();
            while self.encoding.len() >= self.window
                || (self.under_way + len > AHEAD && !self.encoding.is_empty())
            {
                self.settle_group()?;
            }
            let turn = digesting.as_ref().map(|digesting| digesting.turn(number));
            let reading = Reading { source: source.clone(), offset, element, group };
            let chunks = if self.in_place {
                // A chunk is at most 4 MiB.
                let rects = reading.group.rects.iter();
                let rooms = rects.map(|rect| self.writer.reserve(rect.len() as u32)).collect();
                let buffers = self.buffers.clone();
                self.pool.spawn(move |_| reading.in_place(rooms, turn, &buffers))
            } else {
                let (finder, runtime) = (self.finder.clone(), self.runtime.clone());
                let (buffers, choice) = (self.buffers.clone(), self.options.codec);
                self.pool.spawn(move |worker| {
                    reading.encoded(turn, &buffers, |decoded| {
                        let known = known(&finder, &runtime, &decoded, element, choice)?;
                        Ok(match known {
                            Some(known) => Chunk::Known(known),
                            None => {
                                Chunk::New(worker.encoder.encode(choice, element, decoded, None))
                            }
                        })
                    })
                })
            };
            self.under_way += len;
            self.encoding.push_back(Encoding { at, len, chunks });
        }
        Ok(())
    }

    fn finish(&mut self, unit: Unit, records: Vec<ChunkRecord>, written: bool) {
        let digest = unit.digest.unwrap_or_else(|| ContentDigest::of(b""));
        self.done.push(Done { unit, digest, records, written });
    }

    fn settle_group(&mut self) -> Result<(), PackError> {
        let Some(Encoding { at, len, chunks }) = self.encoding.pop_front() else { return Ok(()) };
        self.under_way -= len;
        for chunk in chunks.wait()?? {
            let record = match chunk {
                Chunk::New(encoded) => {
                    let record = encoded.record;
                    self.writer.push(encoded)?;
                    record
                }
                Chunk::Read(record, room) => {
                    self.writer.push_read(record, room)?;
                    record
                }
                Chunk::Known(chunk) => {
                    self.writer.link(&chunk.record, chunk.place);
                    chunk.record
                }
            };
            self.done[at].records.push(record);
        }
        self.progress.advance(len);
        Ok(())
    }
}

/// The chunk that an interrupted run or the base artifact has for these bytes, if it may be linked.
fn known(
    finder: &Finder,
    runtime: &Handle,
    decoded: &[u8],
    element: Dtype,
    choice: CodecChoice,
) -> Result<Option<Placed>, PackError> {
    if !finder.has_chunks() {
        return Ok(None);
    }
    let digest = DecodedDigest::of(decoded);
    let Some((chunk, trusted)) = finder.chunk(&digest).copied() else { return Ok(None) };
    if !link::fits(&chunk.record, element, choice) {
        return Ok(None);
    }
    let packs = HashSet::<PackId>::from([chunk.place.pack]);
    let usable = runtime.block_on(async {
        let there = finder.linkable().all(&packs).await?;
        Ok::<_, StoreError>(there && (trusted || finder.compare(chunk).await?))
    })?;
    Ok(usable.then_some(chunk))
}

/// Whether `next` lies right behind `last`: in the same pack, or at the start of another.
fn continues(last: &Found, next: &Found) -> bool {
    let (Some(last), Some(next)) = (last.chunks.last(), next.chunks.first()) else { return true };
    let end = u64::from(last.place.offset) + u64::from(last.record.stored_len);
    if last.place.pack == next.place.pack {
        u64::from(next.place.offset) == end
    } else {
        next.place.offset == 0
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("units", &self.done.len()).finish_non_exhaustive()
    }
}
