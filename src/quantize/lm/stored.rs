//! An artifact as a store of tensors: every byte verified on its way.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Listed, LmError, TensorStore};
use crate::dequant::gguf::Block;
use crate::load::artifact::{Artifact, ArtifactError, Pattern, Selection};
use crate::load::{LoadOptions, Tensor};

/// The pieces of a tensor that is streamed.
const PIECE: u64 = 4 << 20;

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
        let wanted = runtime.block_on(artifact.select(&Selection::All, None))?;
        let listed = wanted.tensors.iter().map(|want| Listed {
            name: want.entry.name.clone(),
            dtype: want.entry.dtype,
            shape: want.entry.shape.clone(),
        });
        Ok(Self { list: listed.collect(), artifact, runtime })
    }

    fn name(&self, at: usize) -> Result<&str, LmError> {
        let listed = self.list.get(at).ok_or_else(|| LmError::Missing(format!("number {at}")))?;
        Ok(&listed.name)
    }

    /// Loads the tensors of these names.
    fn load(
        &self,
        names: &[&str],
        options: &LoadOptions,
        take: &mut dyn FnMut(Tensor),
    ) -> Result<(), LmError> {
        if names.is_empty() {
            return Ok(());
        }
        let exact = names.iter().map(|name| Pattern::exact(name)).collect();
        let selection = Selection::Patterns(exact);
        self.runtime.block_on(async {
            let wanted = self.artifact.select(&selection, None).await?;
            let mut loader = self.artifact.load(wanted, options);
            while let Some(piece) = loader.next().await {
                take(piece.map_err(ArtifactError::Load)?);
            }
            Ok(())
        })
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
        let names = wanted.iter().map(|at| self.name(*at));
        let names: Vec<&str> = names.collect::<Result<_, _>>()?;
        let mut found: HashMap<String, BytesMut> = HashMap::new();
        self.load(&names, &LoadOptions::default(), &mut |piece| {
            let bytes = found.entry(piece.name().to_owned()).or_default();
            if piece.offset == bytes.len() as u64 {
                bytes.extend_from_slice(&piece.data);
            }
        })?;
        let take = |name: &&str| match found.remove(*name) {
            Some(bytes) => Ok(bytes.freeze()),
            None => Err(LmError::Missing((*name).to_owned())),
        };
        names.iter().map(take).collect()
    }

    fn stream(&self, wanted: usize, take: &mut dyn FnMut(u64, &[u8])) -> Result<(), LmError> {
        let options =
            LoadOptions { piece: Some(PIECE), budget: 4 * PIECE, ..LoadOptions::default() };
        self.load(&[self.name(wanted)?], &options, &mut |piece| take(piece.offset, &piece.data))
    }

    fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, LmError> {
        Ok(self.runtime.block_on(self.artifact.file(path, limit))?)
    }

    fn blocks(&self) -> Option<Block> {
        blocks(&self.artifact)
    }
}
