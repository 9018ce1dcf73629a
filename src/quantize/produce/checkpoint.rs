//! The model that something is made from: a folder, or an artifact of the store.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Handle;

use super::ProduceError;
use crate::format::dtype::{Dtype, Shape};
use crate::format::id::ContentDigest;
use crate::format::page::{Entries, Extent};
use crate::load::artifact::{Artifact, SelectedTensors, Selection};
use crate::load::{LoadOptions, Loader};
use crate::pack::model::{self, PartKind, SourceFile};
use crate::pack::{Held, View};
use crate::schedule::plan::TensorRequest;

/// The largest of the small files that are read as a whole.
const MAX_FILE: u64 = 256 << 20;
/// The list of shards.
const INDEX: &str = "model.safetensors.index.json";

/// Where a model lies.
#[derive(Debug, Clone)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// An artifact that was opened, and trusted where keys are.
    Artifact(Arc<Artifact>),
}

/// A tensor of the model.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Shape,
    /// The digest of its bytes, once it is known: whoever reads them for it keeps it.
    pub digest: OnceLock<ContentDigest>,
    /// Its file.
    pub(super) file: usize,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File { file: Arc<SourceFile>, offset: u64, len: u64 },
    Artifact(Arc<TensorRequest>),
}

/// A file of the model.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) executable: bool,
    pub(super) size: u64,
    /// Whether it holds tensors.
    pub(super) tensors: bool,
    pub(super) disk: Option<Arc<SourceFile>>,
}

/// A model that was opened.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) files: Vec<File>,
    /// In the order of files and of their places in them.
    pub tensors: Vec<Tensor>,
    /// Its `config.json`.
    pub config: Value,
    pub(super) artifact: Option<Arc<Artifact>>,
    runtime: Handle,
}

impl Checkpoint {
    /// Opens a model, and checks that it is whole: every shard that its index names, every tensor once.
    pub fn open(source: Source, runtime: &Handle) -> Result<Self, ProduceError> {
        let (files, tensors, artifact) = match source {
            Source::Folder(path) => {
                let (files, tensors) = folder(&path)?;
                (files, tensors, None)
            }
            Source::Artifact(artifact) => {
                let (files, tensors) = runtime.block_on(listed(&artifact))?;
                (files, tensors, Some(artifact))
            }
        };
        let runtime = runtime.clone();
        let mut checkpoint = Self { files, tensors, config: Value::Null, artifact, runtime };
        let Some(config) = checkpoint.json("config.json")? else {
            return Err(ProduceError::Incomplete(
                "this model has no config.json, which says what it is; name the folder of a whole \
                 checkpoint"
                    .to_owned(),
            ));
        };
        checkpoint.config = config;
        checkpoint.check_whole()?;
        Ok(checkpoint)
    }

    /// A small file of JSON, if there is one.
    pub(super) fn json(&self, path: &str) -> Result<Option<Value>, ProduceError> {
        let Some(file) = self.files.iter().find(|file| file.path == path) else { return Ok(None) };
        let bytes = self.bytes(file)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| ProduceError::Incomplete(format!("{path}: {error}; repair it")))
    }

    /// A file without tensors.
    pub(super) fn bytes(&self, file: &File) -> Result<Bytes, ProduceError> {
        if file.size > MAX_FILE {
            return Err(ProduceError::Unsupported(format!(
                "{}: {} bytes in a file that is no safetensors; take it out of the model",
                file.path, file.size
            )));
        }
        match (&file.disk, &self.artifact) {
            (Some(disk), _) => {
                let held = Held::File { file: disk.clone(), offset: 0 };
                Ok(held.read(file.size)?)
            }
            (None, Some(artifact)) => {
                let bytes = self.runtime.block_on(artifact.file(&file.path, MAX_FILE))?;
                bytes.ok_or_else(|| ProduceError::Incomplete(format!("{}: it is gone", file.path)))
            }
            (None, None) => Err(ProduceError::Incomplete(format!("{}: it is nowhere", file.path))),
        }
    }

    fn check_whole(&self) -> Result<(), ProduceError> {
        let incomplete = |why: String| Err(ProduceError::Incomplete(why));
        let mut by_name = HashMap::new();
        for tensor in &self.tensors {
            let path =
                |tensor: &Tensor| self.files.get(tensor.file).map_or("", |f| f.path.as_str());
            if let Some(other) = by_name.insert(tensor.name.as_str(), tensor) {
                let name = &tensor.name;
                return incomplete(format!(
                    "tensor {name} is in {} and in {}; leave one file out",
                    path(other),
                    path(tensor)
                ));
            }
        }
        let Some(index) = self.json(INDEX)? else { return Ok(()) };
        let map = index.get("weight_map").and_then(Value::as_object);
        for (name, path) in map.into_iter().flatten() {
            let path = path.as_str().unwrap_or_default();
            if !self.files.iter().any(|file| file.path == path) {
                return incomplete(format!(
                    "{INDEX}: tensor {name} is in {path}, which is missing; fetch the whole model"
                ));
            }
            let own = by_name.get(name.as_str()).and_then(|tensor| self.files.get(tensor.file));
            if own.is_none_or(|file| file.path != path) {
                return incomplete(format!(
                    "{INDEX}: tensor {name} is not in {path}; fetch that file again"
                ));
            }
        }
        Ok(())
    }

    /// A tensor's bytes where they lie on disk.
    pub(super) fn on_disk(&self, tensor: usize) -> Option<Held> {
        match &self.tensors.get(tensor)?.place {
            Place::File { file, offset, .. } => {
                Some(Held::File { file: file.clone(), offset: *offset })
            }
            Place::Artifact(_) => None,
        }
    }

    /// Reads tensors in this order.
    pub(super) fn reader(&self, order: impl Iterator<Item = usize>) -> Reader<'_> {
        let wanted = order.filter_map(|tensor| match &self.tensors.get(tensor)?.place {
            Place::Artifact(request) => Some(request.clone()),
            Place::File { .. } => None,
        });
        let wanted: Vec<_> = wanted.collect();
        let stream =
            self.artifact.as_ref().map(|artifact| Stream::new(&self.runtime, artifact, wanted));
        Reader { checkpoint: self, stream }
    }
}

