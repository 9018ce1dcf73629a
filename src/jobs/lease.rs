//! Jobs from a worker's side: claimed, kept, finished; and leases that ran out.

use serde_json::{Value as Json, json};

use super::database::{Begin, Connection, Value};
use super::error::{DatabaseError, JobsError};
use super::job::{Beat, Job, JobId, Lease, Outcome, State, millis};
use super::parts;
use super::queue::Jobs;
use super::rows::{append, find, job_of, state};

const HEARTBEAT: &str = include_str!("sql/heartbeat.sql");
const FENCE: &str = include_str!("sql/fence.sql");
const FINISH: &str = include_str!("sql/finish.sql");
const EXPIRED: &str = include_str!("sql/expired.sql");
const EXPIRE: &str = include_str!("sql/expire.sql");

/// What a job becomes whose run is over.
struct Next {
    state: State,
    run_at: i64,
    result: Option<String>,
    error: Option<String>,
    /// Runs that do not count.
    refund: i64,
}

impl Jobs {
    /// Leases the next job to `worker`, if one is due: first what ran out of its lease is put back or given up.
    ///
    /// # Errors
    /// If the database fails.
    pub fn claim(&self, worker: &str) -> Result<Option<(Job, Lease)>, JobsError> {
        self.expire()?;
        self.database.transaction(Begin::Alone, |db| {
            let now = self.now(db)?;
            let until = now + millis(self.policy.lease);
            let event = json!({"state": "running", "worker": worker}).to_string();
            let event = format!("{},\"attempt\":", event.trim_end_matches('}'));
            loop {
                let values = [now.into(), worker.into(), until.into(), event.clone().into()];
                let claimed = db.claim(values)?;
                let Some(row) = claimed.first() else { return Ok(None) };
                // Somebody may have cancelled it meanwhile: then the next one.
                if row.optional_text(0)?.is_some() {
                    let job = job_of(row)?;
                    let lease = Lease { job: job.id.clone(), epoch: job.epoch };
                    return Ok(Some((job, lease)));
                }
            }
        })
    }

    /// Keeps a lease, notes the progress, and learns whether to go on.
    ///
    /// # Errors
    /// If the database fails; the lease then runs on.
    pub fn heartbeat(&self, lease: &Lease, progress: Option<&Json>) -> Result<Beat, JobsError> {
        self.database.transaction(Begin::Light, |db| {
            let now = self.now(db)?;
            let until = now + millis(self.policy.lease);
            let text = progress.map(Json::to_string);
            let id = lease.job.as_str();
            let values = [id.into(), lease.epoch.into(), until.into(), text.into()];
            let rows = db.query(HEARTBEAT, &values)?;
            let Some(row) = rows.first() else { return Ok(Beat::Lost) };
            if let Some(progress) = progress {
                append(db, &lease.job, now, "progress", progress)?;
            }
            match state(row, 0)? {
                State::Cancelling => Ok(Beat::Cancel),
                _ => Ok(Beat::Go),
            }
        })
    }

