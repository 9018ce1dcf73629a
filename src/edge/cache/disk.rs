//! Verified chunks on disk, one file each, checked again whenever they are read.
//!
//! A file appears under its chunk's digest when it is complete. One that is not what its name says, as
//! after a crash or a flipped bit, is removed and fetched again. Once the budget is full, those go first
//! that were read longest ago, and before them those that nobody read again; what an earlier run left
//! counts.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::chunk::verified::VerifiedChunk;
use crate::edge::cache::recency::Recency;
use crate::format::id::StoredDigest;
use crate::format::record::ChunkRecord;
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;

/// What names of unfinished files begin with.
const UNFINISHED: &str = ".part-";

/// Memory kept for chunks that are read.
const BUFFERS: usize = 64 << 20;

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct DiskStats {
    /// Chunks that were read.
    pub(crate) hits: AtomicU64,
    /// Chunks that were not what they should be.
    pub(crate) damaged: AtomicU64,
    /// Chunks that could not be written.
    pub(crate) unwritten: AtomicU64,
}

/// The chunks in a folder.
#[derive(Debug)]
pub(crate) struct DiskTier {
    folder: PathBuf,
    budget: u64,
    index: Mutex<Recency>,
    next: AtomicU64,
    buffers: Buffers,
    stats: DiskStats,
}

impl DiskTier {
    /// Opens a folder, which is made if it is missing, with what an earlier run left there.
    pub(crate) fn open(folder: &Path, budget: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut found: Vec<(SystemTime, StoredDigest, u64)> = Vec::new();
        for shard in fs::read_dir(folder)? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(shard.path())? {
                let file = file?;
                let name = file.file_name();
                let name = name.to_str().unwrap_or_default();
                // An edge that is about to end may still finish and evict chunks here.
                if name.starts_with(UNFINISHED) {
                    if_there(fs::remove_file(file.path()))?;
                } else if let Ok(digest) = name.parse()
                    && let Some(facts) = if_there(file.metadata())?
                {
                    let time = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((time, digest, facts.len()));
                }
            }
        }
        found.sort_unstable();
        let mut index = Recency::new(budget);
        for (_, digest, len) in found {
            index.add(digest, len);
        }
        let (next, stats) = (AtomicU64::new(0), DiskStats::default());
        let (folder, index, buffers) =
            (folder.to_owned(), Mutex::new(index), Buffers::new(BUFFERS));
        let tier = Self { folder, budget, index, next, buffers, stats };
        tier.evict();
        Ok(tier)
    }

    pub(crate) fn stats(&self) -> &DiskStats {
        &self.stats
    }

    /// What chunks are read into.
    /// Bytes in the folder.
    pub(crate) fn used(&self) -> u64 {
        self.index().used()
    }

    /// Whether the chunk may be there.
    pub(crate) fn has(&self, digest: &StoredDigest) -> bool {
        self.index().contains(digest)
    }

    /// Reads a chunk into one of the buffers. Blocks.
    pub(crate) fn read(&self, record: &ChunkRecord) -> Option<VerifiedChunk<Slot>> {
        let digest = record.stored;
        if !self.index().read(&digest) {
            return None;
        }
        let path = self.path(&digest);
        match read_file(&path, record, &self.buffers) {
            Ok(chunk) => {
                self.stats.hits.fetch_add(1, Ordering::Relaxed);
                Some(chunk)
            }
            Err(error) => {
                self.index().remove(&digest);
                if error.kind() != io::ErrorKind::NotFound {
                    self.stats.damaged.fetch_add(1, Ordering::Relaxed);
                    // A file that stays is found again, and refused again.
                    fs::remove_file(&path).unwrap_or_default();
                }
                None
            }
        }
    }

    /// Reads a chunk as [`read`](Self::read) does, if no disk need be waited for: the system has it in memory.
    pub(crate) fn read_at_once(&self, record: &ChunkRecord) -> Option<VerifiedChunk<Slot>> {
        if !self.has(&record.stored) {
            return None;
        }
        // Whatever else is wrong with it, who waits for the disk finds out.
        let read = read_cached_file(&self.path(&record.stored), record, &self.buffers).ok()?;
        self.index().read(&record.stored);
        self.stats.hits.fetch_add(1, Ordering::Relaxed);
        Some(read)
    }

    /// Keeps a chunk; blocks. One that cannot be written is only not kept.
    pub(crate) fn write(&self, digest: &StoredDigest, bytes: &[u8]) {
        let len = bytes.len() as u64;
        if self.has(digest) || len > self.budget {
            return;
        }
        match self.write_file(digest, bytes) {
            Ok(()) => {
                self.index().add(*digest, len);
                self.evict();
            }
            Err(_) => drop(self.stats.unwritten.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Forgets a chunk; blocks.
    pub(crate) fn remove(&self, digest: &StoredDigest) {
        self.index().remove(digest);
        // A file that stays is found again at the next start, and is right.
        fs::remove_file(self.path(digest)).unwrap_or_default();
    }

    fn write_file(&self, digest: &StoredDigest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        let Some(shard) = path.parent() else { return Ok(()) };
        fs::create_dir_all(shard)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = shard.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let written = File::create(&unfinished)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            fs::remove_file(&unfinished).unwrap_or_default();
        }
        written
    }

    /// Makes room.
    fn evict(&self) {
        loop {
            let next = self.index().evict();
            let Some(digest) = next else { return };
            fs::remove_file(self.path(&digest)).unwrap_or_default();
        }
    }

    fn path(&self, digest: &StoredDigest) -> PathBuf {
        let hex = digest.to_hex();
        let shard: String = hex.chars().take(2).collect();
        self.folder.join(shard).join(hex)
    }

    fn index(&self) -> MutexGuard<'_, Recency> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result; `None` if there is no such file any more.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_file(
    path: &Path,
    record: &ChunkRecord,
    buffers: &Buffers,
) -> io::Result<VerifiedChunk<Slot>> {
    let mut file = File::open(path)?;
    read_checked(record, buffers, |bytes| {
        file.read_exact(bytes)?;
        match file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(wrong("the file is too long")),
        }
    })
}

