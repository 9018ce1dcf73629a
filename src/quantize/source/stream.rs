//! Tensors in an announced order: what comes next is fetched while the last is worked on.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::error::SourceError;
use crate::load::{LoadOptions, Loader};
use crate::schedule::plan::TensorRequest;
use crate::store::artifact::{Artifact, SelectedTensors};

/// Tensors of an artifact, in an order of one's own.
pub(in crate::quantize) struct Stream {
    runtime: Handle,
    loader: Loader,
    order: VecDeque<String>,
}

impl Stream {
    /// Begins to load these tensors.
    pub(in crate::quantize) fn new(
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
    pub(in crate::quantize) fn read(&mut self, name: &str) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(name.to_owned());
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
