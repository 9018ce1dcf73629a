//! A model that something is made from or that is run: a folder or a single file, safetensors or GGUF, or
//! an artifact, of which every byte is verified on its way.
//!
//! Whatever it is, it is files, which their parts cover exactly, and the tensors among those. What is
//! read at once fits in memory: a tensor, a part of one, or a file without tensors.
//!
//! One file: each question about a model is answered side by side for every place that it may lie in.

mod behind;
mod error;
mod listed;
pub(super) mod plain;
mod stored;
mod stream;

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::dequant::config::{Blocks, CONFIGS, Method};
use crate::format::id::ManifestId;
use crate::format::manifest::Incomplete;
use crate::gguf::Header;
use crate::load::LoadOptions;
use crate::pack::model::{self, ModelError, Opaque, PartKind, SourceFile};
use crate::pack::{GeneratedFile, Held, Input, View};
use crate::schedule::plan::TensorRequest;
use crate::store::artifact::{Artifact, Selection};

use behind::Behind;
use error::INDEX;
pub use error::SourceError;
pub use listed::{File, Tensor};
use stored::{Run, load, parts, within};
pub(super) use stream::Stream;

const CONFIG: &str = "config.json";
/// The largest file of JSON that is read.
const MAX_JSON: u64 = 256 << 20;
/// The longest part of an artifact's file, but for tensors, that is read at once.
const MAX_CONTENT: u64 = 1 << 30;
/// What is loaded of an artifact at a time where a part of a file is read.
const PIECE: u64 = 8 << 20;
/// The parts of a tensor that is streamed.
const STREAMED: u64 = 4 << 20;

/// Where a model's bytes are.
#[derive(Debug)]
enum Place {
    Disk(Vec<Arc<SourceFile>>),
    /// With what each file's bytes are loaded by, each with where it begins.
    Artifact(Arc<Artifact>, Handle, Vec<Vec<Run>>),
    /// A quantized model, or one of GGUF.
    Made(Box<dyn Behind>),
}

/// A model that was opened. An artifact's must not be used on a thread of its runtime, which reads block.
#[derive(Debug)]
pub struct ModelSource {
    place: Place,
    files: Vec<File>,
    tensors: Vec<Tensor>,
    /// Of two tensors of one name the first.
    by_name: HashMap<String, usize>,
    config: OnceLock<Value>,
}

impl ModelSource {
    /// The model in a folder, or of a single file.
    ///
    /// # Errors
    /// If a file cannot be read, claims to be safetensors and is not, or the files are no whole model.
    pub fn folder(path: &Path) -> Result<Self, SourceError> {
        let walked = model::walk(path, &Opaque::default())?;
        let faults = model::faults(&walked.files, &walked.dangling)?;
        if !faults.is_empty() {
            return Err(ModelError::Incomplete { path: path.to_owned(), faults }.into());
        }
        let sources: Vec<_> = walked.files.into_iter().map(Arc::new).collect();
        let file = |source: &Arc<SourceFile>| File {
            path: source.path.clone(),
            size: source.size,
            executable: source.executable,
            parts: source.parts.clone(),
        };
        let files = sources.iter().map(file).collect();
        Ok(Self::new(Place::Disk(sources), files, std::iter::empty()))
    }

    /// An artifact that was opened, and trusted where keys are. Blocks; `runtime` drives its reads.
    ///
    /// # Errors
    /// If its table cannot be read, or contradicts itself.
    pub fn artifact(
        artifact: impl Into<Arc<Artifact>>,
        runtime: &Handle,
    ) -> Result<Self, SourceError> {
        let artifact = artifact.into();
        let (listed, mut tensors) = runtime.block_on(async {
            Ok::<_, SourceError>((
                artifact.files().await?,
                artifact.select(&Selection::All, None).await?.tensors,
            ))
        })?;
        tensors.sort_by_key(|request| request.entry.ordinal);
        let (mut files, mut requests) = (Vec::new(), Vec::new());
        // Files list all tensors, in their order.
        let mut next = tensors.iter();
        for file in listed {
            let (file, own) = parts(file, &mut next)?;
            files.push(file);
            requests.push(own);
        }
        let place = Place::Artifact(artifact, runtime.clone(), requests);
        Ok(Self::new(place, files, tensors.iter().cloned()))
    }

