//! The highest version seen of each ref, so that an old one is noticed when it comes back.
//!
//! One small file per signing key, name and tag, changed only under the directory's lock and only
//! by renaming a synced file over it: a record never falls, whatever runs at the same time or is
//! killed. A damaged record is an error, because silently starting over is what an attacker wants.
//! A directory that cannot be written (a read-only home) is still read, and the caller is told
//! that nothing new was remembered.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::error::{DocumentError, TrustError};
use super::files::xdg;
use super::key::KeyId;
use super::set::Verified;
use crate::format::id::{ManifestId, to_hex};
use crate::format::json;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::RefBody;

const MAX_RECORD: usize = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    key: KeyId,
    manifest: ManifestId,
    name: ArtifactName,
    tag: Tag,
    version: u64,
}

/// Whether a version will be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a user must hear that rollbacks will go unnoticed"]
pub enum SeenState {
    /// It is.
    Remembered,
    /// It is not, because nothing can be written there; what was known before was still checked.
    NotWritable {
        /// For a warning to the user.
        reason: String,
    },
}

/// The refs that this user has seen.
#[derive(Debug, Clone)]
pub struct SeenRefs {
    dir: Option<PathBuf>,
}

impl SeenRefs {
    /// The user's own: `tenpak/seen` in the state directory.
    pub fn of_user() -> Self {
        Self { dir: xdg("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("tenpak/seen")) }
    }

    /// Kept in `dir`, which is made when it is needed.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: Some(dir.into()) }
    }

    /// Refuses a verified ref that is older than what was seen, or differs from what was seen with
    /// the same version; otherwise remembers it, for each key that signed it.
    ///
    /// # Errors
    /// If it is refused, or the record of what was seen is damaged or cannot be read.
    pub fn check(&self, vouched: &Verified<RefBody>) -> Result<SeenState, TrustError> {
        let Some(dir) = &self.dir else {
            let reason = "neither XDG_STATE_HOME nor HOME names a directory".to_owned();
            return Ok(SeenState::NotWritable { reason });
        };
        let records: Vec<Record> =
            vouched.keys.iter().map(|key| Record::new(key.clone(), &vouched.body)).collect();
        let lock = match lock(dir) {
            Ok(lock) => lock,
            Err(error) if is_read_only(&error) => {
                for record in &records {
                    record.is_news(&dir.join(record.file_name()))?;
                }
                let reason = format!("{}: {error}", dir.display());
                return Ok(SeenState::NotWritable { reason });
            }
            Err(source) => {
                let action = "lock the record of the ref versions seen";
                return Err(TrustError::Io { path: dir.clone(), action, source });
            }
        };
        // All are checked before any is written: a refused ref leaves no trace.
        let mut news = Vec::new();
        for record in &records {
            let path = dir.join(record.file_name());
            if record.is_news(&path)? {
                news.push((path, record));
            }
        }
        for (path, record) in news {
            record.write(dir, &path)?;
        }
        drop(lock);
        Ok(SeenState::Remembered)
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Held until the file is closed, by the end of the process at the latest.
fn lock(dir: &Path) -> io::Result<fs::File> {
    fs::create_dir_all(dir)?;
    let file =
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Record {
    fn new(key: KeyId, body: &RefBody) -> Self {
        Self {
            key,
            manifest: body.manifest,
            name: body.name.clone(),
            tag: body.tag.clone(),
            version: body.version,
        }
    }

    fn file_name(&self) -> String {
        // None of the three can hold a newline, so no two of them run together.
        let what = format!("{}\n{}\n{}", self.key, self.name, self.tag);
        to_hex(&blake3::derive_key("tenpak/v1/seen-ref", what.as_bytes()))
    }

    /// Whether this is newer than the record at `path`; an error if it is older or contradicts it.
    fn is_news(&self, path: &Path) -> Result<bool, TrustError> {
        let Some(seen) = self.read(path)? else {
            return Ok(true);
        };
        let what = || format!("ref {}:{}", self.name, self.tag);
        if self.version < seen.version {
            return Err(TrustError::RolledBack {
                what: what(),
                seen: seen.version,
                got: self.version,
                record: path.to_owned(),
            });
        }
        if self.version == seen.version && self.manifest != seen.manifest {
            return Err(TrustError::Replaced {
                what: what(),
                version: self.version,
                seen: seen.manifest,
                got: self.manifest,
                record: path.to_owned(),
            });
        }
        Ok(self.version > seen.version)
    }

    fn read(&self, path: &Path) -> Result<Option<Self>, TrustError> {
        let failed = |source| TrustError::Io {
            path: path.to_owned(),
            action: "read the record of the ref versions seen",
            source,
        };
        let damaged = |reason| TrustError::DamagedRecord { path: path.to_owned(), reason };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        let seen: Self = json::parse(&bytes, MAX_RECORD).map_err(|error| damaged(error.into()))?;
        if seen.key != self.key || seen.name != self.name || seen.tag != self.tag {
            return Err(damaged(DocumentError::OtherRef));
        }
        Ok(Some(seen))
    }

    fn write(&self, dir: &Path, path: &Path) -> Result<(), TrustError> {
        let bytes = json::to_bytes(self).map_err(|error| TrustError::Malformed {
            what: format!("ref {}:{}", self.name, self.tag),
            reason: error.into(),
        })?;
        // The lock makes this name ours; a leftover of a killed process is overwritten.
        let temporary = path.with_extension("tmp");
        let written = (|| {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            fs::File::open(dir)?.sync_all()
        })();
        written.map_err(|source| TrustError::Io {
            path: path.to_owned(),
            action: "write the record of the ref versions seen",
            source,
        })
    }
}
