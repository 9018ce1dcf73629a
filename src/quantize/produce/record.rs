//! This user's own record of what runs wrote: a file for each store and recipe.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::ProduceError;
use super::products::{Key, ProductTensor};
use crate::format::dtype::{Dtype, Shape};
use crate::format::grid::Rect;
use crate::format::id::{ContentDigest, DecodedDigest, ManifestId};
use crate::format::limits::MAX_SMALL;
use crate::format::store as paths;
use crate::load::chunks::decoded;
use crate::quantize::encode::Encoded;
use crate::schedule::tensor_parallel::choose_grid;
use crate::store::{Placed, Store};

/// Tensors up to this size are kept in the record itself.
const SMALL: usize = 1024;

/// A tensor that an interrupted run wrote, as the user's record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) dims: Vec<u64>,
    pub(super) digest: ContentDigest,
    pub(super) chunks: Vec<DecodedDigest>,
    /// A small tensor's bytes: it may lie at the end of its file, which was not reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<Vec<u8>>,
}

/// A line of the user's record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    /// An artifact of this recipe that a run completed.
    Artifact { manifest: ManifestId },
    /// A product of a run that has not.
    Product { key: Key, tensors: Vec<Written> },
}

/// What the record says.
#[derive(Debug, Default)]
pub(super) struct Record {
    path: Option<PathBuf>,
    file: Option<fs::File>,
    /// Artifacts of the recipe that runs completed, the newest last.
    pub(super) artifacts: Vec<ManifestId>,
    /// Products of runs that did not.
    pub(super) products: HashMap<Key, Vec<Written>>,
}

impl Record {
    /// Reads the record; one that is not there, or damaged, says nothing.
    pub(super) fn read(
        store: &Store,
        recipe: ContentDigest,
        runtime: &Handle,
    ) -> Result<Self, ProduceError> {
        let mut record = Self::default();
        record.attach(store, recipe, runtime)?;
        let bytes = record.path.as_ref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        for line in bytes.split(|byte| *byte == b'\n') {
            // A run that was killed may have left half a line.
            match serde_json::from_slice(line) {
                Ok(Line::Artifact { manifest }) => record.artifacts.push(manifest),
                Ok(Line::Product { key, tensors }) => drop(record.products.insert(key, tensors)),
                Err(_) => {}
            }
        }
        Ok(record)
    }

    /// Finds where it lies, once the store is there.
    pub(super) fn attach(
        &mut self,
        store: &Store,
        recipe: ContentDigest,
        runtime: &Handle,
    ) -> Result<(), ProduceError> {
        self.path = record_path(store, recipe, runtime)?;
        Ok(())
    }

    /// Notes a product. What cannot be noted is computed again.
    pub(super) fn note(&mut self, key: Key, layer: &str, tensors: &[Encoded]) {
        if self.file.is_none() {
            let Some(path) = &self.path else { return };
            let folder = path.parent().map(fs::create_dir_all);
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            self.file = folder.and(file.ok());
        }
        let written = tensors.iter().filter_map(|tensor| {
            let name = format!("{layer}.{}", tensor.end);
            Some(Written {
                digest: ContentDigest::of(&tensor.bytes),
                chunks: chunks(&name, tensor)?,
                name,
                dtype: tensor.dtype.name().to_owned(),
                dims: tensor.dims.clone(),
                bytes: (tensor.bytes.len() <= SMALL).then(|| tensor.bytes.clone()),
            })
        });
        let line = Line::Product { key, tensors: written.collect() };
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_vec(&line)) {
            line.push(b'\n');
            drop(file.write_all(&line));
        }
    }

    /// Notes an artifact in place of its products; keeps the newest `most`.
    pub(super) fn complete(&mut self, manifest: ManifestId, most: usize) {
        self.artifacts.retain(|own| *own != manifest);
        self.artifacts.push(manifest);
        let Some(path) = &self.path else { return };
        let own = self.artifacts.iter().skip(self.artifacts.len().saturating_sub(most));
        let line = |id: &ManifestId| serde_json::to_string(&Line::Artifact { manifest: *id }).ok();
        let text: String = own.filter_map(line).map(|line| line + "\n").collect();
        let temporary = path.with_extension("tmp");
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = written.and_then(|()| fs::write(&temporary, text));
        drop(written.and_then(|()| fs::rename(&temporary, path)));
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.file = None;
        if let Some(path) = &self.path {
            drop(fs::remove_file(path));
        }
    }
}

/// The user's record of a recipe's products in a store, which its identifier tells from others.
fn record_path(
    store: &Store,
    recipe: ContentDigest,
    runtime: &Handle,
) -> Result<Option<PathBuf>, ProduceError> {
    let descriptor = runtime.block_on(store.read_optional(&paths::descriptor(), MAX_SMALL))?;
    let id = descriptor.and_then(|bytes| paths::Descriptor::parse(&bytes).ok());
    // An identifier that is none could lead out of the folder.
    let id = id.filter(|descriptor| descriptor.check().is_ok());
    let path = |(id, folder): (paths::Descriptor, PathBuf)| {
        folder.join(format!("{}-{recipe}.jsonl", id.store_id))
    };
    Ok(id.zip(state_folder()).map(path))
}

/// The user's own: `tenpak/produced` in the state directory.
fn state_folder() -> Option<PathBuf> {
    crate::trust::state_folder().map(|folder| folder.join("tenpak/produced"))
}

/// How packing cuts a tensor.
fn rects(name: &str, dtype: Dtype, dims: &[u64]) -> Option<Vec<Rect>> {
    let shape = Shape::new(dims.to_vec())?;
    Some(choose_grid(name, dtype, &shape).map(|grid| grid.rects().collect()).unwrap_or_default())
}

/// The digests of a tensor's chunks.
fn chunks(name: &str, tensor: &Encoded) -> Option<Vec<DecodedDigest>> {
    let mut chunk = Vec::new();
    let mut digests = Vec::new();
    for rect in rects(name, tensor.dtype, &tensor.dims)? {
        chunk.clear();
        for row in strips(rect) {
            chunk.extend_from_slice(tensor.bytes.get(row)?);
        }
        digests.push(DecodedDigest::of(&chunk));
    }
    Some(digests)
}

/// The bytes of the tensor that each row of a chunk is.
fn strips(rect: Rect) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..rect.rows).map(move |row| {
        let start = (rect.start + row * rect.stride) as usize;
        start..start + rect.width as usize
    })
}

/// A tensor out of its chunks; `None` unless all of them are there and it is what was noted.
pub(super) async fn gather(
    store: &Store,
    kept: &ProductTensor,
    chunks: &[Placed],
) -> Option<Bytes> {
    let shape = Shape::new(kept.dims.clone())?;
    let mut bytes = vec![0; usize::try_from(shape.byte_len(kept.dtype)?).ok()?];
    let rects = rects(&kept.name, kept.dtype, &kept.dims)?;
    if rects.len() != chunks.len() {
        return None;
    }
    for (rect, chunk) in rects.into_iter().zip(chunks) {
        let decoded = decoded(store, *chunk, &[]).await.ok()??;
        if decoded.len() as u64 != rect.len() {
            return None;
        }
        for (row, own) in strips(rect).zip(decoded.chunks(rect.width as usize)) {
            bytes.get_mut(row)?.copy_from_slice(own);
        }
    }
    (ContentDigest::of(&bytes) == kept.digest).then(|| bytes.into())
}
