//! Unpacking: an artifact's files, byte for byte, into a folder.
//!
//! Every path is resolved one folder at a time, without following links, below the folder that the
//! user named: no artifact and no link planted there leads a write elsewhere. A file appears under
//! its name when it is complete. What is there already and right is kept, so that an interrupted run goes on
//! when it is run again; what is there and is none of the artifact's is never touched.

mod error;
mod parts;
mod there;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::format::page::FileEntry;
use crate::load::{LoadOptions, LoadStats, Loader};
use crate::store::{ArtifactGraph, Store};
use parts::{FileParts, file_parts};
use there::{Begun, There, partial_name};

pub use error::UnpackError;

/// Tensors above this size come in pieces, so that memory does not depend on them.
const PIECE: u64 = 8 << 20;
/// Temporary names that one process tries.
const TEMPORARY_NAMES: u32 = 64;

/// How to unpack.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// Whether the folder may hold other things: files with names of the artifact's are replaced, and
    /// everything else stays as it is.
    pub force: bool,
}

/// What unpacking did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpacked {
    /// What was loaded.
    pub stats: LoadStats,
    /// Files that were there and right.
    pub kept_files: u64,
    /// Bytes that were there and right, of files that an interrupted run did not complete too.
    pub kept_bytes: u64,
}

/// Writes the files of `whole` below `out`, which is made if it is missing. Blocks; call it from
/// outside the runtime that `runtime` drives.
///
/// # Errors
/// If the folder holds other things and the options do not allow that, a file cannot be written, or a chunk
/// cannot be had.
pub fn unpack(
    whole: &ArtifactGraph,
    store: &Store,
    out: &Path,
    options: UnpackOptions,
    runtime: &Handle,
    advance: &dyn Fn(u64),
) -> Result<Unpacked, UnpackError> {
    let failed = |source| UnpackError::Io { path: out.to_owned(), source };
    let parts = |(file, first): &(FileEntry, usize)| file_parts(whole, file, *first);
    let parts = whole.files.iter().map(parts);
    let entries = whole.files.iter().map(|(entry, _)| entry);
    let files: Vec<_> =
        entries.zip(parts).map(|(entry, parts)| FileParts { entry, parts }).collect();
    let there = There::look(out, &files)?;
    let right = there.right(out, &files, options.force)?;
    let mut done = Unpacked::default();
    for file in right.iter().filter_map(|index| files.get(*index)) {
        done.kept_files += 1;
        done.kept_bytes += file.entry.size;
    }
    std::fs::create_dir_all(out).map_err(failed)?;
    let root = File::open(out).map_err(failed)?;
    let mut missing = files.iter().enumerate().filter(|(index, _)| !right.contains(index));
    let missing: Vec<_> = missing.by_ref().map(|(_, file)| file).collect();
    let mut begun = there.take_over(out, missing.first().copied())?;
    let skipped = begun.as_ref().map_or(0, |begun| begun.parts);
    done.kept_bytes += begun.as_ref().map_or(0, |begun| begun.len);
    advance(done.kept_bytes);
    let wants = missing.iter().flat_map(|file| &file.parts).skip(skipped);
    let wants: Vec<_> = wants.map(|part| part.request.clone()).collect();
    let load = LoadOptions { piece: Some(PIECE), ..LoadOptions::default() };
    let guard = runtime.enter();
    let mut loader = Loader::start(store.clone(), Some(whole.id), wants, Default::default(), &load);
    drop(guard);
    for file in missing {
        let skipped = begun.as_ref().map_or(0, |begun| begun.parts);
        let mut target = Target::create(&root, out, file.entry, begun.take())?;
        for _ in skipped..file.parts.len() {
            loop {
                let Some(piece) = runtime.block_on(loader.next()) else { break };
                let piece = piece?;
                target.write(&piece.data)?;
                advance(piece.data.len() as u64);
                if piece.is_last_piece() {
                    break;
                }
            }
        }
        target.finish()?;
    }
    done.stats = loader.stats();
    Ok(done)
}

/// A file being written under a temporary name, which is locked while that goes on.
struct Target {
    folder: OwnedFd,
    file: File,
    temporary: String,
    name: String,
    path: PathBuf,
    /// Whether anything of it was written.
    begun: bool,
    done: bool,
}

impl Target {
    /// The file, empty or as far as an interrupted run came.
    fn create(
        root: &File,
        out: &Path,
        entry: &FileEntry,
        begun: Option<Begun>,
    ) -> Result<Self, UnpackError> {
        let mut path = out.to_owned();
        let io = |path: &Path, error: Errno| match error {
            Errno::NOTDIR | Errno::LOOP => UnpackError::NotAFolder { path: path.to_owned() },
            error => UnpackError::Io { path: path.to_owned(), source: error.into() },
        };
        let mut folder = OwnedFd::from(
            root.try_clone().map_err(|source| UnpackError::Io { path: path.clone(), source })?,
        );
        let (above, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        for segment in above.split('/').filter(|segment| !segment.is_empty()) {
            path.push(segment);
            match mkdirat(&folder, segment, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(io(&path, error)),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            folder =
                openat(&folder, segment, flags, Mode::empty()).map_err(|error| io(&path, error))?;
        }
        path.push(name);
        let name = name.to_owned();
        if let Some(Begun { name: partial, mut file, len, .. }) = begun {
            let failed = |source| UnpackError::Io { path: path.clone(), source };
            file.set_len(len).map_err(failed)?;
            file.seek(SeekFrom::Start(len)).map_err(failed)?;
            let temporary = partial.rsplit('/').next().unwrap_or(&partial).to_owned();
            return Ok(Self { folder, file, temporary, name, path, begun: true, done: false });
        }
        let mode = Mode::from_raw_mode(if entry.executable { 0o777 } else { 0o666 });
        let (file, temporary) = new_partial(&folder, mode).map_err(|e| io(&path, e))?;
        Ok(Self { folder, file, temporary, name, path, begun: false, done: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Self { file, path, begun, .. } = self;
        *begun = true;
        file.write_all(bytes).map_err(|source| UnpackError::Io { path: path.clone(), source })
    }

    fn finish(mut self) -> Result<(), UnpackError> {
        let folder = self.folder.as_fd();
        renameat(folder, self.temporary.as_str(), folder, self.name.as_str())
            .map_err(|error| UnpackError::Io { path: self.path.clone(), source: error.into() })?;
        self.done = true;
        Ok(())
    }
}

/// A new file under a temporary name, locked, so that no other run takes it for one that was left behind.
fn new_partial(folder: &OwnedFd, mode: Mode) -> Result<(File, String), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    for attempt in 0..TEMPORARY_NAMES {
        let name = partial_name(attempt);
        let file = match openat(folder, name.as_str(), flags, mode) {
            Err(Errno::EXIST) => continue,
            file => file?,
        };
        // Another run has found it before it was locked, and removes it. Without locks no other run takes it over,
        // which is all that they are for.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            continue;
        }
        let (own, there) =
            (fstat(&file)?, statat(folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW));
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) {
            return Ok((file.into(), name));
        }
    }
    Err(Errno::AGAIN)
}

impl Drop for Target {
    fn drop(&mut self) {
        // What was written is of use to the next run.
        if !self.done && !self.begun {
            // An error is on its way already; a leftover has a name that tells what it is.
            let _ = unlinkat(&self.folder, self.temporary.as_str(), AtFlags::empty());
        }
    }
}