/// Reads tensors of a model one after the other.
pub(super) struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    stream: Option<Stream>,
}

impl Reader<'_> {
    /// The next tensor, which must be the one that was announced.
    pub(super) fn read(&mut self, tensor: usize) -> Result<View, ProduceError> {
        let missing = || ProduceError::Defect(format!("number {tensor}"));
        let own = self.checkpoint.tensors.get(tensor).ok_or_else(missing)?;
        match (&own.place, &mut self.stream) {
            (Place::File { file, offset, len }, _) => {
                let held = Held::File { file: file.clone(), offset: *offset };
                let len = usize::try_from(*len).map_err(|_| missing())?;
                Ok(held.view(0, len).map_err(|error| held.error(error))?)
            }
            (Place::Artifact(_), Some(stream)) => Ok(View::Memory(stream.read(&own.name)?)),
            (Place::Artifact(_), None) => Err(missing()),
        }
    }
}

/// Tensors of an artifact, in an order of one's own.
pub(super) struct Stream {
    runtime: Handle,
    loader: Loader,
    order: VecDeque<String>,
}

impl Stream {
    pub(super) fn new(
        runtime: &Handle,
        artifact: &Artifact,
        tensors: Vec<Arc<TensorRequest>>,
    ) -> Self {
        let order = tensors.iter().map(|request| request.entry.name.clone()).collect();
        let wanted = SelectedTensors { tensors, ..SelectedTensors::default() };
        let _entered = runtime.enter();
        let loader = artifact.load(wanted, &LoadOptions::default());
        Self { runtime: runtime.clone(), loader, order }
    }

    /// The next tensor, which is the one of this name. Its bytes are copied: what a load delivered and
    /// is kept would stop the load.
    pub(super) fn read(&mut self, name: &str) -> Result<Bytes, ProduceError> {
        let defect = || ProduceError::Defect(name.to_owned());
        if self.order.pop_front().as_deref() != Some(name) {
            return Err(defect());
        }
        let tensor = self.runtime.block_on(self.loader.next()).ok_or_else(defect)??;
        if tensor.name() != name || !tensor.is_last_piece() || tensor.offset != 0 {
            return Err(defect());
        }
        Ok(Bytes::copy_from_slice(&tensor.data))
    }
}

fn folder(path: &std::path::Path) -> Result<(Vec<File>, Vec<Tensor>), ProduceError> {
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for (number, source) in model::walk(path)?.into_iter().enumerate() {
        let source = Arc::new(source);
        for part in &source.parts {
            let PartKind::Tensor { name, dtype, shape } = &part.kind else { continue };
            let place = Place::File { file: source.clone(), offset: part.offset, len: part.len };
            let (name, shape) = (name.clone(), shape.clone());
            tensors.push(Tensor {
                name,
                dtype: *dtype,
                shape,
                digest: OnceLock::new(),
                file: number,
                place,
            });
        }
        files.push(File {
            path: source.path.clone(),
            executable: source.executable,
            size: source.size,
            tensors: source.path.ends_with(".safetensors"),
            disk: Some(source),
        });
    }
    Ok((files, tensors))
}

async fn listed(artifact: &Artifact) -> Result<(Vec<File>, Vec<Tensor>), ProduceError> {
    let mut files = Vec::new();
    for (page, _) in artifact.all_pages().await? {
        let Entries::Files(list) = page.entries else { continue };
        files.extend(list.into_iter().map(|file| {
            let extents = &file.entry.extents;
            File {
                tensors: extents.iter().any(|extent| matches!(extent, Extent::Tensor { .. })),
                path: file.entry.path,
                executable: file.entry.executable,
                size: file.entry.size,
                disk: None,
            }
        }));
    }
    let mut wanted = artifact.select(&Selection::All, None).await?.tensors;
    wanted.sort_by_key(|request| request.entry.ordinal);
    let tensor = |request: Arc<TensorRequest>| Tensor {
        name: request.entry.name.clone(),
        dtype: request.entry.dtype,
        shape: request.entry.shape.clone(),
        digest: request.entry.digest.into(),
        file: request.entry.file as usize,
        place: Place::Artifact(request),
    };
    Ok((files, wanted.into_iter().map(tensor).collect()))
}
