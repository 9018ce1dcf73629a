//! An artifact of GGUF files: what their headers say, and the files of a model that are made of it where the artifact
//! has none.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::{ArtifactError, LoadOptions};
use crate::dequant::config::Blocks;
use crate::dequant::{Float, convert};
use crate::format::page::Extent;
use crate::gguf::config::{FACTORS, config};
use crate::gguf::{GgufError, Header, tokenizer};
use crate::store::StoreError;
use crate::store::artifact::{Artifact, SelectedTensors, Selection};

/// The files that metadata stands for.
const CONFIG: &str = "config.json";
const TOKENIZER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
/// The longest header.
const MAX_HEADER: u64 = 1 << 30;
/// The longest factors of positions.
const MAX_FACTORS: u64 = 1 << 20;

impl Artifact {
    /// The headers of its GGUF files, in the order of their paths; none unless all weights lie in such. They are
    /// read once.
    async fn gguf_headers(&self) -> Result<&[(String, Bytes)], ArtifactError> {
        Ok(self.gguf.get_or_try_init(|| self.read_gguf_headers()).await?)
    }

    async fn read_gguf_headers(&self) -> Result<Vec<(String, Bytes)>, ArtifactError> {
        let mut found = Vec::new();
        for file in self.files().await? {
            let is_tensor = |extent: &Extent| matches!(extent, Extent::Tensor { .. });
            if !file.entry.extents.iter().any(is_tensor) {
                continue;
            }
            if !file.entry.path.ends_with(".gguf") {
                return Ok(Vec::new());
            }
            // The header is all that stands before the first tensor.
            let before = file.entry.extents.iter().map_while(|extent| match extent {
                Extent::Content { chunks, .. } => Some(*chunks as usize),
                Extent::Tensor { .. } => None,
            });
            let chunks = before.sum();
            if chunks == 0 {
                return Ok(Vec::new());
            }
            found.push((file.entry.path, file.content, chunks));
        }
        let mut headers = Vec::new();
        for (path, mut tensors, chunks) in found {
            tensors.truncate(chunks);
            let size = tensors.iter().map(|request| request.cut.len()).sum();
            if size > MAX_HEADER {
                let error = crate::store::FileError::Large { size, limit: MAX_HEADER };
                return Err(StoreError::File { path, error }.into());
            }
            let selected = SelectedTensors { tensors, ..SelectedTensors::default() };
            headers.push((path, self.bytes(selected).await?));
        }
        Ok(headers)
    }

    /// The types of blocks of its GGUF files; none if there are none.
    pub(super) async fn gguf_blocks(&self) -> Result<Option<Blocks>, ArtifactError> {
        let mut blocks = Vec::new();
        for (path, bytes) in self.gguf_headers().await? {
            let header = Header::parse(bytes).map_err(|error| refused(path, error))?;
            blocks.extend(header.blocks().map(|(name, block)| (name.to_owned(), block)));
        }
        let any = !blocks.is_empty();
        Ok(any.then(|| Blocks::from_iter(blocks)))
    }

    /// The file `path` of the model, made of what GGUF files say; none if it is not one of those that are.
    pub(super) async fn gguf_file(&self, path: &str) -> Result<Option<Bytes>, ArtifactError> {
        if path != CONFIG && !TOKENIZER.contains(&path) {
            return Ok(None);
        }
        let held = self.gguf_headers().await?;
        let Some((first, _)) = held.first() else { return Ok(None) };
        let mut headers = Vec::new();
        for (path, bytes) in held {
            headers.push(Header::parse(bytes).map_err(|error| refused(path, error))?);
        }
        let wrong = |error| refused(first, error);
        let written = |json: &Value| Some(Bytes::from(json.to_string()));
        if path == CONFIG {
            let all = self.select(&Selection::All, None).await?.tensors;
            let mut factors = Vec::new();
            for request in all.into_iter().filter(|own| FACTORS.contains(&&*own.entry.name)) {
                let (name, dtype) = (request.entry.name.clone(), request.entry.dtype);
                let float = Float::of_dtype(dtype);
                let Some(float) = float.filter(|_| request.cut.len() <= MAX_FACTORS) else {
                    continue;
                };
                let tensors = vec![request];
                let own = SelectedTensors { tensors, ..SelectedTensors::default() };
                let bytes = convert(&self.bytes(own).await?, float, Float::F32);
                let words = bytes.as_chunks::<4>().0.iter();
                let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
                factors.push((name, values));
            }
            let of = |name: &str| {
                let own = factors.iter().find(|(own, _)| own == name);
                own.map(|(_, values)| values.clone())
            };
            return Ok(written(&config(&headers, &of).map_err(wrong)?));
        }
        let header = headers.first().ok_or(GgufError::Magic).map_err(wrong)?;
        let files = match tokenizer::files(header) {
            Ok(files) => files,
            Err(GgufError::Missing(_)) => return Ok(None),
            Err(error) => return Err(wrong(error)),
        };
        Ok(files.iter().find(|(own, _)| *own == path).and_then(|(_, json)| written(json)))
    }

    /// The bytes of what was selected, one after the other.
    pub(super) async fn bytes(&self, selected: SelectedTensors) -> Result<Bytes, ArtifactError> {
        let mut loader = self.load(selected, &LoadOptions::default());
        let mut bytes = BytesMut::new();
        while let Some(piece) = loader.next().await {
            bytes.extend_from_slice(&piece?.data);
        }
        Ok(bytes.freeze())
    }
}

fn refused(path: &str, error: GgufError) -> ArtifactError {
    StoreError::File { path: path.to_owned(), error: error.into() }.into()
}
