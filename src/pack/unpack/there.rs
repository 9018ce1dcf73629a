//! What lies in the folder that is unpacked to: files of the artifact that are right, what an interrupted run
//! left, and anything else.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::error::UnpackError;
use super::parts::FileParts;
use crate::format::page::FileEntry;

/// What `mkfs` puts into every new file system.
const LOST_AND_FOUND: &str = "lost+found";
/// What the names of files that are not complete begin and end with.
const PARTIAL: (&str, &str) = (".tenpak-", ".part");
/// Bytes hashed at a time.
const STEP: usize = 1 << 20;

/// A temporary name for the file that this process writes: short whatever the file's own name. The process id
/// keeps two runs on one machine apart, and `attempt` those that have the same.
pub(super) fn partial_name(attempt: u32) -> String {
    let number = match attempt {
        0 => String::new(),
        attempt => attempt.to_string(),
    };
    format!("{}{}{number}{}", PARTIAL.0, std::process::id(), PARTIAL.1)
}

/// Whether a file is called so.
fn is_partial(name: &str) -> bool {
    let id = name.strip_prefix(PARTIAL.0).and_then(|rest| rest.strip_suffix(PARTIAL.1));
    id.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
}

/// What lies in a folder.
#[derive(Debug, Default)]
pub(super) struct There {
    /// Sizes of regular files with names of the artifact's.
    files: BTreeMap<String, u64>,
    /// What interrupted runs left.
    partial: Vec<String>,
    /// Everything else.
    others: Vec<String>,
}

impl There {
    /// Looks into `out`, which may be missing, without following links.
    pub(super) fn look(out: &Path, files: &[FileParts<'_>]) -> Result<Self, UnpackError> {
        let mut folders = HashSet::new();
        for file in files {
            for (slash, _) in file.entry.path.match_indices('/') {
                folders.insert(file.entry.path.get(..slash).unwrap_or_default());
            }
        }
        let names: HashSet<&str> = files.iter().map(|file| file.entry.path.as_str()).collect();
        let mut there = Self::default();
        there.folder(out, "", (&names, &folders))?;
        there.others.sort();
        Ok(there)
    }

    fn folder(
        &mut self,
        path: &Path,
        prefix: &str,
        own: (&HashSet<&str>, &HashSet<&str>),
    ) -> Result<(), UnpackError> {
        let failed = |source| UnpackError::Io { path: path.to_owned(), source };
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let (names, folders) = own;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let file_name = entry.file_name();
            let name = format!("{prefix}{}", file_name.to_string_lossy());
            let is_text = file_name.to_str().is_some();
            if is_text && kind.is_dir() && folders.contains(name.as_str()) {
                self.folder(&entry.path(), &format!("{name}/"), own)?;
            } else if is_text && kind.is_file() && names.contains(name.as_str()) {
                self.files.insert(name, entry.metadata().map_err(failed)?.len());
            } else if kind.is_file() && is_partial(&file_name.to_string_lossy()) {
                self.partial.push(name);
            } else if !(kind.is_dir() && name == LOST_AND_FOUND) {
                self.others.push(name);
            }
        }
        Ok(())
    }

    /// Which of the files are right as they are, by their places in the list; `force` says whether other
    /// things, and files of the same names, may be there.
    pub(super) fn right(
        &self,
        out: &Path,
        files: &[FileParts<'_>],
        force: bool,
    ) -> Result<HashSet<usize>, UnpackError> {
        let occupied = |first: String, count: usize| {
            let more = match count - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            Err(UnpackError::Occupied { path: out.to_owned(), what: format!("{first}{more}") })
        };
        if let Some(first) = self.others.first().filter(|_| !force) {
            return occupied(format!("{first} is not of this artifact"), self.others.len());
        }
        let (mut right, mut wrong) = (HashSet::new(), Vec::new());
        for (index, file) in files.iter().enumerate() {
            let Some(size) = self.files.get(&file.entry.path) else { continue };
            match *size == file.entry.size && is_right(out, file)? {
                true => drop(right.insert(index)),
                false => wrong.push(&file.entry.path),
            }
        }
        if let Some(first) = wrong.first().filter(|_| !force) {
            return occupied(format!("{first} differs from this artifact's"), wrong.len());
        }
        Ok(right)
    }

    /// Takes over what an interrupted run left of `file`, the first that is not complete, and removes what
    /// else such runs left. What a running process writes is not touched.
    pub(super) fn take_over(
        &self,
        out: &Path,
        file: Option<&FileParts<'_>>,
    ) -> Result<Option<Begun>, UnpackError> {
        let mut best: Option<Begun> = None;
        for name in &self.partial {
            let path = out.join(name);
            let failed = |source| UnpackError::Io { path: path.clone(), source };
            let open =
                OpenOptions::new().read(true).write(true).custom_flags(no_follow()).open(&path);
            let mut own = match open {
                Ok(own) => own,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            // Whoever still writes it holds the lock; where there are no locks, nothing is taken over.
            if flock(&own, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let (mut parts, mut len) = (0, 0);
            if let Some(file) = file.filter(|file| belongs(file.entry, name, &own)) {
                (parts, len) = leading(&mut own, file).map_err(failed)?;
            }
            if len > best.as_ref().map_or(0, |best| best.len) {
                let begun = Begun { name: name.clone(), file: own, parts, len };
                if let Some(worse) = best.replace(begun) {
                    let path = out.join(&worse.name);
                    fs::remove_file(&path).map_err(|source| UnpackError::Io { path, source })?;
                }
            } else {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(best)
    }
}

/// A file that an interrupted run began, of which some is right; locked.
#[derive(Debug)]
pub(super) struct Begun {
    /// Its path below the folder.
    pub(super) name: String,
    pub(super) file: File,
    /// How many parts are right, and how many bytes these are.
    pub(super) parts: usize,
    pub(super) len: u64,
}

/// Whether a file of that name and mode may be the beginning of the artifact's file.
fn belongs(entry: &FileEntry, name: &str, file: &File) -> bool {
    let folder = |path: &str| path.rfind('/').map_or(0, |slash| slash + 1);
    let (own, of) = (name.get(..folder(name)), entry.path.get(..folder(&entry.path)));
    let mode = file.metadata().map(|metadata| metadata.permissions().mode());
    own == of && mode.is_ok_and(|mode| (mode & 0o100 != 0) == entry.executable)
}

fn no_follow() -> i32 {
    OFlags::NOFOLLOW.bits() as i32
}

fn is_right(out: &Path, file: &FileParts<'_>) -> Result<bool, UnpackError> {
    let path: PathBuf = out.join(&file.entry.path);
    let failed = |source| UnpackError::Io { path: path.clone(), source };
    let open = OpenOptions::new().read(true).custom_flags(no_follow()).open(&path);
    let (parts, len) = leading(&mut open.map_err(failed)?, file).map_err(failed)?;
    Ok(parts == file.parts.len() && len == file.entry.size)
}

/// How many parts the file begins with that are right, and how many bytes these are.
fn leading(own: &mut File, file: &FileParts<'_>) -> io::Result<(usize, u64)> {
    let mut buffer = vec![0; STEP];
    let (mut parts, mut right) = (0, 0);
    for part in &file.parts {
        let mut hasher = blake3::Hasher::new();
        let mut left = part.len;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(STEP).min(STEP);
            let read = own.read(buffer.get_mut(..want).unwrap_or_default())?;
            if read == 0 {
                return Ok((parts, right));
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            left -= read as u64;
        }
        if hasher.finalize() != part.digest {
            break;
        }
        parts += 1;
        right += part.len;
    }
    Ok((parts, right))
}
