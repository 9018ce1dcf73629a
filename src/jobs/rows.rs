//! Rows of jobs and their events.

use serde_json::{Value as Json, json};

use super::database::{Connection, Row};
use super::error::{DatabaseError, JobsError};
use super::job::{Job, JobId, State};

pub(super) const JOB: &str = include_str!("sql/job.sql");
pub(super) const INSERT: &str = include_str!("sql/insert.sql");
/// Bytes of an event.
const MAX_EVENT: usize = 16 << 10;
/// Events of a job beyond which only changes of state are kept.
const MAX_EVENTS: i64 = 10_000;

/// Appends an event. The job's row counts its events, and is locked by whoever appends.
pub(super) fn append(
    db: &mut dyn Connection,
    id: &JobId,
    now: i64,
    kind: &str,
    data: &Json,
) -> Result<(), DatabaseError> {
    let mut data = data.to_string();
    if data.len() > MAX_EVENT {
        data = json!({"too_long": data.len()}).to_string();
    }
    let most = if kind == "state" { i64::MAX } else { MAX_EVENTS };
    let sql = "UPDATE jobs SET events = events + 1 WHERE id = $1 AND events < $2 RETURNING events";
    if let Some(row) = db.query(sql, &[id.as_str().into(), most.into()])?.first() {
        write_event(db, id, row.int(0)?, now, kind, &data)?;
    }
    Ok(())
}

/// Writes an event that the job's row has counted.
pub(super) fn write_event(
    db: &mut dyn Connection,
    id: &JobId,
    n: i64,
    now: i64,
    kind: &str,
    data: &str,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO events (job, n, at, kind, data) VALUES ($1, $2, $3, $4, $5)";
    db.query(sql, &[id.as_str().into(), n.into(), now.into(), kind.into(), data.into()]).map(drop)
}

/// The job with that id.
pub(super) fn find(db: &mut dyn Connection, id: &JobId) -> Result<Job, JobsError> {
    let found = one(db.query(&format!("{JOB} WHERE id = $1"), &[id.as_str().into()])?)?;
    found.ok_or_else(|| JobsError::NoJob(id.clone()))
}

/// The job of the first row.
pub(super) fn one(rows: Vec<Row>) -> Result<Option<Job>, JobsError> {
    Ok(rows.first().map(job_of).transpose()?)
}

/// A state in a row.
pub(super) fn state(row: &Row, at: usize) -> Result<State, DatabaseError> {
    row.text(at)?.parse().map_err(|_| DatabaseError::Row(at))
}

/// A job in a row.
pub(super) fn job_of(row: &Row) -> Result<Job, DatabaseError> {
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let id = |at: usize, text: String| text.parse().map_err(|_| DatabaseError::Row(at));
    Ok(Job {
        id: id(0, row.text(0)?)?,
        tenant: row.text(1)?,
        kind: row.text(2)?,
        key: row.text(3)?,
        request: json(Some(row.text(4)?)).unwrap_or(Json::Null),
        priority: row.int(5)?,
        state: state(row, 6)?,
        attempts: row.int(7)?,
        max_attempts: row.int(8)?,
        epoch: row.int(9)?,
        worker: row.optional_text(10)?,
        lease_until: row.optional_int(11)?,
        run_at: row.int(12)?,
        progress: json(row.optional_text(13)?),
        result: json(row.optional_text(14)?),
        error: row.optional_text(15)?,
        retry_of: row.optional_text(16)?.map(|text| id(16, text)).transpose()?,
        events: row.int(17)?,
        created_at: row.int(18)?,
        started_at: row.optional_int(19)?,
        finished_at: row.optional_int(20)?,
        parent: row.optional_text(21)?.map(|text| id(21, text)).transpose()?,
        parts: row.optional_int(22)?,
    })
}
