//! Uploads: files that clients send piece by piece into a quarantine, until a job packs them.
//!
//! An upload is a folder of a tenant; each file in it is sent as in tus 1.0: created with its length, then appended
//! to at the offset that the server has. What is not complete has the suffix `.part`, with its length beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::StatusCode;

use super::problem::Problem;

/// Hex digits of an upload's id.
const ID_DIGITS: usize = 32;
/// Files of one upload.
const MAX_FILES: usize = 1024;
/// Bytes that one tenant may have in uploads.
pub(super) const MAX_BYTES: u64 = 256 << 30;

/// The id of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UploadId(String);

impl UploadId {
    /// An id that nobody guesses.
    pub(super) fn new() -> Result<Self, Problem> {
        let mut noise = [0; ID_DIGITS / 2];
        getrandom::fill(&mut noise).map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Self(noise.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl FromStr for UploadId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == ID_DIGITS && text.bytes().all(digit) {
            true => Ok(Self(text.to_owned())),
            false => Err("an upload's id has 32 hex digits".to_owned()),
        }
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The uploads of a server.
#[derive(Debug)]
pub(super) struct Uploads {
    folder: PathBuf,
}

/// How much of a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) offset: u64,
    pub(super) length: u64,
}

fn failed(error: std::io::Error) -> Problem {
    match error.kind() {
        ErrorKind::NotFound => Problem::absent("upload of this id and file"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            let detail = "no room for uploads; what was received stays";
            Problem::later(StatusCode::INSUFFICIENT_STORAGE, detail, 60)
        }
        _ => {
            tracing::error!(%error, "an upload failed");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the upload cannot be written")
        }
    }
}

/// A file's name: one segment, of characters that mean nothing to anybody.
fn file_name(name: &str) -> Result<&str, Problem> {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=128).contains(&name.len())
        && name.bytes().all(right)
        && !name.starts_with('.')
        && ![".part", ".length"].iter().any(|suffix| name.ends_with(suffix));
    match is_name {
        true => Ok(name),
        false => Err(Problem::invalid("a file's name has 1 to 128 letters, digits, ., - and _")),
    }
}

impl Uploads {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn of(&self, tenant: &str, id: &UploadId) -> PathBuf {
        self.folder.join(tenant).join(&id.0)
    }

    /// Begins an upload; one that is there stays as it is.
    pub(super) fn begin(&self, tenant: &str, id: &UploadId) -> Result<(), Problem> {
        fs::create_dir_all(self.of(tenant, id)).map_err(failed)
    }

    /// Begins a file of an upload, which must not be there.
    pub(super) fn create(
        &self,
        tenant: &str,
        id: &UploadId,
        name: &str,
        length: u64,
    ) -> Result<(), Problem> {
        let name = file_name(name)?;
        let folder = self.of(tenant, id);
        if fs::read_dir(&folder).map_err(failed)?.count() >= MAX_FILES {
            return Err(Problem::invalid(format!("an upload has at most {MAX_FILES} files")));
        }
        if self.bytes(tenant).saturating_add(length) > MAX_BYTES {
            let detail = format!("uploads of a tenant have at most {MAX_BYTES} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let exists = |error: std::io::Error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Problem::new(StatusCode::CONFLICT, "this file was begun before")
            }
            _ => failed(error),
        };
        if folder.join(name).exists() {
            return Err(exists(ErrorKind::AlreadyExists.into()));
        }
        let path = folder.join(format!("{name}.length"));
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(exists)?;
        file.write_all(length.to_string().as_bytes()).map_err(failed)?;
        File::create(folder.join(format!("{name}.part"))).map_err(failed)?;
        self.settle(tenant, id, name)
    }