/// The same of a file whose name and bytes the system has in memory; of any other, an error.
#[cfg(target_os = "linux")]
fn read_cached_file(
    path: &Path,
    record: &ChunkRecord,
    buffers: &Buffers,
) -> io::Result<VerifiedChunk<Slot>> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    use rustix::io::{ReadWriteFlags, preadv2};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED)?;
    read_checked(record, buffers, |bytes| {
        let (len, mut beyond) = (bytes.len(), [0]);
        let mut into = [io::IoSliceMut::new(bytes), io::IoSliceMut::new(&mut beyond)];
        match preadv2(&file, &mut into, 0, ReadWriteFlags::NOWAIT)? {
            count if count == len => Ok(()),
            _ => Err(wrong("part of it is not in memory, or it is too long")),
        }
    })
}

#[cfg(not(target_os = "linux"))]
fn read_cached_file(_: &Path, _: &ChunkRecord, _: &Buffers) -> io::Result<VerifiedChunk<Slot>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The chunk that `read` fills one of the buffers with, checked.
fn read_checked(
    record: &ChunkRecord,
    buffers: &Buffers,
    read: impl FnOnce(&mut [u8]) -> io::Result<()>,
) -> io::Result<VerifiedChunk<Slot>> {
    let mut bytes = buffers.take(record.stored_len as usize);
    read(&mut bytes)?;
    VerifiedChunk::verify(*record, bytes).map_err(|_| wrong("the file is damaged"))
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;

    fn chunk(seed: u8) -> (ChunkRecord, Vec<u8>) {
        let bytes = vec![seed; 1000];
        (ChunkRecord::raw(Dtype::U8, 1000, blake3::hash(&bytes)), bytes)
    }

    #[test]
    fn what_is_kept_outlives_the_process_and_is_checked_again() {
        let dir = tempfile::tempdir().unwrap();
        let (record, bytes) = chunk(1);
        let tier = DiskTier::open(dir.path(), 10_000).unwrap();
        assert!(tier.read(&record).is_none());
        tier.write(&record.stored, &bytes);
        assert_eq!(tier.read(&record).unwrap().stored(), &bytes[..]);
        let path = tier.path(&record.stored);
        drop(tier);

        fs::write(path.parent().unwrap().join(".part-1-1"), b"half").unwrap();
        let tier = DiskTier::open(dir.path(), 10_000).unwrap();
        assert_eq!((tier.used(), tier.has(&record.stored)), (1000, true));
        assert_eq!(tier.read(&record).unwrap().stored(), &bytes[..]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "leftovers go");

        for damage in [&bytes[..999], &[&bytes[..], b"x"].concat(), &vec![2; 1000], &[]] {
            fs::write(&path, damage).unwrap();
            let tier = DiskTier::open(dir.path(), 10_000).unwrap();
            assert!(tier.read(&record).is_none() && !path.exists());
            assert_eq!(tier.stats().damaged.load(Ordering::Relaxed), 1);
            tier.write(&record.stored, &bytes);
            assert!(tier.read(&record).is_some());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_system_has_in_memory_is_read_at_once_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let tier = DiskTier::open(dir.path(), 10_000).unwrap();
        let (record, bytes) = chunk(1);
        assert!(tier.read_at_once(&record).is_none(), "it is not there");
        tier.write(&record.stored, &bytes);
        assert_eq!(tier.read_at_once(&record).unwrap().stored(), &bytes[..]);

        let path = tier.path(&record.stored);
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        // A file system that lies in memory forgets nothing.
        let forgets = rustix::fs::fstatfs(&file).unwrap().f_type != libc::TMPFS_MAGIC;
        assert_eq!(tier.read_at_once(&record).is_none(), forgets);
        assert_eq!(tier.read(&record).unwrap().stored(), &bytes[..]);
        assert!(tier.read_at_once(&record).is_some());

        // Damage is left to whoever removes it.
        for damage in [&bytes[..999], &[&bytes[..], b"x"].concat(), &vec![2; 1000], &[]] {
            fs::write(&path, damage).unwrap();
            assert!(tier.read_at_once(&record).is_none() && path.exists());
        }
        assert_eq!(tier.stats().damaged.load(Ordering::Relaxed), 0);
        assert!(tier.read(&record).is_none() && !path.exists());
        assert_eq!(tier.stats().hits.load(Ordering::Relaxed), 3 + u64::from(!forgets));
    }

    #[test]
    fn an_edge_that_ends_may_still_use_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let ending = DiskTier::open(dir.path(), 20_000).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..400_u32 {
                    let (record, bytes) = chunk((round % 60) as u8);
                    ending.write(&record.stored, &bytes);
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                DiskTier::open(dir.path(), 20_000).unwrap();
            }
        });
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let tier = DiskTier::open(dir.path(), 3500).unwrap();
        let chunks: Vec<_> = (0..4).map(chunk).collect();
        for (record, bytes) in &chunks[..3] {
            tier.write(&record.stored, bytes);
        }
        assert!(tier.read(&chunks[0].0).is_some());
        tier.write(&chunks[3].0.stored, &chunks[3].1);
        let there: Vec<bool> = chunks.iter().map(|(record, _)| tier.has(&record.stored)).collect();
        assert_eq!(there, [true, false, true, true]);
        assert!(tier.used() <= 3500 && !tier.path(&chunks[1].0.stored).exists());
        drop(tier);
        assert_eq!(DiskTier::open(dir.path(), 1500).unwrap().used(), 1000);
    }
}
