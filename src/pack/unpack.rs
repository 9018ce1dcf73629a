//! Unpacking: an artifact's files, byte for byte, into a folder.
//!
//! Every path is resolved one folder at a time, without following links, below the folder that the
//! user named: no artifact and no link planted there leads a write elsewhere. A file appears under
//! its name when it is complete.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use tokio::runtime::Handle;

use crate::format::page::{Extent, FileEntry, TensorEntry};
use crate::load::{LoadError, LoadOptions, LoadStats, Loader};
use crate::schedule::plan::TensorRequest;
use crate::store::{ArtifactGraph, Store};

/// Tensors above this size come in pieces, so that memory does not depend on them.
const PIECE: u64 = 8 << 20;

/// Why unpacking failed. Files that were complete by then stay.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The bytes could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The folder could not be written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A link or file stands where a folder is needed.
    #[error("{}: this is no folder (links are not followed); remove it, or unpack elsewhere", path.display())]
    NotAFolder { path: PathBuf },
}

/// Writes the files of `whole` below `out`, which is made if it is missing. Blocks; call it from
/// outside the runtime that `runtime` drives.
///
/// # Errors
/// If a file cannot be written, or a chunk cannot be had.
pub fn unpack(
    whole: &ArtifactGraph,
    store: &Store,
    out: &Path,
    runtime: &Handle,
    advance: &dyn Fn(u64),
) -> Result<LoadStats, UnpackError> {
    let failed = |source| UnpackError::Io { path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(failed)?;
    let root = File::open(out).map_err(failed)?;
    let mut wants = Vec::new();
    let mut per_file = Vec::with_capacity(whole.files.len());
    for (file, first) in &whole.files {
        let parts = file_parts(whole, file, *first);
        per_file.push(parts.len());
        wants.extend(parts);
    }
    let options = LoadOptions { piece: Some(PIECE), ..LoadOptions::default() };
    let guard = runtime.enter();
    let mut loader =
        Loader::start(store.clone(), Some(whole.id), wants, Default::default(), &options);
    drop(guard);
    for ((file, _), parts) in whole.files.iter().zip(per_file) {
        let mut target = Target::create(&root, out, file)?;
        for _ in 0..parts {
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
    Ok(loader.stats())
}

/// What is loaded for a file, whose chunks begin at `chunk`.
fn file_parts(
    whole: &ArtifactGraph,
    file: &FileEntry,
    mut chunk: usize,
) -> Vec<Arc<TensorRequest>> {
    let mut parts = Vec::new();
    let mut push = |entry: TensorEntry, own: Range<usize>| {
        let mut seen = HashSet::new();
        let bases = own.clone().flat_map(|chunk| whole.bases_of(chunk));
        let bases: Vec<_> = bases.filter(|&base| seen.insert(base)).collect();
        let all = own.chain(bases).filter_map(|chunk| whole.chunks.get(chunk));
        let (records, places) = all.map(|chunk| (chunk.record, chunk.place)).unzip();
        parts.push(Arc::new(TensorRequest::new(entry, records, places, None)));
    };
    for extent in &file.extents {
        match *extent {
            Extent::Tensor { ordinal } => {
                if let Some((entry, first)) = whole.tensors.get(ordinal as usize) {
                    let count = usize::try_from(entry.grid.chunks()).unwrap_or(0);
                    push(entry.clone(), *first..first.saturating_add(count));
                }
            }
            Extent::Content { chunks, .. } => {
                for index in chunk..chunk + chunks as usize {
                    if let Some(found) = whole.chunks.get(index) {
                        push(TensorEntry::of_content(&file.path, &found.record), index..index + 1);
                    }
                }
                chunk += chunks as usize;
            }
        }
    }
    parts
}

/// A file being written under a temporary name.
struct Target {
    folder: OwnedFd,
    file: File,
    temporary: String,
    name: String,
    path: PathBuf,
    done: bool,
}

impl Target {
    fn create(root: &File, out: &Path, entry: &FileEntry) -> Result<Self, UnpackError> {
        let mut path = out.to_owned();
        let io = |path: &Path, error: rustix::io::Errno| match error {
            rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                UnpackError::NotAFolder { path: path.to_owned() }
            }
            error => UnpackError::Io { path: path.to_owned(), source: error.into() },
        };
        let mut folder = OwnedFd::from(
            root.try_clone().map_err(|source| UnpackError::Io { path: path.clone(), source })?,
        );
        let (above, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        for segment in above.split('/').filter(|segment| !segment.is_empty()) {
            path.push(segment);
            match mkdirat(&folder, segment, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(io(&path, error)),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            folder =
                openat(&folder, segment, flags, Mode::empty()).map_err(|error| io(&path, error))?;
        }
        path.push(name);
        // Short whatever the name's length; the process id keeps two runs apart.
        let temporary = format!(".tenpak-{}.part", std::process::id());
        let flags =
            OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        let mode = Mode::from_raw_mode(if entry.executable { 0o777 } else { 0o666 });
        let file = openat(&folder, temporary.as_str(), flags, mode).map_err(|e| io(&path, e))?;
        let name = name.to_owned();
        Ok(Self { folder, file: file.into(), temporary, name, path, done: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Self { file, path, .. } = self;
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

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            // An error is on its way already; a leftover has a name that tells what it is.
            let _ = unlinkat(&self.folder, self.temporary.as_str(), AtFlags::empty());
        }
    }
}
