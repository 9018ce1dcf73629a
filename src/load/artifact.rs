//! Loading what was selected of an opened artifact.

use bytes::Bytes;

use super::{ErrorKind, LoadError, LoadOptions, Loader};
use crate::store::StoreError;
use crate::store::artifact::{Artifact, SelectedTensors};

/// Why something of an artifact could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// It could not be opened, or what it lists not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its chunks could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl ArtifactError {
    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.may_pass(),
            Self::Load(error) => error.kind() == ErrorKind::Network,
        }
    }
}

impl Artifact {
    /// Loads what [`Self::select`] found. Must be called within a tokio runtime.
    pub fn load(&self, selected: SelectedTensors, options: &LoadOptions) -> Loader {
        let SelectedTensors { tensors, pack_ends } = selected;
        Loader::start(self.store().clone(), Some(self.id()), tensors, pack_ends, options)
    }

    /// The bytes of the file `path`, which has no tensors and is at most `limit` bytes long; `None` if
    /// there is no such file. Where all weights lie in GGUF files, a configuration or a tokenizer that is not
    /// there is made of what those say. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the file is longer or has tensors, or its bytes cannot be had.
    pub async fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, ArtifactError> {
        let Some(tensors) = self.select_file(path, limit).await? else {
            return self.gguf_file(path).await;
        };
        let selected = SelectedTensors { tensors, ..SelectedTensors::default() };
        self.bytes(selected).await.map(Some)
    }
}
