//! A quantized model, or one of GGUF, as one of plain floats: what reads it sees a checkpoint of safetensors with a
//! configuration and a tokenizer, and each tensor is made of the stored ones when it is asked for.

mod gguf;
mod made;
mod stored;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::listed::File;
use super::{CONFIG, INDEX, ModelSource, Place, SourceError};
use crate::dequant::Float;
use crate::dequant::config::{CONFIGS, Method};
use crate::pack::model::{Part, PartKind};
pub(super) use made::Made;

/// The file that all tensors of GGUF files are taken to be in.
const WEIGHTS: &str = "model.safetensors";

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
pub(super) struct Plain {
    pub(super) inner: Arc<ModelSource>,
    /// What each file is.
    pub(super) contents: Vec<Content>,
    /// What each tensor is made of.
    pub(super) made: Vec<Made>,
    /// How it is quantized.
    pub(super) was: String,
}

impl ModelSource {
    /// The same model in plain floats. Weights that are quantized become `float`, or f32; what is no quantized weight
    /// keeps its type.
    ///
    /// # Errors
    /// If its quantization, its blocks or the model of a GGUF file are not known here.
    pub fn plain(self: Arc<Self>, float: Option<Float>) -> Result<Arc<Self>, SourceError> {
        if matches!(self.place, Place::Plain(_)) {
            return Ok(self);
        }
        if self.is_gguf() {
            return gguf::view(self, float.unwrap_or(Float::F32)).map(Arc::new);
        }
        match self.quantization()? {
            Some(method) => stored::view(self, &method, float.unwrap_or(Float::F32)).map(Arc::new),
            None => Ok(self),
        }
    }

    /// How it was quantized, if it is a quantized model in plain floats.
    pub fn was(&self) -> Option<&str> {
        match &self.place {
            Place::Plain(plain) => Some(plain.was.as_str()),
            _ => None,
        }
    }

    /// The type of float that the configuration of a model names, or bfloat16.
    pub fn named_float(&self) -> Float {
        let config = self.config().ok();
        let named = config.and_then(|own| own.get("dtype").or_else(|| own.get("torch_dtype")));
        match named.and_then(Value::as_str) {
            Some("float32") => Float::F32,
            Some("float16") => Float::F16,
            _ => Float::BF16,
        }
    }
}

/// Puts a view together: files that stay or are made, and tensors by the file that they are in.
struct Builder {
    inner: Arc<ModelSource>,
    /// Files by their paths.
    files: Vec<(String, Content)>,
    /// Tensors by the paths of their files.
    tensors: Vec<(String, Made)>,
}

impl Builder {
    fn new(inner: Arc<ModelSource>) -> Self {
        Self { inner, files: Vec::new(), tensors: Vec::new() }
    }

    fn bytes(&mut self, path: &str, json: &Value) {
        let bytes = Bytes::from(format!("{json:#}\n"));
        self.files.push((path.to_owned(), Content::Bytes(bytes)));
    }

    /// `config.json` without what it says of a quantization.
    fn config(&mut self) -> Result<(), SourceError> {
        let mut config = self.inner.config()?.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("quantization_config");
            config.remove("compression_config");
        }
        self.bytes(CONFIG, &config);
        Ok(())
    }

    fn build(self, was: String) -> Result<ModelSource, SourceError> {
        let Self { inner, mut files, tensors } = self;
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
        let plain = Plain { inner, contents, made, was };
        Ok(ModelSource::new(Place::Plain(Box::new(plain)), listed, std::iter::empty()))
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

impl Plain {
    /// The bytes `range` of a file that is no tensor's.
    pub(super) fn read(
        &self,
        file: usize,
        range: std::ops::Range<u64>,
    ) -> Option<Result<Bytes, SourceError>> {
        let slice = |bytes: &Bytes| {
            let (from, to) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
            bytes.get(from..to)?;
            Some(Ok(bytes.slice(from..to)))
        };
        match self.contents.get(file)? {
            Content::Same(file) => Some(self.inner.read(*file, range)),
            Content::Bytes(bytes) | Content::Tensors(bytes) => slice(bytes),
        }
    }
}

/// Files of the model that a view takes over as they are: all but weights, and what says how those are quantized.
fn others(inner: &ModelSource) -> impl Iterator<Item = (String, Content)> {
    let left =
        |path: &str| CONFIGS.contains(&path) || path == INDEX || path == "hf_quant_config.json";
    let own = inner.files.iter().enumerate();
    own.filter(move |(_, file)| !file.has_tensors() && !left(&file.path))
        .map(|(number, file)| (file.path.clone(), Content::Same(number)))
}

/// What a method is called where a result says what it was made of.
fn named(method: &Method) -> String {
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
