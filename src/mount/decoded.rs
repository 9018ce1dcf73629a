//! Files that were read whole, decoded, in a folder: the kernel reads these itself, at the speed of the disk.
//!
//! What the kernel reads itself nobody checks, so that they are kept only where the disk is trusted. A file is written
//! of verified chunks, and appears under its SHA-256 when it is complete and has that. What an earlier mount left is
//! hashed before it is used. Once the budget is full, those go first that were opened longest ago; who has one open
//! reads it to its end.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

/// The folder in that of the chunks.
const FOLDER: &str = "files";
/// What names of unfinished files begin with.
const UNFINISHED: &str = ".part-";
/// What is read of a file at a time to hash it.
const PIECE: usize = 1 << 20;

/// The SHA-256 of a file.
type Name = [u8; 32];

/// The files in a folder.
#[derive(Debug)]
pub(crate) struct DecodedFiles {
    folder: PathBuf,
    budget: u64,
    files: Mutex<Files>,
    next: AtomicU64,
    /// Files that were made.
    pub(crate) made: AtomicU64,
}

#[derive(Debug)]
struct Files {
    there: LruCache<Name, There>,
    /// Those that somebody writes or hashes.
    busy: HashSet<Name>,
    used: u64,
}

#[derive(Debug)]
struct There {
    size: u64,
    /// None for one that an earlier mount left and nobody has hashed.
    file: Option<Arc<File>>,
}

