//! Models elsewhere: `hf://`, `s3://`, `gs://`, `az://` and `https://` addresses, fetched into a folder of this machine.

use std::path::PathBuf;

use tokio::runtime::Handle;

use super::error::{FAILED, Failure, NETWORK, NOT_FOUND, USAGE};
use super::output::Output;
use super::progress::Bar;
use crate::studio::{Outside, OutsideError, OutsideOptions, Watch};

/// Where fetched models lie.
const FOLDER: &str = "TENPAK_SOURCES";

impl From<OutsideError> for Failure {
    fn from(error: OutsideError) -> Self {
        let status = match &error {
            OutsideError::Refused(_) => USAGE,
            OutsideError::Absent(_) => NOT_FOUND,
            OutsideError::Passing { .. } => NETWORK,
            _ => FAILED,
        };
        Self::new(status, error)
    }
}

impl Watch for Bar {
    fn begin(&self, bytes: u64) {
        self.begin(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.advance(bytes);
    }
}

/// What is not empty of the environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where fetched models lie: this user's cache, if nothing else is said.
fn folder() -> Result<PathBuf, Failure> {
    let named = variable(FOLDER).map(PathBuf::from);
    let cache = || {
        let own = variable("XDG_CACHE_HOME").map(PathBuf::from);
        own.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
    };
    let found = named.or_else(|| Some(cache()?.join("tenpak/sources")));
    found.ok_or_else(|| {
        Failure::usage(format!("no folder for fetched models: set {FOLDER}, or HOME"))
    })
}

/// Fetches a model, or finds what was fetched before; it stays until this process ends. `guard`: it is for somebody
/// else, and these servers may have any address.
pub(super) fn fetched(
    text: &str,
    certificates: Vec<Vec<u8>>,
    guard: Option<&[String]>,
    runtime: &Handle,
    output: &Output,
) -> Result<PathBuf, Failure> {
    let (endpoint, token) = (variable("HF_ENDPOINT"), variable("HF_TOKEN"));
    let allowed = guard.unwrap_or_default();
    let options =
        OutsideOptions::new(endpoint.as_deref(), token, None, allowed, certificates.clone());
    let options = options.map_err(Failure::usage)?;
    let outside = match guard {
        Some(_) => options.client(),
        None => Outside::open(certificates),
    };
    let hub = options.own_hub().map_err(Failure::usage)?;
    let bar = Bar::new(output, "fetching");
    let fetched = runtime.block_on(outside.fetch(text, &hub, &folder()?, &bar))?;
    let folder = fetched.folder.clone();
    // Its lock is let go of by the end of the process.
    std::mem::forget(fetched);
    Ok(folder)
}
