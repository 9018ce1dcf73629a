//! Files as bodies: positioned reads straight into the caller's memory.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use async_trait::async_trait;
use bytes::Bytes;

use super::failure::Failure;
use crate::transport::{
    Body, ObjectPath, ObjectReader, TransportError, TransportErrorKind, Version,
};

/// Changes with every write by rename, which makes a new inode.
pub(super) fn stat_version(meta: &fs::Metadata) -> Version {
    Version::tagged(format!(
        "stat:{}:{}:{}.{}",
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

/// A small object read at once, so that its version is that of the bytes delivered.
pub(super) fn hashed(file: File, meta: &fs::Metadata) -> Result<ObjectReader, Failure> {
    let length = usize::try_from(meta.len()).unwrap_or(usize::MAX);
    let (mut content, mut at) = (vec![0; length], 0);
    while let Some(rest) = content.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match read_at(&file, rest, at as u64)? {
            0 => {
                let what = "the file became shorter while it was read";
                return Err(Failure::new(TransportErrorKind::Io, what));
            }
            count => at += count,
        }
    }
    let version = Version::tagged(format!("blake3:{}", blake3::hash(&content).to_hex()));
    let content = Bytes::from(content);
    Ok(ObjectReader {
        range: 0..content.len() as u64,
        size: Some(content.len() as u64),
        version: Some(version),
        head: None,
        body: Box::new(MemoryBody { content }),
    })
}

/// Reads up to `out.len()` bytes from `offset` on; 0 at the end of the file.
fn read_at(file: &File, out: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *out, offset) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended,
        }
    }
}

struct MemoryBody {
    content: Bytes,
}

#[async_trait]
impl Body for MemoryBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        Ok(crate::transport::move_bytes(&mut self.content, out))
    }
}

pub(super) struct FileBody {
    pub file: File,
    pub range: Range<u64>,
    pub location: String,
    pub object: ObjectPath,
}

#[async_trait]
impl Body for FileBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let most = out.len().min(left);
        let Some(out) = out.get_mut(..most).filter(|out| !out.is_empty()) else { return Ok(0) };
        let error = |what: &str| {
            TransportError::new(TransportErrorKind::Io, &self.location, &self.object, what)
        };
        match read_at(&self.file, out, self.range.start) {
            Ok(0) => Err(error("the file became shorter while it was read")),
            Ok(n) => {
                self.range.start += n as u64;
                Ok(n)
            }
            Err(e) => Err(error("the file system failed").caused_by(io::Error::from(e))),
        }
    }
}
