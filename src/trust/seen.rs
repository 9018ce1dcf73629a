//! The highest version seen of each ref and of each store's index, so that an old one is noticed when
//! it comes back.
//!
//! One small file per signing key, name and tag, and one per signing key and store, changed only under the directory's lock and only
//! by renaming a synced file over it: a record never falls, whatever runs at the same time or is
//! killed. A damaged record is an error, because silently starting over is what an attacker wants.
//! A directory that cannot be written (a read-only home) is still read, and the caller is told
//! that nothing new was remembered.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{DocumentError, TrustError};
use super::files::xdg;
use super::key::KeyId;
use super::set::Verified;
use crate::format::id::{ContentDigest, ManifestId, to_hex};
use crate::format::json;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::RefBody;

const MAX_RECORD: usize = 4096;

/// What a file remembers.
trait Record: Serialize + DeserializeOwned {
    /// What it is about, for messages.
    fn what(&self) -> String;

    fn version(&self) -> u64;

    /// What sets it apart from all other records.
    fn subject(&self) -> String;

    /// The refusal of this, where `seen` says something else of the same version.
    fn contradiction(&self, seen: &Self, record: &Path) -> Option<TrustError>;
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefRecord {
    key: KeyId,
    manifest: ManifestId,
    name: ArtifactName,
    tag: Tag,
    version: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexRecord {
    key: KeyId,
    /// Of what was signed.
    signed: ContentDigest,
    /// The store's address.
    store: String,
    version: u64,
}

impl Record for RefRecord {
    fn what(&self) -> String {
        format!("ref {}:{}", self.name, self.tag)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn subject(&self) -> String {
        // None of the three can hold a newline, so no two of them run together.
        format!("{}\n{}\n{}", self.key, self.name, self.tag)
    }

    fn contradiction(&self, seen: &Self, record: &Path) -> Option<TrustError> {
        (self.manifest != seen.manifest).then(|| TrustError::Replaced {
            what: self.what(),
            version: self.version,
            seen: seen.manifest,
            got: self.manifest,
            record: record.to_owned(),
        })
    }
}

impl Record for IndexRecord {
    fn what(&self) -> String {
        format!("the index of {}", self.store)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn subject(&self) -> String {
        // A name begins with a letter or a digit, so that no ref has this subject.
        format!("{}\n\n{}", self.key, self.store)
    }

    fn contradiction(&self, seen: &Self, record: &Path) -> Option<TrustError> {
        let (what, version) = (self.what(), self.version);
        (self.signed != seen.signed).then(|| TrustError::TwoIndexes {
            what,
            version,
            record: record.to_owned(),
        })
    }
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
        let body = &vouched.body;
        let record = |key: &KeyId| RefRecord {
            key: key.clone(),
            manifest: body.manifest,
            name: body.name.clone(),
            tag: body.tag.clone(),
            version: body.version,
        };
        self.remember(vouched.keys.iter().map(record).collect())
    }

    /// The same of the index of the store at that address, which these keys vouch for.
    ///
    /// # Errors
    /// If it is refused, or the record of what was seen is damaged or cannot be read.
    pub fn check_index(
        &self,
        store: &str,
        keys: &[KeyId],
        version: u64,
        signed: &[u8],
    ) -> Result<SeenState, TrustError> {
        let signed = ContentDigest::of(signed);
        let record = |key: &KeyId| IndexRecord {
            key: key.clone(),
            signed,
            store: store.to_owned(),
            version,
        };
        self.remember(keys.iter().map(record).collect())
    }

    fn remember<R: Record>(&self, records: Vec<R>) -> Result<SeenState, TrustError> {
        let Some(dir) = &self.dir else {
            let reason = "neither XDG_STATE_HOME nor HOME names a directory".to_owned();
            return Ok(SeenState::NotWritable { reason });
        };
        let lock = match lock(dir) {
            Ok(lock) => lock,
            Err(error) if is_read_only(&error) => {
                for record in &records {
                    is_news(record, &dir.join(file_name(record)))?;
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
            let path = dir.join(file_name(record));
            if is_news(record, &path)? {
                news.push((path, record));
            }
        }
        for (path, record) in news {
            write(record, dir, &path)?;
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

fn file_name(record: &impl Record) -> String {
    to_hex(&blake3::derive_key("tenpak/v1/seen-ref", record.subject().as_bytes()))
}

/// Whether this is newer than the record at `path`; an error if it is older or contradicts it.
fn is_news<R: Record>(record: &R, path: &Path) -> Result<bool, TrustError> {
    let Some(seen) = read(record, path)? else {
        return Ok(true);
    };
    let (seen_version, got) = (seen.version(), record.version());
    if got < seen_version {
        let (what, record) = (record.what(), path.to_owned());
        return Err(TrustError::RolledBack { what, seen: seen_version, got, record });
    }
    if got == seen_version
        && let Some(refused) = record.contradiction(&seen, path)
    {
        return Err(refused);
    }
    Ok(got > seen_version)
}

/// The record at `path`, which is about the same as `like`.
fn read<R: Record>(like: &R, path: &Path) -> Result<Option<R>, TrustError> {
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
    let seen: R = json::parse(&bytes, MAX_RECORD).map_err(|error| damaged(error.into()))?;
    if seen.subject() != like.subject() {
        return Err(damaged(DocumentError::OtherRef));
    }
    Ok(Some(seen))
}

fn write(record: &impl Record, dir: &Path, path: &Path) -> Result<(), TrustError> {
    let bytes = json::to_bytes(record)
        .map_err(|error| TrustError::Malformed { what: record.what(), reason: error.into() })?;
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