impl DecodedFiles {
    /// Opens the folder within `cache`, which is made if it is missing, with what an earlier mount left there.
    pub(crate) fn open(cache: &Path, budget: u64) -> io::Result<Self> {
        let folder = cache.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let about = entry.metadata()?;
            match blake3::Hash::from_hex(name) {
                Ok(sha256) => found.push((about.modified()?, *sha256.as_bytes(), about.len())),
                Err(_) if name.starts_with(UNFINISHED) => fs::remove_file(entry.path())?,
                Err(_) => {}
            }
        }
        found.sort_unstable();
        let mut files = Files { there: LruCache::unbounded(), busy: HashSet::new(), used: 0 };
        for (_, name, size) in found {
            files.used += size;
            files.there.put(name, There { size, file: None });
        }
        let (next, made) = (AtomicU64::new(0), AtomicU64::new(0));
        let own = Self { folder, budget, files: Mutex::new(files), next, made };
        own.make_room(&mut own.lock(), 0);
        Ok(own)
    }

    /// The file, if it is there and was hashed.
    pub(crate) fn find(&self, name: &Name) -> Option<Arc<File>> {
        self.lock().there.get(name)?.file.clone()
    }

    /// Whether the file is there and was not hashed.
    pub(super) fn is_unknown(&self, name: &Name) -> bool {
        self.lock().there.peek(name).is_some_and(|there| there.file.is_none())
    }

    /// Hashes a file that an earlier mount left; one that is another goes. Blocks.
    pub(super) fn check(&self, name: &Name) {
        if !self.lock().busy.insert(*name) {
            return;
        }
        let path = self.path(name);
        let checked = File::open(&path).and_then(|mut file| {
            let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    count => hasher.update(piece.get(..count).unwrap_or_default()),
                }
            }
            Ok((hasher.finalize()[..] == name[..]).then_some(file))
        });
        let mut files = self.lock();
        files.busy.remove(name);
        match checked {
            Ok(Some(file)) => {
                if let Some(there) = files.there.get_mut(name) {
                    there.file = Some(Arc::new(file));
                }
            }
            Ok(None) | Err(_) => self.remove(&mut files, name),
        }
    }

    /// Begins a file that is not there; `None` if somebody else makes it, or there is no room for it.
    pub(super) fn begin(self: &Arc<Self>, name: &Name, size: u64) -> Option<Making> {
        let mut files = self.lock();
        if size > self.budget || files.there.contains(name) || !files.busy.insert(*name) {
            return None;
        }
        self.make_room(&mut files, size);
        files.used += size;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let (files, file, hasher) = (self.clone(), File::create_new(&path), Sha256::new());
        Some(Making { files, name: *name, size, path, file, hasher, is_kept: false })
    }

    /// Makes room for `size` bytes more.
    fn make_room(&self, files: &mut Files, size: u64) {
        while files.used.saturating_add(size) > self.budget
            && let Some((oldest, _)) = files.there.peek_lru()
        {
            let oldest = *oldest;
            self.remove(files, &oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // Nothing below panics between two changes that belong together.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, files: &mut Files, name: &Name) {
        if let Some(there) = files.there.pop(name) {
            files.used -= there.size;
            // One that stays is found again by the next mount.
            fs::remove_file(self.path(name)).unwrap_or_default();
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(blake3::Hash::from_bytes(*name).to_hex().as_str())
    }
}

/// A file that is written. One that is dropped before its end leaves nothing.
pub(super) struct Making {
    files: Arc<DecodedFiles>,
    name: Name,
    size: u64,
    path: PathBuf,
    file: io::Result<File>,
    hasher: Sha256,
    is_kept: bool,
}

impl Making {
    /// Writes what follows; blocks. Whether it could.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        self.hasher.update(bytes);
        self.file.as_mut().is_ok_and(|file| file.write_all(bytes).is_ok())
    }

    /// The file is complete; it counts if it is what its name says. Blocks.
    pub(super) fn finish(mut self) {
        let right = self.hasher.clone().finalize()[..] == self.name[..];
        let path = self.files.path(&self.name);
        if !right || self.file.is_err() || fs::rename(&self.path, &path).is_err() {
            return;
        }
        // The kernel must not write to it.
        if let Ok(file) = File::open(&path) {
            let there = There { size: self.size, file: Some(Arc::new(file)) };
            self.files.lock().there.put(self.name, there);
            self.files.made.fetch_add(1, Ordering::Relaxed);
            self.is_kept = true;
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut files = self.files.lock();
        files.busy.remove(&self.name);
        if !self.is_kept {
            files.used -= self.size;
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> Name {
        Sha256::digest(bytes).into()
    }

    fn make(files: &Arc<DecodedFiles>, bytes: &[u8]) -> bool {
        let Some(mut making) = files.begin(&name(bytes), bytes.len() as u64) else { return false };
        assert!(making.write(bytes));
        making.finish();
        files.find(&name(bytes)).is_some()
    }

    #[test]
    fn a_file_is_found_when_it_is_complete_and_right() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(DecodedFiles::open(folder.path(), 100).unwrap());
        let mut making = files.begin(&name(b"abc"), 3).unwrap();
        assert!(making.write(b"ab"));
        assert!(files.begin(&name(b"abc"), 3).is_none(), "somebody makes it");
        assert!(files.find(&name(b"abc")).is_none());
        drop(making);
        let mut wrong = files.begin(&name(b"abc"), 3).unwrap();
        assert!(wrong.write(b"abd"));
        wrong.finish();
        assert!(files.find(&name(b"abc")).is_none());
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0);
        assert!(make(&files, b"abc") && !make(&files, &[1; 101]));
        assert_eq!(files.lock().used, 3);
    }

    #[test]
    fn what_an_earlier_mount_left_is_hashed_first() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(DecodedFiles::open(folder.path(), 100).unwrap());
        assert!(make(&files, b"abc") && make(&files, b"defg"));
        fs::write(files.path(&name(b"defg")), b"dexg").unwrap();
        fs::write(folder.path().join(FOLDER).join(".part-1-1"), b"x").unwrap();
        let files = Arc::new(DecodedFiles::open(folder.path(), 100).unwrap());
        for bytes in [&b"abc"[..], b"defg"] {
            assert!(files.find(&name(bytes)).is_none() && files.is_unknown(&name(bytes)));
            files.check(&name(bytes));
        }
        assert!(files.find(&name(b"abc")).is_some() && files.find(&name(b"defg")).is_none());
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 1);
        assert!(make(&files, b"defg"));
    }

    #[test]
    fn those_opened_longest_ago_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(DecodedFiles::open(folder.path(), 10).unwrap());
        for bytes in [b"aaaa", b"bbbb"] {
            assert!(make(&files, bytes));
        }
        let mut open = files.find(&name(b"aaaa")).unwrap();
        assert!(make(&files, b"cccc") && files.find(&name(b"bbbb")).is_none());
        assert!(make(&files, b"dddddddddd") && files.lock().used == 10);
        // It is gone, and who has it open reads on.
        let mut read = String::new();
        Arc::get_mut(&mut open).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "aaaa");
        let files = DecodedFiles::open(folder.path(), 9).unwrap();
        assert_eq!(files.lock().used, 0);
    }
}
