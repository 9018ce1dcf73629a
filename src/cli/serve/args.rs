//! What is asked of an engine of others.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::format::name::ArtifactSpec;
use crate::serve::deploy::Form;
use crate::serve::external::{ComputeType, External};

/// What is asked of an engine of others.
#[derive(Debug)]
pub(super) struct ExternalArgs {
    pub(super) engine: External,
    pub(super) artifact: ArtifactSpec,
    pub(super) listen: SocketAddr,
    pub(super) api_keys: Vec<String>,
    pub(super) served_names: Vec<String>,
    pub(super) tensor_parallel: Option<u32>,
    pub(super) max_context: Option<u32>,
    pub(super) max_concurrent: Option<u32>,
    pub(super) dtype: Option<ComputeType>,
    pub(super) keep_cache: Option<PathBuf>,
    pub(super) adapters: Vec<(String, ArtifactSpec)>,
    pub(super) python: Option<PathBuf>,
    pub(super) engine_bin: Option<PathBuf>,
    pub(super) start_timeout: Duration,
    pub(super) dry_run: bool,
    pub(super) print: Option<Form>,
    pub(super) more: Vec<String>,
    pub(super) interrupt: AbortHandle,
}
