//! Files as bodies: positioned reads straight into the caller's spare capacity.
//!
//! The one `unsafe` block of the transports lies here: it declares as filled what `pread` filled.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};

use super::Failure;
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
    let mut content = BytesMut::with_capacity(length);
    while content.len() < length {
        let (at, left) = (content.len() as u64, length - content.len());
        if read_at(&file, &mut content, left, at)? == 0 {
            return Err(Failure::new(
                TransportErrorKind::Io,
                "the file became shorter while it was read",
            ));
        }
    }
    let version = Version::tagged(format!("blake3:{}", blake3::hash(&content).to_hex()));
    let content = content.freeze();
    Ok(ObjectReader {
        range: 0..content.len() as u64,
        size: Some(content.len() as u64),
        version: Some(version),
        head: None,
        body: Box::new(MemoryBody { content }),
    })
}

/// Appends up to `max` bytes from `offset` on; 0 at the end of the file.
fn read_at(file: &File, out: &mut BytesMut, max: usize, offset: u64) -> rustix::io::Result<usize> {
    out.reserve(max);
    let spare = out.spare_capacity_mut();
    let room = max.min(spare.len());
    let Some(spare) = spare.get_mut(..room) else {
        return Ok(0);
    };
    let n = loop {
        match rustix::io::pread(file, &mut *spare, offset) {
            Ok((filled, _)) => break filled.len(),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    };
    // SAFETY: `pread` returned the first `n` bytes of the spare capacity as initialized.
    unsafe { out.advance_mut(n) };
    Ok(n)
}

struct MemoryBody {
    content: Bytes,
}

#[async_trait]
impl Body for MemoryBody {
    async fn read_some(&mut self, out: &mut BytesMut, max: usize) -> Result<usize, TransportError> {
        let piece = self.content.split_to(max.min(self.content.len()));
        out.extend_from_slice(&piece);
        Ok(piece.len())
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
    async fn read_some(&mut self, out: &mut BytesMut, max: usize) -> Result<usize, TransportError> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let max = max.min(left);
        if max == 0 {
            return Ok(0);
        }
        let error = |what: &str| {
            TransportError::new(TransportErrorKind::Io, &self.location, &self.object, what)
        };
        match read_at(&self.file, out, max, self.range.start) {
            Ok(0) => Err(error("the file became shorter while it was read")),
            Ok(n) => {
                self.range.start += n as u64;
                Ok(n)
            }
            Err(e) => Err(error("the file system failed").caused_by(io::Error::from(e))),
        }
    }
}
