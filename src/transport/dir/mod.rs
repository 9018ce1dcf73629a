//! A store in a directory.
//!
//! An object appears by rename, after its bytes are on the disk; a reader sees the old object or
//! the new one. What a killed writer leaves lies in `.tmp/` and is never listed. Names that start
//! with a dot belong to this module, and no directory is entered through a symbolic link.

mod failure;
mod read;
mod write;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Advice, FlockOperation};

use super::{
    Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind,
};
use failure::Failure;
use read::{FileBody, hashed, stat_version};
use write::{Temp, make_parent, sync_parent};

const TEMP_DIR: &str = ".tmp";
const LOCK_FILE: &str = ".lock";
/// Objects up to this size, read whole, have the BLAKE3 of their content as version.
const HASHED_SIZE: u64 = 1 << 20;
/// Reads of at least this length tell the kernel to read ahead.
const LONG_READ: u64 = 1 << 20;
/// The age at which [`DirBackend::sweep`] takes a temporary file for abandoned.
pub const STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A store in a directory of the local file system.
#[derive(Debug, Clone)]
pub struct DirBackend {
    inner: Arc<Dir>,
}

#[derive(Debug)]
struct Dir {
    root: PathBuf,
    location: String,
}

impl DirBackend {
    /// The store below `root`, which is made by the first write.
    pub fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        Self { inner: Arc::new(Dir { root, location }) }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Removes temporary files that were last written more than `age` ago, and returns how many.
    /// A living writer touches its file all the time, so with [`STALE_AGE`] none is disturbed.
    ///
    /// # Errors
    /// If the folder cannot be read, or one not be removed.
    pub async fn sweep(&self, age: Duration) -> Result<usize, TransportError> {
        self.blocking("temporary files", move |dir| dir.sweep(age)).await
    }

    /// Runs `work` on a thread made for blocking.
    async fn blocking<T: Send + 'static>(
        &self,
        object: &str,
        work: impl FnOnce(&Dir) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, TransportError> {
        let dir = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || work(&dir)).await;
        let failure = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure,
            Err(e) => Failure::from(io::Error::other(e)),
        };
        Err(self.inner.error(object, failure))
    }
}

impl Dir {
    fn error(&self, object: impl std::fmt::Display, failure: Failure) -> TransportError {
        let error = TransportError::new(failure.kind, &self.location, object, failure.message);
        match failure.cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }

