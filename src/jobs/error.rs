//! What can go wrong with jobs.

use std::error::Error;

use super::job::{JobId, State};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// It cannot be reached, or is busy; later it may work.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// It refused.
    #[error("the database refused: {0}")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// A newer version has changed it.
    #[error(
        "the database has schema {found}, and this version knows {known}: use the newer tenpak"
    )]
    Newer {
        /// Its schema.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// The address is not understood.
    #[error("{0}: expected postgres://..., sqlite:PATH, or a path")]
    Url(String),
    /// A row holds something else than this version writes.
    #[error("the database holds something unexpected in column {0}")]
    Row(usize),
}

/// Why a job was not submitted or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// There is no such job, or it is another tenant's.
    #[error("there is no job {0}")]
    NoJob(JobId),
    /// The tenant has as many active jobs as it may.
    #[error("{active} jobs are queued or running, of {limit}: wait for one to finish")]
    Active {
        /// How many it has.
        active: u64,
        /// How many it may have.
        limit: u64,
    },
    /// The tenant has submitted as many jobs in a day as it may.
    #[error("{limit} jobs were submitted in the last 24 hours, which is the limit")]
    Daily {
        /// How many it may submit.
        limit: u64,
    },
    /// The same Idempotency-Key came with something else.
    #[error("this Idempotency-Key was used for another request")]
    OtherRequest,
    /// The job is in a state that does not allow this.
    #[error("the job is {0}: only one that failed or was cancelled is tried again")]
    NotOver(State),
    /// Something submitted is too long or out of range.
    #[error("{0}")]
    Invalid(String),
}
