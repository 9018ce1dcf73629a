//! An artifact as a store of tensors: every byte verified on its way.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Listed, LmError, TensorStore};
use crate::artifact::{Artifact, ArtifactError, Pattern, Selection};
use crate::loader::LoadOptions;
use crate::quant::encode::gguf::Block;

/// An opened artifact. Must not be used on a thread of the runtime itself, which its reads block.
#[derive(Debug)]
pub struct Stored {
    artifact: Arc<Artifact>,
    runtime: Handle,
    list: Vec<Listed>,
}

impl Stored {
    /// Reads the list of the artifact's tensors.
    pub fn open(artifact: impl Into<Arc<Artifact>>, runtime: Handle) -> Result<Self, LmError> {
        let artifact = artifact.into();
        let wanted = runtime.block_on(artifact.want(&Selection::All, None))?;
        let listed = wanted.tensors.iter().map(|want| Listed {
            name: want.entry.name.clone(),
            dtype: want.entry.dtype,
            shape: want.entry.shape.clone(),
        });
        Ok(Self { list: listed.collect(), artifact, runtime })
    }

    /// The artifact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }
}

/// The blocks that an artifact's manifest says its GGUF file was quantized to.
pub fn blocks(artifact: &Artifact) -> Option<Block> {
    let said = artifact.manifest().quantization.as_ref()?;
    let text = |key: &str| said.get(key).and_then(Value::as_str);
    text("method").filter(|_| text("format") == Some("gguf")).and_then(Block::named)
}

impl TensorStore for Stored {
    fn list(&self) -> &[Listed] {
        &self.list
    }

    fn read(&self, wanted: &[usize]) -> Result<Vec<Bytes>, LmError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let names = wanted.iter().map(|at| match self.list.get(*at) {
            Some(listed) => Ok(listed.name.as_str()),
            None => Err(LmError::Missing(format!("number {at}"))),
        });
        let names: Vec<&str> = names.collect::<Result<_, _>>()?;
        let exact = names.iter().map(|name| Pattern::exact(name)).collect();
        let selection = Selection::Patterns(exact);
        let mut found = self.runtime.block_on(async {
            let wanted = self.artifact.want(&selection, None).await?;
            let mut loader = self.artifact.load(wanted, &LoadOptions::default());
            let mut found: HashMap<String, BytesMut> = HashMap::new();
            while let Some(piece) = loader.next().await {
                let piece = piece.map_err(ArtifactError::Load)?;
                let bytes = found.entry(piece.name().to_owned()).or_default();
                if piece.offset == bytes.len() as u64 {
                    bytes.extend_from_slice(&piece.data);
                }
            }
            Ok::<_, LmError>(found)
        })?;
        let take = |name: &&str| match found.remove(*name) {
            Some(bytes) => Ok(bytes.freeze()),
            None => Err(LmError::Missing((*name).to_owned())),
        };
        names.iter().map(take).collect()
    }

    fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, LmError> {
        Ok(self.runtime.block_on(self.artifact.file(path, limit))?)
    }

    fn blocks(&self) -> Option<Block> {
        blocks(&self.artifact)
    }
}
