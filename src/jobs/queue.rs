//! Jobs from outside: submitted, looked at, cancelled, forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value as Json, json};

use super::database::{Begin, Connection, Database, Row, Value};
use super::error::{DatabaseError, JobsError};
use super::job::{
    Event, Filter, Job, JobId, Policy, State, Submission, Submitted, WorkerSeen, millis,
};
use super::keyed::{Key, before, keyed};
use super::parts::{self, MAX_PARTS};
use super::rows::{INSERT, JOB, append, find, job_of, one, state};

/// Bytes of a request.
const MAX_REQUEST: usize = 64 << 10;
const DAY: i64 = 24 * 60 * 60 * 1000;
/// Jobs forgotten at a time.
const SWEEP: i64 = 500;
/// How long a worker is listed that is not heard of.
const WORKER_SEEN: i64 = 10 * 60 * 1000;

/// The jobs of a database. Its methods block.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(super) database: Arc<Database>,
    pub(super) policy: Policy,
    clock: Clock,
}

/// By which time leases end.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The database's own: for SQLite this machine's.
    #[default]
    Database,
    /// Milliseconds since 1970 that a test sets.
    Set(Arc<AtomicI64>),
}

impl Jobs {
    /// Opens the database at `url` (`postgres://...`, `sqlite:PATH` or a path), and makes or renews its tables.
    ///
    /// # Errors
    /// If it cannot be reached, or a newer version has changed it.
    pub fn open(url: &str, policy: Policy, clock: Clock) -> Result<Self, JobsError> {
        Ok(Self { database: Arc::new(Database::open(url)?), policy, clock })
    }

    /// The times that are kept to.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn now(&self, connection: &mut dyn Connection) -> Result<i64, DatabaseError> {
        match &self.clock {
            Clock::Database => connection.now(),
            Clock::Set(time) => Ok(time.load(Ordering::SeqCst)),
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self) -> Result<(), JobsError> {
        self.database.transaction(Begin::Read, |db| {
            Ok(db.query("SELECT count(*) FROM schema_version", &[]).map(drop)?)
        })
    }