    /// Whether the holder of this lease may publish: asked right before a ref moves. The lease is then renewed,
    /// so that nobody else holds it while the ref is written.
    ///
    /// # Errors
    /// If the database fails: nothing may be published then.
    pub fn may_publish(&self, lease: &Lease) -> Result<bool, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let until = self.now(db)? + millis(self.policy.lease);
            let values = [lease.job.as_str().into(), lease.epoch.into(), until.into()];
            Ok(!db.query(FENCE, &values)?.is_empty())
        })
    }

    /// Appends events to a job whose lease is still this one. Returns whether it is.
    ///
    /// # Errors
    /// If the database fails.
    pub fn tell(&self, lease: &Lease, events: &[(&str, Json)]) -> Result<bool, JobsError> {
        self.database.transaction(Begin::Light, |db| {
            let now = self.now(db)?;
            // An update that changes nothing takes the row.
            let sql = "UPDATE jobs SET epoch = epoch WHERE id = $1 AND epoch = $2 \
                AND state IN ('running', 'cancelling') RETURNING id";
            let values = [lease.job.as_str().into(), lease.epoch.into()];
            if db.query(sql, &values)?.is_empty() {
                return Ok(false);
            }
            for (kind, data) in events {
                append(db, &lease.job, now, kind, data)?;
            }
            Ok(true)
        })
    }

    /// Ends a run. Returns the job's state then, or `None` if the lease was another's: nothing changes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn finish(&self, lease: &Lease, outcome: &Outcome) -> Result<Option<State>, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            parts::hold(db, &lease.job)?;
            // Somebody may ask for the end in between: then what is right then.
            loop {
                let job = match find(db, &lease.job) {
                    Err(JobsError::NoJob(_)) => return Ok(None),
                    job => job?,
                };
                if job.epoch != lease.epoch || job.lease_until.is_none() {
                    return Ok(None);
                }
                let next = self.next(&job, outcome, now);
                let over = next.state.is_final().then_some(now);
                let values = [
                    job.id.as_str().into(),
                    lease.epoch.into(),
                    next.state.name().into(),
                    next.run_at.into(),
                    next.refund.into(),
                    next.result.into(),
                    (next.error.clone()).into(),
                    over.into(),
                    job.state.name().into(),
                ];
                if !db.query(FINISH, &values)?.is_empty() {
                    ended(db, &job.id, now, next.state, next.error, next.run_at)?;
                    return Ok(Some(next.state));
                }
            }
        })
    }

    /// What a job that runs, or is to be cancelled, becomes.
    fn next(&self, job: &Job, outcome: &Outcome, now: i64) -> Next {
        let plain =
            |state| Next { state, run_at: job.run_at, result: None, error: None, refund: 0 };
        match outcome {
            // Also where its end was asked for: the ref has moved.
            Outcome::Succeeded(result) => {
                Next { result: Some(result.to_string()), ..plain(State::Succeeded) }
            }
            _ if job.state == State::Cancelling => plain(State::Cancelled),
            Outcome::HandedOver => Next { run_at: now, refund: 1, ..plain(State::Queued) },
            Outcome::Failed { error, again, found } => {
                let error = Some(error.clone());
                let result = found.as_ref().map(Json::to_string);
                match *again && job.attempts < job.max_attempts {
                    true => {
                        let run_at = now + self.policy.pause(job.attempts);
                        Next { run_at, error, ..plain(State::Queued) }
                    }
                    false => Next { error, result, ..plain(State::Failed) },
                }
            }
        }
    }

    /// Puts back or gives up jobs whose leases ran out. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub fn expire(&self) -> Result<usize, JobsError> {
        // A look that locks nothing: there is seldom anything to do.
        let due = self.database.transaction(Begin::Read, |db| {
            let now = self.now(db)?;
            let (lease, pause) = self.latest(now);
            let sql = "SELECT epoch FROM jobs WHERE state IN ('running', 'cancelling') \
                AND (lease_until < $1 OR lease_until > $2) UNION ALL \
                SELECT epoch FROM jobs WHERE state = 'queued' AND run_at > $3 LIMIT 1";
            let rows = db.query(sql, &[now.into(), lease.into(), pause.into()])?;
            Ok::<_, JobsError>(!rows.is_empty())
        })?;
        if !due {
            return Ok(0);
        }
        self.database.transaction(Begin::Alone, |db| {
            let now = self.now(db)?;
            // A clock that went back must not keep dead workers' jobs from others: no lease and no pause ends
            // later than one that begins now.
            let (lease, pause) = self.latest(now);
            let sql = "UPDATE jobs SET lease_until = $1 WHERE state IN ('running', 'cancelling') AND lease_until > $1";
            db.query(sql, &[lease.into()])?;
            let sql = "UPDATE jobs SET run_at = $1 WHERE state = 'queued' AND run_at > $1";
            db.query(sql, &[pause.into()])?;
            let mut count = 0;
            for row in db.query(EXPIRED, &[now.into()])? {
                let id: JobId = row.text(0)?.parse().map_err(|_| DatabaseError::Row(0))?;
                let was = state(&row, 2)?;
                parts::hold(db, &id)?;
                let (attempts, most) = (row.int(3)?, row.int(4)?);
                let lost = || Some("its worker was lost".to_owned());
                let (becomes, run_at, error) = match was {
                    State::Cancelling => (State::Cancelled, now, None),
                    _ if attempts < most => (State::Queued, now + self.policy.pause(attempts), lost()),
                    _ => {
                        let error = format!("its worker was lost, at the last of {most} attempts");
                        (State::Failed, now, Some(error))
                    }
                };
                let values: [Value; 8] = [
                    id.as_str().into(),
                    row.int(1)?.into(),
                    becomes.name().into(),
                    run_at.into(),
                    error.clone().into(),
                    becomes.is_final().then_some(now).into(),
                    was.name().into(),
                    now.into(),
                ];
                if !db.query(EXPIRE, &values)?.is_empty() {
                    ended(db, &id, now, becomes, error, run_at)?;
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    /// The latest ends of a lease and of a pause that begin now.
    fn latest(&self, now: i64) -> (i64, i64) {
        (now + millis(self.policy.lease), now + millis(self.policy.longest_pause))
    }

    /// Notes that a worker is there, and what it runs.
    ///
    /// # Errors
    /// If the database fails.
    pub fn seen(&self, worker: &str, job: Option<&JobId>) -> Result<(), JobsError> {
        self.database.transaction(Begin::Light, |db| {
            let now = self.now(db)?;
            let sql = "INSERT INTO workers (name, started_at, seen_at, job) VALUES ($1, $2, $2, $3) \
                ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, job = excluded.job";
            db.query(sql, &[worker.into(), now.into(), job.map(JobId::as_str).into()])?;
            Ok(())
        })
    }

    /// A worker is gone.
    ///
    /// # Errors
    /// If the database fails.
    pub fn gone(&self, worker: &str) -> Result<(), JobsError> {
        self.database.transaction(Begin::Light, |db| {
            db.query("DELETE FROM workers WHERE name = $1", &[worker.into()])?;
            Ok(())
        })
    }
}

/// Appends what a run's end led to.
fn ended(
    db: &mut dyn Connection,
    id: &JobId,
    now: i64,
    state: State,
    error: Option<String>,
    run_at: i64,
) -> Result<(), DatabaseError> {
    let why = error.clone().filter(|_| state.is_final());
    let mut about = json!({"state": state});
    if let Json::Object(about) = &mut about {
        about.extend(error.map(|error| ("error".to_owned(), error.into())));
        if state == State::Queued {
            about.insert("wait_ms".to_owned(), (run_at - now).max(0).into());
        }
    }
    append(db, id, now, "state", &about)?;
    match state.is_final() {
        true => parts::over(db, id, now, state, why.as_deref()),
        false => Ok(()),
    }
}
