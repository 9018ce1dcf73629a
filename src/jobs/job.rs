//! Jobs, and what is said of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Hex digits of a job's id: milliseconds since 1970, so that ids sort by time, then noise.
const ID_DIGITS: usize = 32;

/// The id of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct JobId(String);

impl JobId {
    pub(super) fn new(now: i64) -> Result<Self, String> {
        let noise = getrandom::u64().map_err(|error| format!("no randomness: {error}"))?;
        let noise = u128::from(noise) | (u128::from(noise.rotate_left(23) & 0xffff) << 64);
        let digits = ((now.max(0) as u128) << 80) | noise;
        Ok(Self(format!("{digits:032x}")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == ID_DIGITS && text.bytes().all(digit) {
            true => Ok(Self(text.to_owned())),
            false => Err("a job's id has 32 hex digits".to_owned()),
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job is. The first three are active, the last three final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// A worker holds its lease.
    Running,
    /// A worker holds its lease, and has been asked to end it.
    Cancelling,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing changes it any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| format!("{text}: no state of a job"))
    }
}

/// A job, as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// What it does: `compress`, `optimize` or `delta`.
    pub kind: String,
    /// What it is the only active one of: recipe, source and target.
    pub key: String,
    /// What was asked for.
    pub request: Value,
    /// Higher ones of a tenant run first.
    pub priority: i64,
    /// Where it is.
    pub state: State,
    /// How often it was claimed.
    pub attempts: i64,
    /// How often it may be.
    pub max_attempts: i64,
    /// The number of its last lease.
    pub epoch: i64,
    /// Who holds the lease.
    pub worker: Option<String>,
    /// Until when, in milliseconds since 1970.
    pub lease_until: Option<i64>,
    /// When it may be claimed.
    pub run_at: i64,
    /// How far it is.
    pub progress: Option<Value>,
    /// What it gave.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
    /// The job that it tries again.
    pub retry_of: Option<JobId>,
    /// How many events it has.
    pub events: i64,
    /// When it was submitted.
    pub created_at: i64,
    /// When it was claimed first.
    pub started_at: Option<i64>,
    /// When it came to its final state.
    pub finished_at: Option<i64>,
    /// The job that it is a part of.
    pub parent: Option<JobId>,
    /// How many parts it has.
    pub parts: Option<i64>,
}

/// What somebody wants done.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Whose it is.
    pub tenant: String,
    /// What it does.
    pub kind: String,
    /// What it is to be the only active job of.
    pub key: String,
    /// What is asked for.
    pub request: Value,
    /// Higher ones of the tenant run first.
    pub priority: i64,
    /// How often it may be claimed.
    pub max_attempts: i64,
    /// The key of the submission and a digest of what was sent: the same again gives the same job.
    pub idempotency: Option<(String, String)>,
    /// The job that it tries again.
    pub retry_of: Option<JobId>,
    /// How many parts it is done in, each by a worker of its own; none for a job that one worker does.
    pub parts: u32,
    /// What the tenant may.
    pub quota: Quota,
}

/// What a tenant may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Jobs that run at a time.
    pub running: i64,
    /// Jobs that are queued or running.
    pub active: u64,
    /// Jobs submitted in 24 hours.
    pub daily: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { running: 1_000_000, active: 100_000, daily: 1_000_000 }
    }
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job.
    pub job: Job,
    /// Whether it was there before: active under the same key, or submitted under the same Idempotency-Key.
    pub joined: bool,
}

/// A job's lease, which counts as long as the job has this epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The number of the lease.
    pub epoch: i64,
}

/// What a heartbeat learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Go on.
    Go,
    /// Somebody asked to end the job.
    Cancel,
    /// The lease is another's, or the job is over: nothing of it may be published.
    Lost,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a result.
    Succeeded(Value),
    /// Without one.
    Failed {
        /// Why.
        error: String,
        /// Whether another try may fare better.
        again: bool,
        /// What it found out all the same.
        found: Option<Value>,
    },
    /// The worker ends in good order: the job goes back to the queue, and this run does not count.
    HandedOver,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Its number among the job's, from 1.
    pub n: i64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// What: `state`, `progress`, `log`, `joined`, or what the job itself names.
    pub kind: String,
    /// About it.
    pub data: Value,
}

/// Which jobs to list, the newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Submitted before this one.
    pub before: Option<JobId>,
    /// How many, at most.
    pub limit: usize,
}

/// A worker, as it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: i64,
    /// When it was heard of last.
    pub seen_at: i64,
    /// What it runs.
    pub job: Option<String>,
}

/// The times that all who share a database keep to.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a lease lasts without a heartbeat.
    pub lease: Duration,
    /// The wait before a second try; it doubles with every further one.
    pub first_pause: Duration,
    /// The longest wait.
    pub longest_pause: Duration,
    /// How long jobs that are over are kept.
    pub retention: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(300),
            retention: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

/// Milliseconds of a duration.
pub(super) fn millis(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX / 4)
}

impl Policy {
    /// The wait after the run number `attempts` failed, in milliseconds.
    pub fn pause(&self, attempts: i64) -> i64 {
        let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(30);
        let pause = millis(self.first_pause).saturating_mul(1 << doublings);
        pause.min(millis(self.longest_pause))
    }
}