    /// Submits a job. Where an active one has its key, that one is given: what is wanted is under way. It then
    /// has the higher of both priorities.
    ///
    /// # Errors
    /// If the tenant has reached its quota, or the Idempotency-Key came with something else.
    pub fn submit(&self, wanted: &Submission) -> Result<Submitted, JobsError> {
        let request = wanted.request.to_string();
        if request.len() > MAX_REQUEST {
            return Err(JobsError::Invalid(format!("a request has at most {MAX_REQUEST} bytes")));
        }
        if wanted.parts == 1 || wanted.parts > MAX_PARTS {
            return Err(JobsError::Invalid(format!("a job has 2 to {MAX_PARTS} parts, or none")));
        }
        if wanted.max_attempts < 1 {
            return Err(JobsError::Invalid("a job is tried at least once".to_owned()));
        }
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            // The tenant's row comes first: its submissions go one at a time, so that quotas hold.
            let tenant = "INSERT INTO tenants (name, max_running, served) VALUES ($1, $2, 0) \
                ON CONFLICT (name) DO UPDATE SET max_running = excluded.max_running";
            db.query(tenant, &[(*wanted.tenant).into(), wanted.quota.running.into()])?;
            if let Some(job) = submitted_before(db, wanted)? {
                return Ok(Submitted { job, joined: true });
            }
            let job = match active(db, wanted)? {
                Some(job) => self.join(db, wanted, job, now)?,
                None => {
                    quota(db, wanted, now)?;
                    let id = JobId::new(now).map_err(JobsError::Invalid)?;
                    let values = [
                        id.as_str().into(),
                        (*wanted.tenant).into(),
                        (*wanted.kind).into(),
                        (*wanted.key).into(),
                        request.into(),
                        wanted.priority.into(),
                        wanted.max_attempts.into(),
                        now.into(),
                        wanted.retry_of.as_ref().map(JobId::as_str).into(),
                    ];
                    db.query(INSERT, &values)?;
                    append(db, &id, now, "state", &json!({"state": "queued"}))?;
                    parts::add(db, &id, wanted, now)?;
                    Submitted { job: find(db, &id)?, joined: false }
                }
            };
            if let Some(key) = &wanted.idempotency {
                keyed(db, &wanted.tenant, key, job.job.id.as_str(), now)?;
            }
            Ok(job)
        })
    }

    fn join(
        &self,
        db: &mut dyn Connection,
        wanted: &Submission,
        job: Job,
        now: i64,
    ) -> Result<Submitted, JobsError> {
        if wanted.priority > job.priority {
            let sql = "UPDATE jobs SET priority = $2 WHERE id = $1 AND priority < $2";
            db.query(sql, &[job.id.as_str().into(), wanted.priority.into()])?;
        }
        append(db, &job.id, now, "joined", &json!({"priority": wanted.priority}))?;
        Ok(Submitted { job: find(db, &job.id)?, joined: true })
    }

    /// A job.
    ///
    /// # Errors
    /// If there is none of that id, or the database fails.
    pub fn get(&self, id: &JobId) -> Result<Job, JobsError> {
        self.database.transaction(Begin::Read, |db| find(db, id))
    }

    /// The last job of the tenant that succeeded under this key.
    ///
    /// # Errors
    /// If the database fails.
    pub fn succeeded(&self, tenant: &str, key: &str) -> Result<Option<Job>, JobsError> {
        let sql = format!(
            "{JOB} WHERE tenant = $1 AND key = $2 AND state = 'succeeded' ORDER BY finished_at DESC LIMIT 1"
        );
        let values = [tenant.into(), key.into()];
        self.database.transaction(Begin::Read, |db| one(db.query(&sql, &values)?))
    }

    /// Jobs, the newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Job>, JobsError> {
        let mut values = Vec::new();
        let mut conditions = Vec::new();
        let parts = "parent IS NULL";
        let mut add = |condition: &str, value: Value| {
            values.push(value);
            conditions.push(format!("{condition} ${}", values.len()));
        };
        if let Some(tenant) = &filter.tenant {
            add("tenant =", (**tenant).into());
        }
        if let Some(state) = filter.state {
            add("state =", state.name().into());
        }
        if let Some(kind) = &filter.kind {
            add("kind =", (**kind).into());
        }
        if let Some(before) = &filter.before {
            add("id <", before.as_str().into());
        }
        let wanted = match conditions.is_empty() {
            true => format!(" WHERE {parts}"),
            false => format!(" WHERE {parts} AND {}", conditions.join(" AND ")),
        };
        values.push(i64::try_from(filter.limit).unwrap_or(i64::MAX).into());
        let sql = format!("{JOB}{wanted} ORDER BY id DESC LIMIT ${}", values.len());
        self.database.transaction(Begin::Read, |db| {
            db.query(&sql, &values)?.iter().map(|row| Ok(job_of(row)?)).collect()
        })
    }

    /// Asks for a job's end. One that is queued is cancelled at once; one that runs learns it by its next
    /// heartbeat; one that is over stays as it is.
    ///
    /// # Errors
    /// If there is no such job, or the database fails.
    pub fn cancel(&self, id: &JobId) -> Result<Job, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            parts::hold(db, id)?;
            let sql = "UPDATE jobs SET finished_at = CASE WHEN state = 'queued' THEN $2 ELSE finished_at END, \
                state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE 'cancelling' END \
                WHERE id = $1 AND state IN ('queued', 'running') RETURNING state";
            if let Some(row) = db.query(sql, &[id.as_str().into(), now.into()])?.first() {
                let became = state(row, 0)?;
                append(db, id, now, "state", &json!({"state": became}))?;
                if became.is_final() {
                    parts::over(db, id, now, became, None)?;
                }
            }
            find(db, id)
        })
    }

    /// Submits again what failed or was cancelled, as a job of its own.
    ///
    /// # Errors
    /// If the job succeeded or is active, or as with any submission.
    pub fn retry(
        &self,
        id: &JobId,
        quota: super::Quota,
        idempotency: Option<Key>,
    ) -> Result<Submitted, JobsError> {
        let job = self.get(id)?;
        if !matches!(job.state, State::Failed | State::Cancelled) {
            return Err(JobsError::NotOver(job.state));
        }
        self.submit(&Submission {
            tenant: job.tenant,
            kind: job.kind,
            key: job.key,
            request: job.request,
            priority: job.priority,
            parts: job.parts.and_then(|parts| u32::try_from(parts).ok()).unwrap_or(0),
            max_attempts: job.max_attempts,
            idempotency,
            retry_of: Some(job.id),
            quota,
        })
    }

    /// The events of a job after number `after`, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn events(&self, id: &JobId, after: i64, limit: usize) -> Result<Vec<Event>, JobsError> {
        let sql =
            "SELECT n, at, kind, data FROM events WHERE job = $1 AND n > $2 ORDER BY n LIMIT $3";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [id.as_str().into(), after.into(), limit.into()];
        self.database.transaction(Begin::Read, |db| {
            let event = |row: &Row| {
                let data = serde_json::from_str(&row.text(3)?).unwrap_or(Json::Null);
                Ok(Event { n: row.int(0)?, at: row.int(1)?, kind: row.text(2)?, data })
            };
            db.query(sql, &values)?.iter().map(event).collect()
        })
    }

    /// The parts of a job, in their order.
    ///
    /// # Errors
    /// If the database fails.
    pub fn parts(&self, whole: &JobId) -> Result<Vec<Job>, JobsError> {
        let sql = format!("{JOB} WHERE parent = $1 ORDER BY key");
        self.database.transaction(Begin::Read, |db| {
            db.query(&sql, &[whole.as_str().into()])?.iter().map(|row| Ok(job_of(row)?)).collect()
        })
    }

    /// Notes that a tenant's key leads to `id`. Gives what it led to before, if anything: that is what counts.
    ///
    /// # Errors
    /// If the key came with something else, or the database fails.
    pub fn keyed(&self, tenant: &str, key: &Key, id: &str) -> Result<Option<String>, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            keyed(db, tenant, key, id, now)
        })
    }

    /// How many jobs are in each state.
    ///
    /// # Errors
    /// If the database fails.
    pub fn counts(&self) -> Result<Vec<(State, i64)>, JobsError> {
        let sql = "SELECT state, count(*) FROM jobs GROUP BY state";
        self.database.transaction(Begin::Read, |db| {
            let rows = db.query(sql, &[])?;
            rows.iter().map(|row| Ok((state(row, 0)?, row.int(1)?))).collect()
        })
    }

    /// Workers heard of lately.
    ///
    /// # Errors
    /// If the database fails.
    pub fn workers(&self) -> Result<Vec<WorkerSeen>, JobsError> {
        let sql =
            "SELECT name, started_at, seen_at, job FROM workers WHERE seen_at > $1 ORDER BY name";
        self.database.transaction(Begin::Read, |db| {
            let since = self.now(db)? - WORKER_SEEN;
            let seen = |row: &Row| {
                let (name, job) = (row.text(0)?, row.optional_text(3)?);
                Ok(WorkerSeen { name, started_at: row.int(1)?, seen_at: row.int(2)?, job })
            };
            db.query(sql, &[since.into()])?.iter().map(seen).collect()
        })
    }

    /// Forgets jobs that were over before the retention, with their events. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub fn sweep(&self) -> Result<usize, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let until = self.now(db)?.saturating_sub(millis(self.policy.retention));
            let sql = "SELECT id FROM jobs WHERE finished_at < $1 ORDER BY finished_at LIMIT $2";
            let old = db.query(sql, &[until.into(), SWEEP.into()])?;
            for row in &old {
                let id: Value = row.text(0)?.into();
                for sql in [
                    "DELETE FROM jobs WHERE id = $1",
                    "DELETE FROM events WHERE job = $1",
                    "DELETE FROM submissions WHERE job = $1",
                ] {
                    db.query(sql, std::slice::from_ref(&id))?;
                }
            }
            // What keys of other requests led to; a webhook's go with it.
            let sql = "DELETE FROM submissions WHERE at < $1 \
                AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = submissions.job) \
                AND NOT EXISTS (SELECT 1 FROM hooks WHERE hooks.id = submissions.job)";
            db.query(sql, &[until.into()])?;
            db.query("DELETE FROM workers WHERE seen_at < $1", &[until.into()])?;
            db.query("DELETE FROM audit WHERE at < $1", &[until.into()])?;
            db.query("DELETE FROM deliveries WHERE created_at < $1", &[until.into()])?;
            Ok(old.len())
        })
    }
}

