//! A model of which any bytes can be read: a folder, or an artifact.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use crate::format::dtype::{Dtype, Shape};
use crate::format::id::{ContentDigest, ManifestId};
use crate::format::page::Extent;
use crate::load::{LoadOptions, Loader};
use crate::pack::model::{self, Part, PartKind, SourceFile};
use crate::pack::unpack::file_parts;
use crate::pack::{GeneratedFile, Held, Input};
use crate::quantize::produce::ProduceError;
use crate::store::ArtifactGraph;
use crate::transport::Transport;

/// What is read of an artifact at a time.
const PIECE: u64 = 8 << 20;
/// The longest part of a file, but for tensors, that is read of an artifact.
const MAX_CONTENT: u64 = 1 << 30;

/// Where a model's bytes are.
#[derive(Debug)]
enum Place {
    Folder(Vec<Arc<SourceFile>>),
    Artifact { whole: Arc<ArtifactGraph>, sources: Vec<Arc<dyn Transport>>, runtime: Handle },
}

/// A file of a model.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) executable: bool,
    /// Its parts, in order, covering it exactly.
    pub(super) parts: Vec<Part>,
}

/// A tensor of a model.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    /// Its file, and its part of that.
    pub(super) file: usize,
    pub(super) part: usize,
    /// Where it begins in the file, and its bytes.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Of an artifact's tensor.
    pub(super) digest: Option<ContentDigest>,
}

/// A model that was opened.
#[derive(Debug)]
pub struct Model {
    place: Place,
    pub(super) files: Vec<File>,
    /// In the order of files and of their places in them.
    pub(super) tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

impl Model {
    /// The model in a folder, or of a single file.
    pub fn folder(path: &Path) -> Result<Self, ProduceError> {
        let sources: Vec<_> = model::walk(path)?.into_iter().map(Arc::new).collect();
        let file = |source: &Arc<SourceFile>| File {
            path: source.path.clone(),
            size: source.size,
            executable: source.executable,
            parts: source.parts.clone(),
        };
        let files = sources.iter().map(file).collect();
        Self::new(Place::Folder(sources), files, HashMap::new())
    }

    /// An artifact, whose signatures were looked at where they matter; read from `sources`.
    pub fn artifact(
        whole: ArtifactGraph,
        sources: Vec<Arc<dyn Transport>>,
        runtime: &Handle,
    ) -> Result<Self, ProduceError> {
        let mut digests = HashMap::new();
        let mut files = Vec::with_capacity(whole.files.len());
        for (number, (entry, _)) in whole.files.iter().enumerate() {
            let (mut parts, mut at): (Vec<Part>, u64) = (Vec::new(), 0);
            for extent in &entry.extents {
                let (kind, len) = match *extent {
                    Extent::Content { len, .. } => (PartKind::Content, len),
                    Extent::Tensor { ordinal } => {
                        let Some((tensor, _)) = whole.tensors.get(ordinal as usize) else {
                            continue;
                        };
                        digests.insert((number, parts.len()), tensor.digest);
                        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
                        (PartKind::Tensor { name, dtype: tensor.dtype, shape }, tensor.byte_len())
                    }
                };
                // What was cut by content is cut again.
                match parts.last_mut() {
                    Some(last) if kind == PartKind::Content && last.kind == PartKind::Content => {
                        last.len += len;
                    }
                    _ => parts.push(Part { offset: at, len, kind }),
                }
                at += len;
            }
            files.push(File {
                path: entry.path.clone(),
                size: entry.size,
                executable: entry.executable,
                parts,
            });
        }
        let place = Place::Artifact { whole: Arc::new(whole), sources, runtime: runtime.clone() };
        Self::new(place, files, digests)
    }

    fn new(
        place: Place,
        files: Vec<File>,
        digests: HashMap<(usize, usize), ContentDigest>,
    ) -> Result<Self, ProduceError> {
        let (mut tensors, mut by_name) = (Vec::new(), HashMap::new());
        for (file, own) in files.iter().enumerate() {
            for (part, of) in own.parts.iter().enumerate() {
                let PartKind::Tensor { name, dtype, shape } = &of.kind else { continue };
                if by_name.insert(name.clone(), tensors.len()).is_some() {
                    return Err(ProduceError::Incomplete(format!(
                        "tensor {name} is in {} and in another file; leave one file out",
                        own.path
                    )));
                }
                tensors.push(Tensor {
                    name: name.clone(),
                    dtype: *dtype,
                    shape: shape.clone(),
                    file,
                    part,
                    offset: of.offset,
                    len: of.len,
                    digest: digests.get(&(file, part)).copied(),
                });
            }
        }
        Ok(Self { place, files, tensors, by_name })
    }

