//! What a mount shows: names, artifacts and the bytes of their files, over the edge's cache.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::chunks::Chunks;
use super::core::folders::{self, Entry, Meaning};
use super::core::follow::{Ahead, Follow, Next, ReaderId};
use super::core::held::Held;
use super::core::inodes::{Block, Inodes};
use super::core::map::FileMap;
use super::core::order::Orders;
use super::core::tree::Tree;
use super::decoded::DecodedFiles;
use super::error::MountError;
use super::options::{MountLog, MountOptions, Shown};
use super::pages::{PAGE, Pages};
use crate::edge::cache::catalog::{Catalog, Name};
use crate::edge::cache::chunks::ChunkCache;
use crate::edge::cache::disk::DiskTier;
use crate::edge::cache::origins::Origins;
use crate::edge::cache::parts::Unit;
use crate::edge::cache::source::ChunkSource;
use crate::edge::{EdgeError, EdgeOptions};
use crate::format::id::{ManifestId, StoredDigest};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::store::{ArtifactGraph, StoreError};
use crate::transport::{Transport, TransportError, TransportErrorKind};

/// Which part of the memory chunks have as they are stored: raw ones are the same bytes once more.
const STORED: u64 = 8;
/// Which part of it is read ahead of all readers, and how much of one at most and at least.
const AHEAD: u64 = 4;
const MOST_AHEAD: u64 = 32 << 20;
const LEAST_AHEAD: u64 = 1 << 20;
/// Which part of the folder on disk decoded files have, where it is trusted.
const DECODED: u64 = 2;
/// How long the same line is not told again.
const TOLD: Duration = Duration::from_secs(10);
const LINES: usize = 256;

/// An artifact as it is mounted.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) id: ManifestId,
    /// The name by which it counts.
    name: Option<ArtifactName>,
    /// As people call it.
    label: String,
    /// When it was published under its name.
    pub(crate) published: Option<SystemTime>,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    opened: Mutex<Weak<Opened>>,
    /// What the kernel has of its files, whoever had them open.
    held: Arc<Mutex<Held>>,
}

/// An artifact that somebody reads.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) whole: Arc<ArtifactGraph>,
    maps: Vec<OnceLock<FileMap>>,
    follow: Mutex<Follow>,
    held: Arc<Mutex<Held>>,
    /// The chunks that it holds more than once.
    repeated: OnceLock<HashSet<StoredDigest>>,
}

/// Bytes of a file that are to be put into the kernel's pages, until it is dropped.
pub(crate) struct Wanted(Arc<Opened>, u32, Range<u64>);

impl Drop for Wanted {
    fn drop(&mut self) {
        lock(&self.0.held).unwant(self.1, &self.2);
    }
}

/// What stands where a name was looked for.
#[derive(Debug)]
pub(crate) enum Found {
    Folder(String),
    Artifact(Arc<Block<Artifact>>),
}

/// Blocks by artifact and by the name that it counts for.
type Blocks = HashMap<(ManifestId, Option<ArtifactName>), Weak<Block<Artifact>>>;

/// Everything that is mounted.
#[derive(Debug)]
pub(crate) struct View {
    catalog: Arc<Catalog>,
    pub(crate) chunks: Chunks,
    pub(crate) pages: Arc<Pages>,
    /// Files that the kernel may read itself.
    pub(crate) decoded: Option<Arc<DecodedFiles>>,
    pub(crate) inodes: Mutex<Inodes<Artifact>>,
    /// The block of each artifact that has one, by the name that it counts for.
    blocks: Mutex<Blocks>,
    shown: Shown,
    memory: u64,
    serving: AtomicUsize,
    /// How long a name keeps its meaning.
    pub(crate) fresh: Duration,
    log: MountLog,
    told: Mutex<HashMap<String, Instant>>,
    /// Reads that the kernel asked for, and those that failed.
    pub(crate) reads: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// Opens of files that the kernel reads itself.
    pub(crate) passed: AtomicU64,
}