/// The job that was submitted under the same Idempotency-Key, if any.
fn submitted_before(
    db: &mut dyn Connection,
    wanted: &Submission,
) -> Result<Option<Job>, JobsError> {
    let Some((key, body)) = &wanted.idempotency else { return Ok(None) };
    let Some(id) = before(db, &wanted.tenant, key, body)? else { return Ok(None) };
    // What is no job's is another kind of request's.
    let id = id.parse().map_err(|_| JobsError::OtherRequest)?;
    find(db, &id).map(Some)
}

fn active(db: &mut dyn Connection, wanted: &Submission) -> Result<Option<Job>, JobsError> {
    let sql = format!(
        "{JOB} WHERE tenant = $1 AND key = $2 AND state IN ('queued', 'running', 'cancelling')"
    );
    one(db.query(&sql, &[(*wanted.tenant).into(), (*wanted.key).into()])?)
}

fn quota(db: &mut dyn Connection, wanted: &Submission, now: i64) -> Result<(), JobsError> {
    let mut count = |sql: &str, values: &[Value]| {
        let rows = db.query(sql, values)?;
        let count = rows.first().map_or(Ok(0), |row| row.int(0))?;
        Ok::<u64, DatabaseError>(u64::try_from(count).unwrap_or(0))
    };
    let tenant = || Value::from(&*wanted.tenant);
    let sql = "SELECT count(*) FROM jobs WHERE tenant = $1 AND parent IS NULL \
        AND state IN ('queued', 'running', 'cancelling')";
    let (active, limit) = (count(sql, &[tenant()])?, wanted.quota.active);
    if active >= limit {
        return Err(JobsError::Active { active, limit });
    }
    // Ids begin with the time of their submission.
    let since = format!("{:012x}", (now - DAY).max(0));
    let sql = "SELECT count(*) FROM jobs WHERE tenant = $1 AND parent IS NULL AND id > $2";
    if count(sql, &[tenant(), since.into()])? >= wanted.quota.daily {
        return Err(JobsError::Daily { limit: wanted.quota.daily });
    }
    Ok(())
}
