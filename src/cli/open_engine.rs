//! The embedded engine on an artifact, for commands that run a model in this process.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Global;
use super::error::Failure;
use super::output::Output;
use crate::engine::Engine;
use crate::format::name::ArtifactSpec;

/// Opens an artifact's model.
pub(super) fn open_engine(
    artifact: &ArtifactSpec,
    _global: &Global,
    _runtime: &Handle,
    _output: &Output,
) -> Result<Arc<dyn Engine>, Failure> {
    Err(Failure::failed(format!(
        "{artifact}: the embedded engine is not built yet; give the URL of a server"
    )))
}