    fn new(
        place: Place,
        files: Vec<File>,
        mut requests: impl Iterator<Item = Arc<TensorRequest>>,
    ) -> Self {
        let (mut tensors, mut by_name) = (Vec::new(), HashMap::new());
        for (file, own) in files.iter().enumerate() {
            for (part, of) in own.parts.iter().enumerate() {
                let PartKind::Tensor { name, dtype, shape } = &of.kind else { continue };
                by_name.entry(name.clone()).or_insert(tensors.len());
                let request = requests.next();
                let digest = request.as_ref().map(|request| request.entry.digest);
                tensors.push(Tensor {
                    name: name.clone(),
                    dtype: *dtype,
                    shape: shape.clone(),
                    file,
                    part,
                    offset: of.offset,
                    len: of.len,
                    digest: digest.map(OnceLock::from).unwrap_or_default(),
                    request,
                });
            }
        }
        Self { place, files, tensors, by_name, config: OnceLock::new() }
    }

    /// The files, in the order of their paths.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The tensors, in the order of files and of their places in them.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The artifact, if it is one.
    pub fn as_artifact(&self) -> Option<&Artifact> {
        match &self.place {
            Place::Disk(_) => None,
            Place::Artifact(artifact, ..) => Some(artifact),
            Place::Made(made) => made.artifact(),
        }
    }

    /// How it was quantized, if it is a quantized model in plain floats.
    pub fn was(&self) -> Option<&str> {
        match &self.place {
            Place::Made(made) => made.was(),
            _ => None,
        }
    }

    /// Whether stacked and transposed weights are tensors of their own here.
    pub(super) fn is_apart(&self) -> bool {
        matches!(&self.place, Place::Made(made) if made.is_apart())
    }

    /// Whether tensor `number` was made outputs by inputs, though the model may store its like by columns: what was
    /// a quantized layer.
    pub(super) fn is_linear(&self, number: usize) -> bool {
        matches!(&self.place, Place::Made(made) if made.is_linear(number))
    }

    /// A model that is made when it is read.
    fn made(behind: Box<dyn Behind>, files: Vec<File>) -> Self {
        Self::new(Place::Made(behind), files, std::iter::empty())
    }

    /// The artifact's id, if it is one.
    pub fn id(&self) -> Option<ManifestId> {
        self.as_artifact().map(Artifact::id)
    }

    /// What keeps its files from being a whole model, as its manifest says; nothing of a folder, which is
    /// refused then.
    pub fn incomplete(&self) -> Vec<Incomplete> {
        self.as_artifact()
            .map(|artifact| artifact.manifest().incomplete.clone())
            .unwrap_or_default()
    }

