//! `tenpak serve` with the engine of this program.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::cli::Global;
use crate::cli::error::Failure;
use crate::cli::output::Output;
use crate::format::name::ArtifactSpec;
use crate::serve::external::ComputeType;

/// What is asked of the embedded engine.
#[derive(Debug)]
#[allow(dead_code, reason = "the engine reads them")]
pub(super) struct EmbeddedArgs {
    pub(super) artifact: ArtifactSpec,
    pub(super) listen: SocketAddr,
    /// One of which a request must show, if there are any.
    pub(super) api_keys: Vec<String>,
    /// The artifact's name, if none is given.
    pub(super) served_names: Vec<String>,
    pub(super) max_context: Option<u32>,
    pub(super) max_concurrent: Option<u32>,
    /// The engine's choice, if none.
    pub(super) dtype: Option<ComputeType>,
    /// Bytes for weights.
    pub(super) memory: Option<u64>,
    pub(super) keep_cache: Option<PathBuf>,
    pub(super) adapters: Vec<(String, ArtifactSpec)>,
    /// Certificate chain and private key.
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    /// Ends the process at Ctrl-C: to be aborted by whoever takes that signal.
    pub(super) interrupt: AbortHandle,
}

/// Serves until it is told to stop.
pub(super) fn run_embedded(
    _args: &EmbeddedArgs,
    _global: &Global,
    _runtime: &Handle,
    _output: &Output,
) -> Result<(), Failure> {
    Err(Failure::failed("the embedded engine is not built yet; name another --engine"))
}
