//! A model of GGUF files: its configuration and tokenizer are made of their metadata, unless they lie beside.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::super::{CONFIG, MAX_CONTENT, ModelSource, SourceError};
use super::made::{From, Made};
use super::view::{Builder, WEIGHTS, named, others};
use crate::dequant::config::{Blocks, Method};
use crate::dequant::{Float, convert};
use crate::format::dtype::{Dtype, Shape};
use crate::gguf::config::{FACTORS, Metadata, config};
use crate::gguf::names::{Change, Family, Original};
use crate::gguf::{GgufError, Header, Kind, tokenizer};
use crate::pack::model::PartKind;

/// The longest factors of positions.
const MAX_FACTORS: u64 = 1 << 20;

impl ModelSource {
    /// Whether all weights lie in GGUF files.
    pub fn is_gguf(&self) -> bool {
        let gguf = |path: &str| path.ends_with(".gguf");
        let mut weights = self.files.iter().filter(|file| file.has_tensors()).peekable();
        match weights.peek() {
            // One that is not understood has no tensors.
            None => self.files.iter().any(|file| gguf(&file.path)),
            Some(_) => weights.all(|file| gguf(&file.path)),
        }
    }

    /// The headers of its GGUF files, in the order of their paths.
    pub(in super::super) fn gguf_headers(&self) -> Result<Vec<(String, Bytes)>, SourceError> {
        let mut headers = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            if !file.path.ends_with(".gguf") {
                continue;
            }
            let first = file.parts.first().filter(|part| part.kind == PartKind::Content);
            let (path, limit) = (file.path.clone(), MAX_CONTENT);
            let mut len = first.map_or(0, |part| part.len);
            if !file.has_tensors() {
                len = len.min(limit >> 4);
            }
            if len > limit {
                return Err(SourceError::Large { path, size: len, limit });
            }
            headers.push((path, self.read(number, 0..len)?));
        }
        Ok(headers)
    }
}

/// The view.
pub(super) fn view(inner: Arc<ModelSource>, float: Float) -> Result<ModelSource, SourceError> {
    let held = inner.gguf_headers()?;
    let mut headers = Vec::new();
    for (path, bytes) in &held {
        let wrong = |error| SourceError::Gguf { path: path.clone(), error };
        let header = Header::parse(bytes).map_err(wrong)?;
        for tensor in &header.tensors {
            tensor.stored().map_err(wrong)?;
        }
        headers.push(header);
    }
    let path = held.first().map(|(path, _)| path.clone()).unwrap_or_default();
    let wrong = |error| SourceError::Gguf { path: path.clone(), error };
    // The first of a split file has the metadata.
    let first = headers.first().ok_or(GgufError::Magic).map_err(wrong)?;
    let metadata = Metadata::new(first).map_err(wrong)?;
    let beside = inner.json(CONFIG)?;
    let has = |name: &str| headers.iter().any(|header| header.tensor(name).is_some());
    let family = match (metadata.family(&has), &beside) {
        (Err(error), Some(config)) => {
            let model = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
            Family::of_model(model).map(|family| family.of_file(&has)).ok_or(error)
        }
        (family, _) => family,
    };
    let (family, heads) = (family.map_err(wrong)?, metadata.heads().map_err(wrong)?);
    let blocks: Blocks = headers
        .iter()
        .flat_map(|header| header.blocks().map(|(name, block)| (name.to_owned(), block)))
        .collect();
    let types = |header: &Header<'_>, name: &str| {
        header.tensor(name).and_then(|tensor| Kind::numbered(tensor.number))
    };
    let mut tensors = Vec::new();
    for (at, tensor) in inner.tensors().iter().enumerate() {
        if FACTORS.contains(&tensor.name.as_str()) {
            continue;
        }
        let kind = headers.iter().find_map(|header| types(header, &tensor.name));
        let mut dims = tensor.shape.dims().to_vec();
        if let (Some(Kind::Block(block)), Some(last)) = (kind, dims.last_mut()) {
            *last = *last / block.bytes() as u64 * block.elements() as u64;
        }
        let unknown = || {
            let why = "no model of its architecture has it, as far as is known here";
            wrong(GgufError::Tensor { name: tensor.name.clone(), why })
        };
        for original in family.originals(&tensor.name, &dims, heads).ok_or_else(unknown)? {
            let from = match kind {
                Some(Kind::Block(block)) => (From::Blocks(at, block), float.dtype()),
                _ => (From::Stored(at), tensor.dtype),
            };
            tensors.push((WEIGHTS.to_owned(), made(from, &dims, original)?));
        }
    }
    let factors = |name: &str| {
        let tensor = inner.tensor(name).filter(|tensor| tensor.len <= MAX_FACTORS)?;
        let float = Float::of_dtype(tensor.dtype)?;
        let bytes = convert(&inner.read_tensor(tensor).ok()?, float, Float::F32);
        Some(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    };
    let mut made = Vec::new();
    if beside.is_none() {
        made.push((CONFIG, config(&headers, &factors).map_err(wrong)?));
    }
    let has = |path: &str| inner.files.iter().any(|file| file.path == path);
    if !has("tokenizer.json") {
        match tokenizer::files(first) {
            Ok(files) => made.extend(files.into_iter().filter(|(path, _)| !has(path))),
            // Weights are read without one.
            Err(GgufError::Missing(_) | GgufError::Tokenizer(_)) => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    let was = match blocks.names().is_empty() {
        true => "gguf".to_owned(),
        false => named(&Method::Gguf(blocks)),
    };
    let mut builder = Builder::new(inner);
    builder.files = others(&builder.inner).filter(|(path, _)| !path.ends_with(".gguf")).collect();
    if beside.is_some() {
        builder.config()?;
    }
    made.iter().for_each(|(path, json)| builder.bytes(path, json));
    builder.tensors = tensors;
    builder.build(Some(was))
}

/// A tensor of the model within one of GGUF that has `dims` elements.
fn made((from, dtype): (From, Dtype), dims: &[u64], own: Original) -> Result<Made, SourceError> {
    let Original { name, expert, change } = own;
    let mut dims = dims.to_vec();
    if expert.is_some() {
        dims.remove(0);
    }
    if change == Change::Transposed {
        dims.reverse();
    }
    let shape = Shape::new(dims).ok_or_else(|| SourceError::Defect(name.clone()))?;
    Ok(Made { name, dtype, shape, from, slice: expert, change, matrices: 1 })
}