    /// What the tenant's uploads are to have when they are complete.
    fn bytes(&self, tenant: &str) -> u64 {
        let folders = fs::read_dir(self.folder.join(tenant)).into_iter().flatten().flatten();
        let files =
            folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
        let bytes = |file: fs::DirEntry| {
            let path = file.path();
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some("length") => fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()),
                Some("part") => None,
                _ => file.metadata().ok().map(|about| about.len()),
            }
        };
        files.filter_map(bytes).fold(0, u64::saturating_add)
    }

    /// How much of a file is there.
    pub(super) fn offset(
        &self,
        tenant: &str,
        id: &UploadId,
        name: &str,
    ) -> Result<Offset, Problem> {
        let (folder, name) = (self.of(tenant, id), file_name(name)?);
        if let Ok(about) = fs::metadata(folder.join(name)) {
            return Ok(Offset { offset: about.len(), length: about.len() });
        }
        let length = fs::read_to_string(folder.join(format!("{name}.length"))).map_err(failed)?;
        let length = length.parse().map_err(|_| Problem::invalid("begin this file again"))?;
        let offset = fs::metadata(folder.join(format!("{name}.part"))).map_err(failed)?.len();
        Ok(Offset { offset, length })
    }

    /// Opens a file to append at `offset`, which must be where it ends.
    pub(super) fn append(
        &self,
        tenant: &str,
        id: &UploadId,
        name: &str,
        offset: u64,
    ) -> Result<(File, Offset), Problem> {
        let there = self.offset(tenant, id, name)?;
        if there.offset != offset {
            let detail = format!("the server has {} bytes", there.offset);
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let path = self.of(tenant, id).join(format!("{name}.part"));
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        // One writer at a time: two would mix their bytes.
        file.try_lock()
            .map_err(|_| Problem::new(StatusCode::CONFLICT, "somebody else sends this file"))?;
        let there = self.offset(tenant, id, name)?;
        match there.offset == offset {
            true => Ok((file, there)),
            false => Err(Problem::new(StatusCode::CONFLICT, "the server has more bytes")),
        }
    }

    /// Writes a piece.
    pub(super) fn write(mut file: &File, piece: &[u8]) -> Result<(), Problem> {
        file.write_all(piece).map_err(failed)
    }

    /// Gives a file its name once it is complete.
    pub(super) fn settle(&self, tenant: &str, id: &UploadId, name: &str) -> Result<(), Problem> {
        let there = self.offset(tenant, id, name)?;
        let folder = self.of(tenant, id);
        let part = folder.join(format!("{name}.part"));
        if there.offset == there.length && part.exists() {
            File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
            fs::rename(&part, folder.join(name)).map_err(failed)?;
            fs::remove_file(folder.join(format!("{name}.length"))).map_err(failed)?;
        }
        Ok(())
    }

    /// The folder of an upload that is complete.
    pub(super) fn whole(&self, tenant: &str, id: &UploadId) -> Result<PathBuf, Problem> {
        let folder = self.of(tenant, id);
        let mut entries =
            fs::read_dir(&folder).map_err(|_| Problem::absent(format!("upload {id}")))?.flatten();
        let mut count = 0;
        let incomplete = entries.find(|entry| {
            count += 1;
            let name = entry.file_name();
            name.to_str().is_none_or(|name| name.ends_with(".part") || name.ends_with(".length"))
        });
        match incomplete {
            Some(_) => {
                Err(Problem::new(StatusCode::CONFLICT, "a file of this upload is not complete"))
            }
            None if count == 0 => {
                Err(Problem::new(StatusCode::CONFLICT, "this upload has no file"))
            }
            None => Ok(folder),
        }
    }

    /// Forgets an upload.
    pub(super) fn remove(&self, tenant: &str, id: &UploadId) -> Result<(), Problem> {
        fs::remove_dir_all(self.of(tenant, id)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_in_pieces_and_is_whole_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(folder.path().to_owned());
        let id = UploadId::new().unwrap();
        uploads.begin("t", &id).unwrap();
        uploads.begin("t", &id).unwrap();
        assert!(uploads.whole("t", &id).is_err(), "nothing is there");
        uploads.create("t", &id, "a.bin", 5).unwrap();
        assert_eq!(uploads.create("t", &id, "a.bin", 5).unwrap_err().status, 409);
        let send = |offset, piece: &[u8]| {
            let (file, _) = uploads.append("t", &id, "a.bin", offset)?;
            Uploads::write(&file, piece)?;
            drop(file);
            uploads.settle("t", &id, "a.bin")
        };
        send(0, b"ab").unwrap();
        assert_eq!(send(0, b"ab").unwrap_err().status, 409);
        let (held, _) = uploads.append("t", &id, "a.bin", 2).unwrap();
        assert_eq!(uploads.append("t", &id, "a.bin", 2).unwrap_err().status, 409, "one at a time");
        drop(held);
        assert_eq!(uploads.offset("t", &id, "a.bin").unwrap(), Offset { offset: 2, length: 5 });
        assert!(uploads.whole("t", &id).is_err());
        send(2, b"cde").unwrap();
        let whole = uploads.whole("t", &id).unwrap();
        assert_eq!(fs::read(whole.join("a.bin")).unwrap(), b"abcde");
        assert_eq!(fs::read_dir(whole).unwrap().count(), 1);
        assert!(uploads.whole("u", &id).is_err(), "another tenant's");
        for name in ["", "..", ".x", "a/b", "a.part", "x\n", &"a".repeat(129)] {
            assert_eq!(uploads.create("t", &id, name, 1).unwrap_err().status, 422, "{name}");
        }
        assert_eq!(uploads.create("t", &id, "big", u64::MAX).unwrap_err().status, 413);
        uploads.remove("t", &id).unwrap();
        assert_eq!(uploads.remove("t", &id).unwrap_err().status, 404);
    }
}
