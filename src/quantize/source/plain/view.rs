//! A model whose files and tensors are made when they are read.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::behind::Behind;
use super::super::listed::File;
use super::super::{CONFIG, INDEX, ModelSource, SourceError};
use super::made::{From, Made};
use crate::dequant::config::{CONFIGS, Method};
use crate::gguf::names::Change;
use crate::pack::model::{ModelError, Part, PartKind};
use crate::store::artifact::Artifact;

/// The file that all tensors of GGUF files are taken to be in.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// What a file is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of the model, as it is.
    Same(usize),
    /// These bytes.
    Bytes(Bytes),
    /// Tensors behind a header.
    Tensors(Bytes),
}

/// What is behind a model of plain floats.
#[derive(Debug)]
struct Plain {
    inner: Arc<ModelSource>,
    /// What each file is.
    contents: Vec<Content>,
    /// What each tensor is made of.
    made: Vec<Made>,
    /// How it is quantized, if it is.
    was: Option<String>,
    is_apart: bool,
    /// The stack of weights that was made last: it is read piece by piece.
    stack: Mutex<Option<(usize, Bytes)>>,
}

/// Puts a view together: files that stay or are made, and tensors by the file that they are in.
pub(super) struct Builder {
    pub(super) inner: Arc<ModelSource>,
    /// Files by their paths.
    pub(super) files: Vec<(String, Content)>,
    /// Tensors by the paths of their files.
    pub(super) tensors: Vec<(String, Made)>,
    /// Whether stacks and transposed weights are in pieces.
    pub(super) is_apart: bool,
}

impl Builder {
    pub(super) fn new(inner: Arc<ModelSource>) -> Self {
        Self { inner, files: Vec::new(), tensors: Vec::new(), is_apart: false }
    }

    pub(super) fn bytes(&mut self, path: &str, json: &Value) {
        let bytes = Bytes::from(format!("{json:#}\n"));
        self.files.push((path.to_owned(), Content::Bytes(bytes)));
    }

    /// `config.json` without what it says of a quantization.
    pub(super) fn config(&mut self) -> Result<(), SourceError> {
        let mut config = self.inner.config()?.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("quantization_config");
            config.remove("compression_config");
        }
        self.bytes(CONFIG, &config);
        Ok(())
    }

    pub(super) fn build(self, was: Option<String>) -> Result<ModelSource, SourceError> {
        let Self { inner, mut files, tensors, is_apart } = self;
        let mut paths: Vec<String> = tensors.iter().map(|(path, _)| path.clone()).collect();
        paths.sort();
        paths.dedup();
        files.extend(paths.into_iter().map(|path| (path, Content::Tensors(Bytes::new()))));
        files.sort_by(|one, other| one.0.cmp(&other.0));
        let (mut listed, mut contents, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for (path, content) in files {
            let (content, parts) = match content {
                Content::Tensors(_) => {
                    let own = tensors.iter().filter(|(of, _)| *of == path);
                    let own: Vec<&Made> = own.map(|(_, made)| made).collect();
                    let (header, parts) = layout(&own)?;
                    made.extend(own.into_iter().cloned());
                    (Content::Tensors(header), parts)
                }
                Content::Bytes(bytes) => {
                    let len = bytes.len() as u64;
                    (Content::Bytes(bytes), vec![Part { offset: 0, len, kind: PartKind::Content }])
                }
                Content::Same(file) => {
                    let own = inner.files.get(file).map(|own| own.parts.clone());
                    (Content::Same(file), own.unwrap_or_default())
                }
            };
            let size = parts.last().map_or(0, |last| last.offset + last.len);
            listed.push(File { path, size, executable: false, parts });
            contents.push(content);
        }
        let plain = Plain { inner, contents, made, was, is_apart, stack: Mutex::default() };
        Ok(ModelSource::made(Box::new(plain), listed))
    }
}

/// The header of a file with these tensors, and its parts.
fn layout(tensors: &[&Made]) -> Result<(Bytes, Vec<Part>), SourceError> {
    let mut entries = serde_json::Map::new();
    let (mut at, mut parts) = (0, Vec::new());
    for made in tensors {
        let defect = || SourceError::Defect(made.name.clone());
        let len = made.shape.byte_len(made.dtype).ok_or_else(defect)?;
        let entry = serde_json::json!({
            "dtype": made.dtype.name(), "shape": made.shape.dims(), "data_offsets": [at, at + len],
        });
        if entries.insert(made.name.clone(), entry).is_some() {
            let (tensor, path) = (made.name.clone(), WEIGHTS.to_owned());
            return Err(SourceError::Twice { tensor, first: path.clone(), second: path });
        }
        let (name, dtype, shape) = (made.name.clone(), made.dtype, made.shape.clone());
        parts.push(Part { offset: at, len, kind: PartKind::Tensor { name, dtype, shape } });
        at += len;
    }
    let mut text = Value::Object(entries).to_string();
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    let header = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let begin = header.len() as u64;
    parts.iter_mut().for_each(|part| part.offset += begin);
    parts.insert(0, Part { offset: 0, len: begin, kind: PartKind::Content });
    Ok((header.into(), parts))
}