/// Counts who reads ahead.
pub(crate) struct Busy(Arc<View>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl View {
    pub(crate) fn new(
        origins: Vec<Arc<dyn Transport>>,
        options: MountOptions,
        shown: Shown,
    ) -> Result<Arc<Self>, MountError> {
        let (mut disk, mut decoded) = (None, None);
        if let Some((folder, mut budget)) = options.disk {
            let failed = |source| EdgeError::Cache { folder: folder.clone(), source };
            if options.trust_disk {
                let files = DecodedFiles::open(&folder, budget / DECODED).map_err(failed)?;
                decoded = Some(Arc::new(files));
                budget -= budget / DECODED;
            }
            disk = Some(Arc::new(DiskTier::open(&folder, budget).map_err(failed)?));
        }
        let mut edge = EdgeOptions {
            trust: options.trust,
            seen: options.seen,
            retry: options.retry.clone(),
            names: options.names,
            clock: options.clock,
            ..EdgeOptions::default()
        };
        let catalog = Catalog::new(&origins, &mut edge);
        let origins = Origins::new(origins, options.retry).ok_or(EdgeError::NoOrigin)?;
        // Nobody counts answers here: what is under way is bounded by windows and by who waits.
        let cache = ChunkCache::new(options.memory / STORED, u64::MAX);
        let source = ChunkSource::new(origins, cache, disk);
        Ok(Arc::new(Self {
            catalog,
            chunks: Chunks::new(source, options.memory - options.memory / STORED),
            pages: Pages::new(),
            decoded,
            inodes: Mutex::new(Inodes::new()),
            blocks: Mutex::default(),
            shown,
            memory: options.memory,
            serving: AtomicUsize::new(0),
            fresh: options.names.fresh,
            log: options.log,
            told: Mutex::default(),
            reads: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }))
    }

    /// Finds the one artifact that is mounted, if it is one: its root is the mount's.
    pub(crate) async fn begin(&self) -> Result<(), MountError> {
        let Shown::Artifact(spec) = &self.shown else { return Ok(()) };
        let block = self.spec(spec).await.map_err(MountError::Store)?;
        lock(&self.inodes).set_root(&block);
        Ok(())
    }

    async fn spec(&self, spec: &ArtifactSpec) -> Result<Arc<Block<Artifact>>, Arc<StoreError>> {
        match spec {
            ArtifactSpec::Named { name, tag } => self.tag(name, tag).await,
            ArtifactSpec::Id(prefix) => {
                let id = self.catalog.find(prefix.as_str()).await?;
                self.artifact(id, None, format!("@{id}"), None).await
            }
        }
    }

    async fn tag(
        &self,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<Arc<Block<Artifact>>, Arc<StoreError>> {
        let (id, published) = self.catalog.resolve_dated(name, tag).await?;
        self.artifact(id, Some(name), format!("{name}:{tag}"), published).await
    }

    /// The numbers of an artifact, which counts for `name`.
    async fn artifact(
        &self,
        id: ManifestId,
        name: Option<&ArtifactName>,
        label: String,
        published: Option<SystemTime>,
    ) -> Result<Arc<Block<Artifact>>, Arc<StoreError>> {
        let key = (id, name.cloned());
        let known = || lock(&self.blocks).get(&key).and_then(Weak::upgrade);
        if let Some(block) = known() {
            return Ok(block);
        }
        let whole = self.catalog.artifact(id, name).await?;
        let tree = Tree::of(&whole);
        let mut blocks = lock(&self.blocks);
        if let Some(block) = blocks.get(&key).and_then(Weak::upgrade) {
            return Ok(block);
        }
        blocks.retain(|_, block| block.strong_count() > 0);
        let artifact = Artifact {
            id,
            name: name.cloned(),
            label,
            published,
            bytes: whole.manifest.totals.raw_bytes,
            opened: Mutex::default(),
            held: Arc::default(),
        };
        let block = lock(&self.inodes).add(tree, artifact);
        blocks.insert(key, Arc::downgrade(&block));
        Ok(block)
    }

    /// An artifact of which somebody opens a file.
    pub(crate) async fn open(
        &self,
        block: &Block<Artifact>,
    ) -> Result<Arc<Opened>, Arc<StoreError>> {
        let artifact = &block.artifact;
        if let Some(opened) = lock(&artifact.opened).upgrade() {
            return Ok(opened);
        }
        let whole = self.catalog.artifact(artifact.id, artifact.name.as_ref()).await?;
        let mut slot = lock(&artifact.opened);
        if let Some(opened) = slot.upgrade() {
            return Ok(opened);
        }
        let opened = Arc::new(Opened::new(whole, artifact.held.clone()));
        *slot = Arc::downgrade(&opened);
        Ok(opened)
    }

    /// What stands under `name` in a folder of names.
    pub(crate) async fn look(
        &self,
        folder: &str,
        name: &str,
    ) -> Result<Option<Found>, Arc<StoreError>> {
        for meaning in folders::meanings(folder, name) {
            match meaning {
                Meaning::Folder(folder) => {
                    if self.has_folder(&folder).await? {
                        return Ok(Some(Found::Folder(folder)));
                    }
                }
                Meaning::Tag(name, tag) if self.shows(&name, &tag) => {
                    match self.tag(&name, &tag).await {
                        Ok(block) => return Ok(Some(Found::Artifact(block))),
                        Err(error) if is_missing(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                Meaning::Tag(..) => {}
            }
        }
        Ok(None)
    }

    async fn has_folder(&self, folder: &str) -> Result<bool, Arc<StoreError>> {
        // What lies in it first: more names begin like the folder than with it.
        for prefix in [format!("{folder}/"), folder.to_owned()] {
            match self.names(&prefix).await {
                Ok(names) if folders::has_folder(folder, names.iter()) => return Ok(true),
                Ok(_) => {}
                // A store that cannot be listed: whatever may be there is looked for by name.
                Err(error) if is_unlistable(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What lies in a folder of names.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<Entry>, Arc<StoreError>> {
        let all = self.names(folder).await?;
        Ok(folders::entries(folder, all.iter()))
    }

    /// The names that begin so and are shown.
    async fn names(&self, prefix: &str) -> Result<Arc<Vec<Name>>, Arc<StoreError>> {
        let all = self.catalog.names(prefix).await?;
        Ok(match &self.shown {
            Shown::Names(_) => {
                Arc::new(all.iter().filter(|(name, tag)| self.shows(name, tag)).cloned().collect())
            }
            _ => all,
        })
    }

    fn shows(&self, name: &ArtifactName, tag: &Tag) -> bool {
        match &self.shown {
            Shown::Names(specs) => specs.iter().any(|spec| {
                matches!(spec, ArtifactSpec::Named { name: own, tag: other } if (own, other) == (name, tag))
            }),
            _ => true,
        }
    }

    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// How far ahead of one reader is read.
    pub(crate) fn most(&self) -> u64 {
        let readers = self.serving.load(Ordering::Relaxed).max(1) as u64;
        (self.memory / AHEAD / readers).clamp(LEAST_AHEAD, MOST_AHEAD)
    }

    /// Tells why bytes of a file cannot be had.
    pub(crate) fn tell(&self, block: &Block<Artifact>, file: u32, error: &TransportError) {
        let path = block.tree.of_file(file).map(|node| block.tree.path(node)).unwrap_or_default();
        self.say(format!("{}/{path}: {error}", block.artifact.label));
    }

    /// Tells a line, unless it was told a moment ago.
    pub(crate) fn say(&self, line: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut told = lock(&self.told);
        told.retain(|_, at| at.elapsed() < TOLD);
        if told.len() < LINES && !told.contains_key(&line) {
            self.log.tell(&line);
            told.insert(line, Instant::now());
        }
    }
}

impl Opened {
    fn new(whole: Arc<ArtifactGraph>, held: Arc<Mutex<Held>>) -> Self {
        let maps = (0..whole.files.len()).map(|_| OnceLock::new()).collect();
        let follow = Mutex::new(Follow::new(Orders::of(&whole)));
        Self { whole, maps, follow, held, repeated: OnceLock::new() }
    }

    pub(crate) fn map(&self, file: u32) -> &FileMap {
        static NONE: OnceLock<FileMap> = OnceLock::new();
        let slot = self.maps.get(file as usize).unwrap_or(&NONE);
        slot.get_or_init(|| FileMap::new(&self.whole, file as usize))
    }

    pub(crate) fn size(&self, file: u32) -> u64 {
        self.map(file).size()
    }

    /// The kernel asks for these bytes.
    pub(crate) fn asked(&self, file: u32, bytes: &Range<u64>, most: u64) -> Next {
        // Whoever needs both takes this one first.
        let mut follow = lock(&self.follow);
        let mut held = lock(&self.held);
        held.asked(file, bytes);
        follow.asked(file, bytes, most, &held)
    }

    /// The kernel is about to be answered with these bytes.
    pub(crate) fn answered(&self, file: u32, bytes: &Range<u64>) {
        lock(&self.held).answered(file, bytes);
    }

    pub(crate) fn take(self: &Arc<Self>, id: ReaderId, most: u64) -> Option<(Ahead, Wanted)> {
        let mut follow = lock(&self.follow);
        let mut held = lock(&self.held);
        let bounds = |file, at| {
            let map = self.map(file);
            map.run(at).map_or(at, |run| run.start)..map.run_end(at)
        };
        let ahead = follow.take(id, most, &held, bounds)?;
        // Before anybody can take it for done.
        held.want(ahead.file, &ahead.bytes);
        let wanted = Wanted(self.clone(), ahead.file, ahead.bytes.clone());
        Some((ahead, wanted))
    }

    /// The runs of chunks that hold these bytes of a file, of which the kernel has every page and nobody wants any.
    pub(crate) fn done(&self, file: u32, bytes: &Range<u64>) -> Vec<Unit> {
        let map = self.map(file);
        let (mut done, mut at) = (Vec::new(), bytes.start);
        while at < bytes.end
            && let Some(run) = map.run(at)
        {
            let pages = run.start / PAGE * PAGE..run.end.next_multiple_of(PAGE).min(map.size());
            if lock(&self.held).is_done(file, &pages, &run) {
                done.extend(map.units(&self.whole, &run));
            }
            at = run.end;
        }
        done
    }

    pub(crate) fn repeated(&self) -> &HashSet<StoredDigest> {
        self.repeated.get_or_init(|| {
            let mut seen = HashSet::new();
            let all = self.whole.chunks.iter().map(|placed| placed.record.stored);
            all.filter(|digest| !seen.insert(*digest)).collect()
        })
    }

    /// The first of these bytes that the kernel lacks.
    pub(crate) fn gap(&self, file: u32, bytes: &Range<u64>) -> Option<Range<u64>> {
        lock(&self.held).gap(file, bytes)
    }

    /// The same, for whoever gives them to the kernel and says what became of it.
    pub(crate) fn claim(&self, file: u32, bytes: &Range<u64>) -> Option<Range<u64>> {
        lock(&self.held).claim(file, bytes)
    }

    pub(crate) fn settle(&self, file: u32, claimed: &Range<u64>, is_there: bool) {
        lock(&self.held).settle(file, claimed, is_there);
    }

    pub(crate) fn rest(&self, id: ReaderId, most: u64) -> bool {
        lock(&self.follow).rest(id, most)
    }

    pub(crate) fn forget(&self, id: ReaderId) {
        lock(&self.follow).drop_reader(id);
    }
}

/// Whether there is no such name.
pub(crate) fn is_missing(error: &StoreError) -> bool {
    error.is_not_found() || matches!(error, StoreError::NoArtifact { .. })
}

fn is_unlistable(error: &StoreError) -> bool {
    matches!(error, StoreError::Transport(error) if error.kind == TransportErrorKind::Unlistable)
}

/// The value, whatever became of others who held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
