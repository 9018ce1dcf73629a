//! The embedded engine on an artifact, for commands that run a model in this process.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Global;
use super::error::Failure;
use super::output::Output;
use crate::engine::{self, Engine, EngineOptions, ModelOptions};
use crate::format::name::ArtifactSpec;

/// Opens an artifact's model, and waits until its weights are there.
pub(super) fn open_engine(
    artifact: &ArtifactSpec,
    global: &Global,
    runtime: &Handle,
    output: &Output,
) -> Result<Arc<dyn Engine>, Failure> {
    let artifact = runtime.block_on(global.open(artifact, output))?;
    let (model, options) = (ModelOptions::default(), EngineOptions::default());
    let running = engine::open(artifact, &[], &model, options, runtime)?;
    running.wait()?;
    Ok(running.engine())
}
