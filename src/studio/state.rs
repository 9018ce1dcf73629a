//! What a running studio holds.

use std::path::PathBuf;
use std::time::Instant;

use super::outside::{Outside, OutsideOptions};
use super::tokens::{Caller, Tokens};
use super::uploads::Uploads;
use crate::jobs::{Jobs, Worker};
use crate::store::Store;
use crate::store::artifact::OpenOptions;
use crate::trust::TrustSet;

/// How a studio serves.
#[derive(Debug)]
#[non_exhaustive]
pub struct StudioOptions {
    /// Who may do what.
    pub tokens: Tokens,
    /// Whose artifacts count.
    pub trust: TrustSet,
    /// Folders whose models requests may name by their paths.
    pub allow_paths: Vec<PathBuf>,
    /// Where uploads lie.
    pub uploads: PathBuf,
    /// How often a job may be claimed.
    pub max_attempts: i64,
    /// Bytes of a model from which on several workers share a job.
    pub split: u64,
    /// What may be asked outside.
    pub outside: OutsideOptions,
}

/// The service.
pub struct Studio {
    pub(super) jobs: Jobs,
    pub(super) store: Store,
    pub(super) tokens: Tokens,
    pub(super) open: OpenOptions,
    pub(super) allow_paths: Vec<PathBuf>,
    pub(super) uploads: Uploads,
    pub(super) max_attempts: i64,
    pub(super) split: u64,
    pub(super) outside: Outside,
    pub(super) hubs: OutsideOptions,
    /// Workers of this process, which need not look for what they are told of.
    pub(super) workers: Vec<Worker>,
    pub(super) started: Instant,
}

impl Studio {
    /// A studio over these jobs and this store, with the workers of this process.
    pub fn new(jobs: Jobs, store: Store, workers: Vec<Worker>, options: StudioOptions) -> Self {
        let StudioOptions {
            tokens,
            trust,
            allow_paths,
            uploads,
            max_attempts,
            split,
            outside: hubs,
        } = options;
        let outside = hubs.client();
        let (uploads, open) = (Uploads::new(uploads), OpenOptions { trust, seen: None });
        let started = Instant::now();
        Self {
            jobs,
            store,
            tokens,
            open,
            allow_paths,
            uploads,
            max_attempts,
            split,
            outside,
            hubs,
            workers,
            started,
        }
    }

    /// Reads the token file again; gives the same tokens as an edge's file has them.
    ///
    /// # Errors
    /// If a line is not understood: then those before still count.
    pub fn renew_tokens(&self, content: &str) -> Result<String, String> {
        self.tokens.renew(content).map_err(|error| error.to_string())
    }

    /// Notes what somebody did. What cannot be noted is logged.
    pub(super) async fn note(&self, caller: &Caller, did: &'static str, what: &str) {
        let (tenant, who, what) = (caller.tenant.clone(), caller.name.clone(), what.to_owned());
        tracing::info!(who, did, what, "done");
        if self.jobs(move |jobs| jobs.note(&tenant, &who, did, &what)).await.is_err() {
            tracing::warn!(did, "the ledger was not written");
        }
    }

    /// Runs what blocks on the database.
    pub(super) async fn jobs<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Jobs) -> Result<T, crate::jobs::JobsError> + Send + 'static,
    ) -> Result<T, super::problem::Problem> {
        let jobs = self.jobs.clone();
        match tokio::task::spawn_blocking(move || work(&jobs)).await {
            Ok(done) => Ok(done?),
            Err(error) => {
                tracing::error!(%error, "a thread failed");
                let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                Err(super::problem::Problem::new(status, "this server failed"))
            }
        }
    }
}

impl std::fmt::Debug for Studio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Studio").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}
