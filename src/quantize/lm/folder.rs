//! A model directory as a store of tensors.

use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::{Listed, LmError, TensorStore};
use crate::pack::model::{self, ModelError, PartKind, SourceFile};

/// A model's folder, opened; its files are read by position, so that they may be large.
#[derive(Debug)]
pub struct Folder {
    files: Vec<SourceFile>,
    list: Vec<Listed>,
    /// The file, and offset and length in it, of each tensor.
    places: Vec<(usize, u64, u64)>,
}

impl Folder {
    /// Opens the folder at `path`.
    pub fn open(path: &Path) -> Result<Self, LmError> {
        let files = model::walk(path)?;
        let (mut list, mut places) = (Vec::new(), Vec::new());
        for (at, file) in files.iter().enumerate() {
            for part in &file.parts {
                if let PartKind::Tensor { name, dtype, shape } = &part.kind {
                    list.push(Listed { name: name.clone(), dtype: *dtype, shape: shape.clone() });
                    places.push((at, part.offset, part.len));
                }
            }
        }
        Ok(Self { files, list, places })
    }

    /// The file that a tensor is in, and offset and length there.
    fn place(&self, at: usize) -> Result<(&SourceFile, u64, u64), LmError> {
        let place = self.places.get(at);
        let place = place.and_then(|(file, offset, len)| {
            self.files.get(*file).map(|file| (file, *offset, *len))
        });
        place.ok_or_else(|| LmError::Missing(format!("number {at}")))
    }
}

/// What is read of a tensor that is streamed at a time.
const PART: usize = 4 << 20;

/// Bytes of a file.
fn read(file: &SourceFile, offset: u64, len: u64) -> Result<Bytes, LmError> {
    let len = usize::try_from(len).map_err(|_| {
        LmError::Config(format!("{}: a tensor larger than the address space", file.path))
    })?;
    let mut bytes = vec![0; len];
    let done = file.file.read_exact_at(&mut bytes, offset);
    done.map_err(|source| ModelError::Io { path: file.location.clone(), source })?;
    Ok(bytes.into())
}

impl TensorStore for Folder {
    fn list(&self) -> &[Listed] {
        &self.list
    }

    fn read(&self, wanted: &[usize]) -> Result<Vec<Bytes>, LmError> {
        let one = |at: &usize| {
            let (file, offset, len) = self.place(*at)?;
            read(file, offset, len)
        };
        wanted.iter().map(one).collect()
    }

    fn stream(&self, wanted: usize, take: &mut dyn FnMut(u64, &[u8])) -> Result<(), LmError> {
        let (file, offset, len) = self.place(wanted)?;
        for begin in (0..len).step_by(PART) {
            take(begin, &read(file, offset + begin, (len - begin).min(PART as u64))?);
        }
        Ok(())
    }

    fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, LmError> {
        let Some(file) = self.files.iter().find(|file| file.path == path) else { return Ok(None) };
        if file.size > limit {
            return Err(LmError::Config(format!("{path} has more than {limit} bytes")));
        }
        read(file, 0, file.size).map(Some)
    }
}