impl Behind for Plain {
    fn bytes(&self, file: usize, range: Range<u64>) -> Option<Result<Bytes, SourceError>> {
        match self.contents.get(file)? {
            Content::Same(file) => Some(self.inner.read(*file, range)),
            Content::Bytes(bytes) | Content::Tensors(bytes) => {
                let from = usize::try_from(range.start).ok()?;
                let to = usize::try_from(range.end).ok()?;
                bytes.get(from..to)?;
                Some(Ok(bytes.slice(from..to)))
            }
        }
    }

    fn tensor(&self, number: usize) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(format!("number {number}"));
        let made = self.made.get(number).ok_or_else(defect)?;
        if made.shape.dims().len() < 3 {
            return made.make(&self.inner);
        }
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = stack.as_ref().filter(|(own, _)| *own == number) {
            return Ok(bytes.clone());
        }
        // Not two of them at once.
        *stack = None;
        let bytes = made.make(&self.inner)?;
        *stack = Some((number, bytes.clone()));
        Ok(bytes)
    }

    fn artifact(&self) -> Option<&Artifact> {
        self.inner.as_artifact()
    }

    fn check_unchanged(&self) -> Result<(), ModelError> {
        self.inner.check_unchanged()
    }

    fn was(&self) -> Option<&str> {
        self.was.as_deref()
    }

    fn is_apart(&self) -> bool {
        self.is_apart
    }

    fn is_linear(&self, number: usize) -> bool {
        match self.made.get(number).map(|made| &made.from) {
            Some(From::Module(..)) => true,
            Some(From::Piece(_, piece)) => piece.linear,
            Some(From::Stored(at)) => self.inner.is_linear(*at),
            _ => false,
        }
    }

    fn stream(
        &self,
        number: usize,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Option<Result<(), SourceError>> {
        let made = self.made.get(number)?;
        match made.from {
            From::Stored(at) if made.slice.is_none() && made.change == Change::Same => {
                Some(self.inner.stream(self.inner.tensors.get(at)?, take))
            }
            _ => None,
        }
    }
}

/// A view with these tensors, by the paths of their files, and all else of the model.
pub(super) fn finish(
    mut builder: Builder,
    tensors: Vec<(String, Made)>,
    was: Option<String>,
) -> Result<ModelSource, SourceError> {
    let is_listed = builder.inner.files().iter().any(|file| file.path == INDEX);
    builder.files = others(&builder.inner).collect();
    builder.config()?;
    if is_listed {
        let map: serde_json::Map<_, _> =
            tensors.iter().map(|(path, made)| (made.name.clone(), json!(path))).collect();
        builder.bytes(INDEX, &json!({"metadata": {}, "weight_map": map}));
    }
    builder.tensors = tensors;
    builder.build(was)
}

/// Files of the model that a view takes over as they are: all but weights, and what says how those are quantized.
pub(super) fn others(inner: &ModelSource) -> impl Iterator<Item = (String, Content)> {
    let left =
        |path: &str| CONFIGS.contains(&path) || path == INDEX || path == "hf_quant_config.json";
    let own = inner.files.iter().enumerate();
    own.filter(move |(_, file)| !file.has_tensors() && !left(&file.path))
        .map(|(number, file)| (file.path.clone(), Content::Same(number)))
}

/// What a method is called where a result says what it was made of.
pub(super) fn named(method: &Method) -> String {
    match method {
        Method::Gptq { bits, .. } => format!("gptq, {bits} bits"),
        Method::Awq { .. } => "awq, 4 bits".to_owned(),
        Method::Bnb4 => "bitsandbytes, 4 bits".to_owned(),
        Method::Bnb8 => "bitsandbytes, int8".to_owned(),
        Method::Packed { bits, .. } => format!("compressed-tensors, {bits} bits"),
        Method::Bytes { .. } => "compressed-tensors, int8".to_owned(),
        Method::Fp8 { .. } => "fp8".to_owned(),
        Method::Mxfp4 => "mxfp4".to_owned(),
        Method::Nvfp4 => "nvfp4".to_owned(),
        Method::Gguf(blocks) => {
            let names: Vec<&str> = blocks.names().into_keys().collect();
            format!("gguf, {}", names.join(" and "))
        }
    }
}
