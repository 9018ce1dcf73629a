//! Databases to test on, and jobs to put there.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use serde_json::json;
use tenpak::jobs::{Clock, Job, Jobs, Policy, Quota, Submission, Submitted};

use super::postgres::Postgres;

/// The time at which tests begin, in milliseconds.
pub const START: i64 = 1_800_000_000_000;

/// One kind of database.
pub enum World {
    Sqlite(tempfile::TempDir),
    Postgres(Arc<Postgres>),
    /// One database.
    At(String),
}

impl World {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a folder"))
    }

    /// In memory, where the system has a file system there.
    pub fn sqlite_in_memory() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        match tempfile::tempdir_in(memory) {
            Ok(folder) => Self::Sqlite(folder),
            Err(_) => Self::sqlite(),
        }
    }

    /// The server of all tests that run at a time.
    pub fn postgres() -> Self {
        static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock().unwrap_or_else(|error| error.into_inner());
        let running = server.upgrade().unwrap_or_else(|| Arc::new(Postgres::start()));
        *server = Arc::downgrade(&running);
        Self::Postgres(running)
    }

    /// The address of a fresh database.
    pub fn database(&self) -> String {
        match self {
            Self::Sqlite(folder) => {
                let noise = fastrand::u64(..);
                format!("sqlite:{}", folder.path().join(format!("{noise}.db")).display())
            }
            Self::Postgres(server) => server.database(),
            Self::At(url) => url.clone(),
        }
    }

    /// A fresh database whose time is set.
    pub fn set(&self, policy: Policy) -> (Jobs, Arc<AtomicI64>) {
        let time = Arc::new(AtomicI64::new(START));
        let jobs = Jobs::open(&self.database(), policy, Clock::Set(time.clone())).expect("jobs");
        (jobs, time)
    }
}

pub fn submission(tenant: &str, key: &str) -> Submission {
    Submission {
        tenant: tenant.to_owned(),
        kind: "compress".to_owned(),
        key: key.to_owned(),
        request: json!({"model": key}),
        priority: 0,
        max_attempts: 3,
        idempotency: None,
        retry_of: None,
        parts: 0,
        quota: Quota::default(),
    }
}

/// Submits with the clock moved on, so that jobs differ in age.
pub fn submit(jobs: &Jobs, time: &AtomicI64, tenant: &str, key: &str) -> Submitted {
    time.fetch_add(1, Ordering::SeqCst);
    jobs.submit(&submission(tenant, key)).expect("a job")
}

pub fn get(jobs: &Jobs, job: &Job) -> Job {
    jobs.get(&job.id).expect("a job")
}