    /// The file of an object. Directories on the way must be directories, not links to them.
    fn file_of(&self, path: &ObjectPath) -> Result<PathBuf, Failure> {
        let mut file = self.root.clone();
        let mut segments = path.as_str().split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.starts_with('.') {
                return Err(Failure::new(
                    TransportErrorKind::Invalid,
                    "in a directory no segment of a path may start with a dot",
                ));
            }
            file.push(segment);
            if segments.peek().is_some()
                && fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_symlink())
            {
                return Err(Failure::new(
                    TransportErrorKind::Invalid,
                    format!("{} is a symbolic link in the place of a directory", file.display()),
                ));
            }
        }
        Ok(file)
    }

    fn open(&self, path: &ObjectPath, range: &ReadRange) -> Result<ObjectReader, Failure> {
        if range.is_empty() {
            return Err(Failure::new(TransportErrorKind::Invalid, "the range is empty"));
        }
        let file = match File::open(self.file_of(path)?) {
            Ok(file) => file,
            Err(e) if is_missing(&e) => return Err(io::Error::from(io::ErrorKind::NotFound).into()),
            Err(e) => return Err(e.into()),
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Failure::new(TransportErrorKind::NotFound, "not a regular file"));
        }
        let size = meta.len();
        let Some(range) = (match range {
            ReadRange::Full if size <= HASHED_SIZE => return hashed(file, &meta),
            range => range.within(size),
        }) else {
            return Err(Failure::new(
                TransportErrorKind::OutOfRange,
                format!("the object ends at byte {size}"),
            ));
        };
        let length = range.end - range.start;
        if length >= LONG_READ {
            rustix::fs::fadvise(&file, range.start, NonZeroU64::new(length), Advice::Sequential)?;
        }
        Ok(ObjectReader {
            range: range.clone(),
            size: Some(size),
            version: Some(stat_version(&meta)),
            head: None,
            body: Box::new(FileBody {
                file,
                range,
                location: self.location.clone(),
                object: path.clone(),
            }),
        })
    }

    fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, Failure> {
        match fs::metadata(self.file_of(path)?) {
            Ok(meta) if meta.is_file() => Ok(Some(ObjectInfo {
                path: path.clone(),
                size: meta.len(),
                modified: meta.modified()?,
            })),
            Ok(_) => Ok(None),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn put(&self, path: &ObjectPath, parts: &[Bytes]) -> Result<(), Failure> {
        let target = self.file_of(path)?;
        let temp = Temp::write(&self.root.join(TEMP_DIR), parts)?;
        make_parent(&target)?;
        let lock = self.lock(FlockOperation::LockShared)?;
        temp.publish(&target)?;
        drop(lock);
        sync_parent(&target)
    }

    fn put_if(
        &self,
        path: &ObjectPath,
        expected: &Expected,
        content: Bytes,
    ) -> Result<(), Failure> {
        let target = self.file_of(path)?;
        let temp = Temp::write(&self.root.join(TEMP_DIR), &[content])?;
        make_parent(&target)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        if !self.is_as(path, expected)? {
            return Err(Failure::new(TransportErrorKind::Conflict, "the object changed meanwhile"));
        }
        temp.publish(&target)?;
        // Who reads the new object and builds on it must not see it vanish in a power failure.
        sync_parent(&target)?;
        drop(lock);
        Ok(())
    }

    fn is_as(&self, path: &ObjectPath, expected: &Expected) -> Result<bool, Failure> {
        let now = match self.open(path, &ReadRange::Full) {
            Ok(reader) => reader.version,
            Err(failure) if failure.kind == TransportErrorKind::NotFound => None,
            Err(failure) => return Err(failure),
        };
        Ok(match expected {
            Expected::Absent => now.is_none(),
            Expected::Version(version) => now.as_ref() == Some(version),
        })
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), Failure> {
        let target = self.file_of(path)?;
        if fs::symlink_metadata(&target).is_err_and(|e| is_missing(&e)) {
            return Ok(());
        }
        let lock = self.lock(FlockOperation::LockShared)?;
        let removed = fs::remove_file(&target);
        drop(lock);
        match removed {
            Err(e) if !is_missing(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Takes the lock that conditional writes hold alone and other changes share; dropping the
    /// file gives it back.
    fn lock(&self, operation: FlockOperation) -> Result<File, Failure> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.join(LOCK_FILE))?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Err(rustix::io::Errno::INTR) => {}
                done => {
                    done?;
                    return Ok(file);
                }
            }
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, Failure> {
        let folder = prefix.trim_end_matches('/');
        let start = match (folder, ObjectPath::new(folder)) {
            ("", _) => self.root.clone(),
            (_, Some(path)) => self.file_of(&path)?,
            (_, None) => return Err(Failure::new(TransportErrorKind::Invalid, "not a prefix")),
        };
        if !folder.is_empty() && fs::symlink_metadata(&start).is_ok_and(|meta| meta.is_symlink()) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut folders = vec![(start, folder.to_owned())];
        while let Some((folder, name)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if is_missing(&e) => continue,
                Err(e) => return Err(e.into()),
            };
            for entry in entries {
                let entry = entry?;
                let file_name = entry.file_name();
                // A name that is no text, or is hidden, is none of the store's.
                let Some(file_name) = file_name.to_str().filter(|n| !n.starts_with('.')) else {
                    continue;
                };
                let name = match name.as_str() {
                    "" => file_name.to_owned(),
                    name => format!("{name}/{file_name}"),
                };
                if entry.file_type()?.is_dir() {
                    folders.push((entry.path(), name));
                    continue;
                }
                let Some(path) = ObjectPath::new(name) else {
                    continue;
                };
                match fs::metadata(entry.path()) {
                    Ok(meta) if meta.is_file() => found.push(ObjectInfo {
                        path,
                        size: meta.len(),
                        modified: meta.modified()?,
                    }),
                    Ok(_) => {}
                    Err(e) if is_missing(&e) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn sweep(&self, age: Duration) -> Result<usize, Failure> {
        let entries = match fs::read_dir(self.root.join(TEMP_DIR)) {
            Ok(entries) => entries,
            Err(e) if is_missing(&e) => return Ok(0),
            Err(e) => return Err(e.into()),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let modified = match entry.metadata().and_then(|meta| meta.modified()) {
                Ok(modified) => modified,
                Err(e) if is_missing(&e) => continue,
                Err(e) => return Err(e.into()),
            };
            // A time in the future has no age.
            if modified.elapsed().unwrap_or_default() >= age {
                match fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(e) if is_missing(&e) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(removed)
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[async_trait]
impl Transport for DirBackend {
    fn location(&self) -> &str {
        &self.inner.location
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        let opened = self.inner.open(path, &range);
        opened.map_err(|failure| self.inner.error(path, failure))
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        let found = self.inner.head(path);
        found.map_err(|failure| self.inner.error(path, failure))
    }

    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError> {
        let target = path.clone();
        self.blocking(path.as_str(), move |dir| dir.put(&target, &parts)).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError> {
        let target = path.clone();
        self.blocking(path.as_str(), move |dir| dir.put_if(&target, &expected, content)).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        let target = path.clone();
        self.blocking(path.as_str(), move |dir| dir.delete(&target)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        let below = prefix.to_owned();
        self.blocking(prefix, move |dir| dir.list(&below)).await
    }

    async fn sweep(&self, age: Duration) -> Result<usize, TransportError> {
        Self::sweep(self, age).await
    }

    fn reads_block(&self) -> bool {
        true
    }
}
