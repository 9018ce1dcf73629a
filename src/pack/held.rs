//! Where the bytes of a part of a file are while it is packed.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use super::error::PackError;
use super::model::{ModelError, SourceFile};

/// The bytes of a part, from an offset on. Clones are cheap.
#[derive(Clone)]
pub enum Held {
    /// In a file on disk.
    File {
        /// The file.
        file: Arc<SourceFile>,
        /// Where they begin.
        offset: u64,
    },
    /// In memory, which is given back when the part is packed.
    Memory(Bytes),
}

impl Held {
    /// The bytes from `at` on.
    pub(super) fn from(&self, at: u64) -> Self {
        match self {
            Self::File { file, offset } => Self::File { file: file.clone(), offset: offset + at },
            Self::Memory(bytes) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Self::Memory(bytes.slice(at..))
            }
        }
    }

    /// Reads at least one byte, unless the bytes have come to their end.
    pub(super) fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::File { file, offset } => file.file.read_at(out, offset + at),
            Self::Memory(bytes) => {
                let own = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                let own = own.unwrap_or_default();
                let len = own.len().min(out.len());
                out[..len].copy_from_slice(&own[..len]);
                Ok(len)
            }
        }
    }

    pub(super) fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::File { file, offset } => file.file.read_exact_at(out, offset + at),
            Self::Memory(_) => match self.read_at(out, at)? == out.len() {
                true => Ok(()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }

    /// The first `len` bytes, copied.
    pub(crate) fn read(&self, len: u64) -> Result<Bytes, PackError> {
        let len = usize::try_from(len).map_err(|_| PackError::Short)?;
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, 0).map_err(|error| self.error(error))?;
        Ok(bytes.into())
    }

    /// `len` bytes at `at`, to be looked at once.
    pub(crate) fn view(&self, at: u64, len: usize) -> io::Result<View> {
        match self {
            Self::File { file, offset } => {
                if len == 0 {
                    return Ok(View::Memory(Bytes::new()));
                }
                // SAFETY: nothing that is signed depends on these bytes being read twice alike. A file that
                // shrinks meanwhile ends the process with SIGBUS; the store stays as it was.
                let map =
                    unsafe { MmapOptions::new().offset(offset + at).len(len).map(&file.file) }?;
                Ok(View::File(map))
            }
            Self::Memory(bytes) => {
                let start = usize::try_from(at).map_err(io::Error::other)?;
                let end = start.saturating_add(len);
                if end > bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(View::Memory(bytes.slice(start..end)))
            }
        }
    }

    /// Why they could not be read.
    pub(crate) fn error(&self, error: io::Error) -> PackError {
        match self {
            Self::File { file, .. } => ModelError::io(&file.location)(error).into(),
            Self::Memory(_) => PackError::Short,
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, offset } => write!(f, "{} at {offset}", file.location.display()),
            Self::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// Some bytes to be copied.
pub(crate) enum View {
    File(Mmap),
    Memory(Bytes),
}

impl View {
    /// The bytes, owned.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::File(map) => Bytes::copy_from_slice(&map),
            Self::Memory(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}
