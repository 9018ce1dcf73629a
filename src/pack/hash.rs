//! What identifies a whole file outside the store: its SHA-256 and, where it is small, its git-blob
//! SHA-1. Both are serial.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::cut;
use super::error::PackError;
use super::held::Held;
use super::input::Input;
use super::pool::{InOrder, Pending, Pool, Turn};
use crate::format::page::FileEntry;

/// A file's hashes.
pub(super) struct FileHashes {
    pub(super) sha256: [u8; 32],
    pub(super) git_sha1: Option<[u8; 20]>,
}

/// Hashes a file's bytes, given in order.
#[derive(Debug, Default)]
pub(super) struct FileHasher {
    sha256: Option<Sha256>,
    git_sha1: Option<Sha1>,
    len: u64,
}

impl FileHasher {
    fn new(size: u64, sha256: bool) -> Self {
        let git = || {
            let mut git = Sha1::new();
            git.update(format!("blob {size}\0"));
            git
        };
        let git_sha1 = FileEntry::has_git_sha1(size).then(git);
        Self { sha256: sha256.then(Sha256::new), git_sha1, len: 0 }
    }

    fn is_idle(&self) -> bool {
        self.sha256.is_none() && self.git_sha1.is_none()
    }

    fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(git) = &mut self.git_sha1 {
            git.update(bytes);
        }
        self.len += bytes.len() as u64;
    }

    fn read(&mut self, held: &Held, len: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        cut::for_each(held, len, buffer, |bytes| self.update(bytes))
    }

    fn finish(&self) -> FileHashes {
        FileHashes {
            sha256: self.sha256.clone().map_or([0; 32], |sha256| sha256.finalize().into()),
            git_sha1: self.git_sha1.clone().map(|git| git.finalize().into()),
        }
    }
}

/// The hashes of one file, on their way.
pub(super) enum Hashing {
    /// The file is read once more for them.
    Apart(Pending<Result<FileHashes, PackError>>),
    /// They are fed with what is read for the chunks, group after group.
    Along { hasher: Arc<InOrder<FileHasher>>, turns: usize },
    /// They are known.
    Known(FileHashes),
}

impl Hashing {
    /// A file on disk is read for its hashes apart: they take longest, and waiting for what chunks are
    /// read would make them longer. One whose parts are still to be made is hashed along with them.
    pub(super) fn begin(input: &Input, sha256: bool, pool: &Pool) -> Self {
        let len = input.size();
        let mut hasher = FileHasher::new(len, sha256);
        match input {
            Input::File(file) => {
                let held = Held::File { file: file.clone(), offset: 0 };
                Self::Apart(pool.spawn(move |worker| {
                    if !hasher.is_idle() {
                        let read = hasher.read(&held, len, &mut worker.buffer);
                        read.map_err(|error| held.error(error))?;
                    }
                    Ok(hasher.finish())
                }))
            }
            Input::Made(_) => Self::Along { hasher: Arc::new(InOrder::new(hasher)), turns: 0 },
            Input::Known(file) => {
                let entry = file.entry().map(|(file, _)| file);
                Self::Known(FileHashes {
                    sha256: entry.map_or([0; 32], |file| file.sha256),
                    git_sha1: entry.and_then(|file| file.git_sha1),
                })
            }
        }
    }

    /// The turn of the bytes that come next in the file, if they are to be hashed along.
    pub(super) fn turn(&mut self) -> Option<Turn<FileHasher>> {
        match self {
            Self::Apart(_) | Self::Known(_) => None,
            Self::Along { hasher, turns } => {
                *turns += 1;
                Some(hasher.turn(*turns - 1))
            }
        }
    }

    /// The hashes, once every job that was given a turn has ended.
    pub(super) fn wait(self, input: &Input) -> Result<FileHashes, PackError> {
        match self {
            Self::Apart(pending) => pending.wait()?,
            Self::Known(hashes) => Ok(hashes),
            Self::Along { hasher, .. } => hasher.read(|hasher| match hasher.len == input.size() {
                true => Ok(hasher.finish()),
                // Whatever was left out, the hash is of something else.
                false => Err(PackError::Short),
            }),
        }
    }
}

/// The turns of a group of chunks at the hashes which its bytes are part of.
pub(super) struct Turns {
    pub(super) unit: Option<Turn<blake3::Hasher>>,
    pub(super) file: Option<Turn<FileHasher>>,
}

impl Turns {
    /// Hashes a group: the run that its chunks were cut from, or the chunks, which are the run.
    pub(super) fn hash(self, run: Option<Bytes>, chunks: &[impl AsRef<[u8]>]) {
        let chunks = chunks.iter().map(AsRef::as_ref);
        let bytes = run.as_deref().map_or_else(|| Vec::from_iter(chunks), |run| vec![run]);
        // What takes longest comes first: the next group waits for it.
        if let Some(turn) = self.file {
            turn.change(|hasher| bytes.iter().for_each(|bytes| hasher.update(bytes)));
        }
        if let Some(turn) = self.unit {
            turn.change(|hasher| {
                bytes.iter().for_each(|bytes| _ = hasher.update(bytes));
            });
        }
    }
}

/// Reads bytes that are hashed for their file and for nothing else.
pub(super) fn alone(
    turn: Turn<FileHasher>,
    held: &Held,
    len: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), PackError> {
    let read = turn.change(|hasher| hasher.read(held, len, buffer));
    read.unwrap_or(Ok(())).map_err(|error| held.error(error))
}