    /// `config.json`, which is read once.
    ///
    /// # Errors
    /// If there is none, or it cannot be read or parsed.
    pub fn config(&self) -> Result<&Value, SourceError> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let no_file = || SourceError::NoFile { path: CONFIG.to_owned() };
        let config = self.json(CONFIG)?.ok_or_else(no_file)?;
        Ok(self.config.get_or_init(|| config))
    }

    /// How the model's weights are quantized, if they are: what a configuration or, where all weights lie in GGUF
    /// files, their headers say.
    ///
    /// # Errors
    /// If one of these cannot be read, or has a quantization that is not known.
    pub fn quantization(&self) -> Result<Option<Method>, SourceError> {
        for path in CONFIGS {
            let Some(config) = self.json(path)? else { continue };
            let method = Method::of_config(&config);
            let path = path.to_owned();
            let method = method.map_err(|error| SourceError::Quantization { path, error })?;
            if method.is_some() {
                return Ok(method);
            }
        }
        self.gguf()
    }

    /// What the headers of GGUF files say, if all weights lie in such.
    fn gguf(&self) -> Result<Option<Method>, SourceError> {
        let mut weights = self.files.iter().filter(|file| file.has_tensors()).peekable();
        if weights.peek().is_none() || !weights.all(|file| file.path.ends_with(".gguf")) {
            return Ok(None);
        }
        let mut blocks = Vec::new();
        for (path, bytes) in self.gguf_headers()? {
            let header = Header::parse(&bytes);
            let header = header.map_err(|error| SourceError::Gguf { path: path.clone(), error })?;
            blocks.extend(header.blocks().map(|(name, block)| (name.to_owned(), block)));
        }
        let any = !blocks.is_empty();
        Ok(any.then(|| Method::Gguf(Blocks::from_iter(blocks))))
    }

    /// A small file of JSON, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or parsed.
    pub fn json(&self, path: &str) -> Result<Option<Value>, SourceError> {
        let Some(bytes) = self.file(path, MAX_JSON)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| SourceError::Json { path: path.to_owned(), error })
    }

    /// The bytes of a file, of at most `limit`, if there is one of this path.
    ///
    /// # Errors
    /// If it is larger, or cannot be read.
    pub fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, SourceError> {
        let Some(number) = self.files.iter().position(|file| file.path == path) else {
            return Ok(None);
        };
        let size = self.files.get(number).map_or(0, |file| file.size);
        if size > limit {
            return Err(SourceError::Large { path: path.to_owned(), size, limit });
        }
        self.read(number, 0..size).map(Some)
    }

    /// An error unless every tensor has a name of its own.
    ///
    /// # Errors
    /// If two files have a tensor of one name.
    pub fn check_names(&self) -> Result<(), SourceError> {
        let path = |tensor: &Tensor| self.files.get(tensor.file).map(|file| file.path.clone());
        for tensor in &self.tensors {
            let Some(other) = self.tensor(&tensor.name) else { continue };
            if (other.file, other.part) != (tensor.file, tensor.part) {
                return Err(SourceError::Twice {
                    tensor: tensor.name.clone(),
                    first: path(other).unwrap_or_default(),
                    second: path(tensor).unwrap_or_default(),
                });
            }
        }
        Ok(())
    }

    /// An error unless the model is whole: it says what it is, every tensor has a name of its own, and every
    /// shard that the list names is there with its tensors.
    ///
    /// # Errors
    /// If it is not, or a file that tells cannot be read.
    pub fn check_whole(&self) -> Result<(), SourceError> {
        self.config()?;
        self.check_names()?;
        let Some(index) = self.json(INDEX)? else { return Ok(()) };
        let map = index.get("weight_map").and_then(Value::as_object);
        for (tensor, path) in map.into_iter().flatten() {
            let path = path.as_str().unwrap_or_default();
            let file = self.files.iter().position(|file| file.path == path);
            let (named, path) = (tensor.clone(), path.to_owned());
            let Some(file) = file else {
                return Err(SourceError::NoShard { tensor: named, path });
            };
            if self.tensor(tensor).is_none_or(|own| own.file != file) {
                return Err(SourceError::NotInShard { tensor: named, path });
            }
        }
        Ok(())
    }

    /// An error if a file is no longer what it was when the model was opened.
    ///
    /// # Errors
    /// If one was written or cut short since; an artifact never is.
    pub fn check_unchanged(&self) -> Result<(), ModelError> {
        match &self.place {
            Place::Disk(sources) => sources.iter().try_for_each(|source| source.check_unchanged()),
            Place::Artifact(..) => Ok(()),
            Place::Made(made) => made.check_unchanged(),
        }
    }

    /// The bytes of a part of a file.
    ///
    /// # Errors
    /// If they cannot be read, or are not in the file.
    pub fn read(&self, file: usize, range: Range<u64>) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(format!("of bytes {range:?} in file {file}"));
        let len = range.end.checked_sub(range.start).ok_or_else(defect)?;
        let len = usize::try_from(len).map_err(|_| defect())?;
        let mut bytes = BytesMut::with_capacity(len);
        match &self.place {
            Place::Disk(sources) => {
                let source = sources.get(file).ok_or_else(defect)?;
                bytes.resize(len, 0);
                let read = source.file.read_exact_at(&mut bytes, range.start);
                read.map_err(ModelError::io(&source.location))?;
            }
            Place::Artifact(artifact, runtime, requests) => {
                let own = requests.get(file).ok_or_else(defect)?;
                let options = LoadOptions { piece: Some(PIECE), ..LoadOptions::default() };
                let take = &mut |_, piece: &[u8]| bytes.extend_from_slice(piece);
                load(artifact, runtime, within(own, &range), &options, take)?;
            }
            Place::Made(made) => {
                if let Some(found) = made.bytes(file, range.clone()) {
                    return found;
                }
                let holds = |own: &Tensor| {
                    let end = own.offset + own.len;
                    own.file == file && own.offset <= range.start && range.end <= end
                };
                let number = self.tensors.iter().position(holds).ok_or_else(defect)?;
                let begin = self.tensors.get(number).map_or(0, |own| own.offset);
                let begin = usize::try_from(range.start - begin).map_err(|_| defect())?;
                let whole = made.tensor(number)?;
                let end = begin.checked_add(len).filter(|end| *end <= whole.len());
                return Ok(whole.slice(begin..end.ok_or_else(defect)?));
            }
        }
        if bytes.len() != len {
            return Err(defect());
        }
        Ok(bytes.freeze())
    }

    /// All bytes of a tensor.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_tensor(&self, tensor: &Tensor) -> Result<Bytes, SourceError> {
        if let Place::Made(made) = &self.place {
            let number = self.by_name.get(&tensor.name);
            let number = number.ok_or_else(|| SourceError::Defect(tensor.name.clone()))?;
            return made.tensor(*number);
        }
        self.read(tensor.file, tensor.offset..tensor.offset + tensor.len)
    }

    /// Gives the bytes of a tensor to `take`, in order and in parts of a few megabytes, each with where it
    /// begins.
    ///
    /// # Errors
    /// If they cannot be read; some may have been given by then.
    pub fn stream(
        &self,
        tensor: &Tensor,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), SourceError> {
        match (&self.place, &tensor.request) {
            (Place::Artifact(artifact, runtime, _), Some(request)) => {
                let options = LoadOptions {
                    piece: Some(STREAMED),
                    budget: 4 * STREAMED,
                    ..LoadOptions::default()
                };
                load(artifact, runtime, vec![request.clone()], &options, take)
            }
            (Place::Made(made), _) => {
                let number = self.by_name.get(&tensor.name);
                if let Some(streamed) = number.and_then(|number| made.stream(*number, take)) {
                    return streamed;
                }
                let bytes = self.read_tensor(tensor)?;
                let parts = bytes.chunks(STREAMED as usize).enumerate();
                parts.for_each(|(at, part)| take(at as u64 * STREAMED, part));
                Ok(())
            }
            _ => {
                for begin in (0..tensor.len).step_by(STREAMED as usize) {
                    let end = tensor.len.min(begin + STREAMED);
                    take(
                        begin,
                        &self.read(tensor.file, tensor.offset + begin..tensor.offset + end)?,
                    );
                }
                Ok(())
            }
        }
    }

    /// Reads tensors in this order.
    pub(super) fn reader(&self, order: impl Iterator<Item = usize>) -> Reader<'_> {
        let stream = match &self.place {
            Place::Disk(_) | Place::Made(_) => None,
            Place::Artifact(artifact, runtime, _) => {
                let wanted = order.filter_map(|tensor| self.tensors.get(tensor)?.request.clone());
                Some(Stream::new(runtime, artifact, wanted.collect()))
            }
        };
        Reader { source: self, stream }
    }

    /// The bytes of a file where they lie on disk, from `offset` on.
    pub(super) fn on_disk(&self, file: usize, offset: u64) -> Option<Held> {
        let Place::Disk(sources) = &self.place else { return None };
        sources.get(file).map(|file| Held::File { file: file.clone(), offset })
    }

    /// A part of a file, as it is packed.
    pub(super) fn part(&self, file: usize, part: usize) -> Result<Held, SourceError> {
        let defect = || SourceError::Defect(format!("of part {part} in file {file}"));
        let own = self.files.get(file).ok_or_else(defect)?;
        let of = own.parts.get(part).ok_or_else(defect)?;
        if let Some(held) = self.on_disk(file, of.offset) {
            return Ok(held);
        }
        if let (Place::Made(_), PartKind::Tensor { name, .. }) = (&self.place, &of.kind) {
            let tensor = self.tensor(name).ok_or_else(defect)?;
            return self.read_tensor(tensor).map(Held::Memory);
        }
        if of.kind == PartKind::Content && of.len > MAX_CONTENT {
            let (path, size) = (own.path.clone(), of.len);
            return Err(SourceError::Large { path, size, limit: MAX_CONTENT });
        }
        self.read(file, of.offset..of.offset + of.len).map(Held::Memory)
    }

    /// A file as it is packed: as it lies on disk, unless it lies there not or parts of it are `made`.
    pub(super) fn input(&self, file: usize, made: bool) -> Option<Input> {
        match &self.place {
            Place::Disk(sources) if !made => sources.get(file).cloned().map(Input::File),
            _ => self.files.get(file).map(|file| {
                let File { path, executable, parts, .. } = file.clone();
                Input::Made(GeneratedFile { path, executable, parts })
            }),
        }
    }
}

/// Reads tensors of a model one after the other.
pub(super) struct Reader<'a> {
    source: &'a ModelSource,
    stream: Option<Stream>,
}

impl Reader<'_> {
    /// The next tensor, which of an artifact must be the one that was announced.
    pub(super) fn read(&mut self, tensor: usize) -> Result<View, SourceError> {
        let defect = || SourceError::Defect(format!("number {tensor}"));
        let own = self.source.tensors.get(tensor).ok_or_else(defect)?;
        match (&self.source.place, &mut self.stream) {
            (Place::Disk(sources), _) => {
                let file = sources.get(own.file).ok_or_else(defect)?.clone();
                let location = file.location.clone();
                let len = usize::try_from(own.len).map_err(|_| defect())?;
                let view = Held::File { file, offset: own.offset }.view(0, len);
                Ok(view.map_err(ModelError::io(&location))?)
            }
            (Place::Artifact(..), Some(stream)) => Ok(View::Memory(stream.read(&own.name)?)),
            (Place::Artifact(..), None) => Err(defect()),
            (Place::Made(_), _) => Ok(View::Memory(self.source.read_tensor(own)?)),
        }
    }
}