    /// The artifact's id, if it is one.
    pub(super) fn id(&self) -> Option<ManifestId> {
        self.whole().map(|whole| whole.id)
    }

    pub(super) fn whole(&self) -> Option<&ArtifactGraph> {
        match &self.place {
            Place::Folder(_) => None,
            Place::Artifact { whole, .. } => Some(whole),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The files as they are packed: those that lie on disk and are not `made` as they lie there.
    pub(super) fn inputs(&self, made: impl Fn(usize) -> bool) -> Vec<Input> {
        let input = |(number, file): (usize, &File)| match &self.place {
            Place::Folder(sources) if !made(number) => Input::File(sources[number].clone()),
            _ => Input::Made(GeneratedFile {
                path: file.path.clone(),
                executable: file.executable,
                parts: file.parts.clone(),
            }),
        };
        self.files.iter().enumerate().map(input).collect()
    }

    /// A part of a file, as it is.
    pub(super) fn part(&self, file: usize, part: usize) -> Result<Held, ProduceError> {
        let defect = || ProduceError::Defect(format!("part {part} of file {file}"));
        let own = self.files.get(file).ok_or_else(defect)?;
        let of = own.parts.get(part).ok_or_else(defect)?;
        match &self.place {
            Place::Folder(sources) => {
                let file = sources.get(file).ok_or_else(defect)?.clone();
                Ok(Held::File { file, offset: of.offset })
            }
            Place::Artifact { .. } if of.kind == PartKind::Content && of.len > MAX_CONTENT => {
                Err(ProduceError::Unsupported(format!(
                    "{}: {} bytes in a file that is no safetensors; unpack the artifact and name the folder",
                    own.path, of.len
                )))
            }
            Place::Artifact { .. } => {
                Ok(Held::Memory(self.read(file, of.offset..of.offset + of.len)?))
            }
        }
    }

    /// Bytes of a file.
    pub(super) fn read(&self, file: usize, range: Range<u64>) -> Result<Bytes, ProduceError> {
        let len = usize::try_from(range.end - range.start)
            .map_err(|_| ProduceError::Defect(format!("file {file}")))?;
        match &self.place {
            Place::Folder(sources) => {
                let source = sources.get(file);
                let file =
                    source.ok_or_else(|| ProduceError::Defect(format!("file {file}")))?.clone();
                Ok(Held::File { file, offset: range.start }.read(len as u64)?)
            }
            Place::Artifact { whole, sources, runtime } => {
                let parts = file_parts(whole, file, &range);
                let options = LoadOptions { piece: Some(PIECE), ..LoadOptions::default() };
                let entered = runtime.enter();
                let mut loader =
                    Loader::start(whole.id, sources.clone(), parts, HashMap::new(), &options);
                drop(entered);
                let mut bytes = BytesMut::with_capacity(len);
                while let Some(piece) = runtime.block_on(loader.next()) {
                    bytes.extend_from_slice(&piece?.data);
                }
                match bytes.len() == len {
                    true => Ok(bytes.freeze()),
                    false => Err(ProduceError::Defect(format!("file {file}"))),
                }
            }
        }
    }

    /// The bytes of a tensor.
    pub(super) fn whole_tensor(&self, tensor: &Tensor) -> Result<Bytes, ProduceError> {
        self.read(tensor.file, tensor.offset..tensor.offset + tensor.len)
    }

    /// An error if a file is no longer what it was when the model was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), ProduceError> {
        let Place::Folder(sources) = &self.place else { return Ok(()) };
        for source in sources {
            source.check_unchanged()?;
        }
        Ok(())
    }
}

/// The tensor of the base that stands below one of the fine-tune.
///
/// # Errors
/// If it has another shape or type.
pub(super) fn partner<'m>(
    base: &'m Model,
    tensor: &Tensor,
) -> Result<Option<&'m Tensor>, ProduceError> {
    let Some(below) = base.tensor(&tensor.name) else { return Ok(None) };
    if (below.dtype, &below.shape) == (tensor.dtype, &tensor.shape) {
        return Ok(Some(below));
    }
    Err(ProduceError::Unsupported(format!(
        "tensor {}: {} {:?} here and {} {:?} in the base; name the base that this was tuned from, or \
         `pack` it without one",
        tensor.name,
        tensor.dtype.name(),
        tensor.shape.dims(),
        below.dtype.name(),
        below.shape.dims(),
    )))
}
