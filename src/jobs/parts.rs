//! Jobs that are done in parts: each part is a job of its own, leased and fenced as any other. The whole waits until
//! all of its parts have succeeded, and is then claimed as any other; a part that does not succeed ends the whole, and
//! the end of the whole ends its parts.
//!
//! Whoever ends a part takes the whole's row first, so that two who end parts of one whole do not wait for each other.

use serde_json::{Value as Json, json};

use super::database::{Connection, Row};
use super::error::{DatabaseError, JobsError};
use super::job::{JobId, State, Submission};
use super::outbox;
use super::rows::{INSERT, append, state};

/// Parts of a job, at most.
pub const MAX_PARTS: u32 = 64;

/// Adds the parts of a job that was just added.
pub(super) fn add(
    db: &mut dyn Connection,
    whole: &JobId,
    wanted: &Submission,
    now: i64,
) -> Result<(), JobsError> {
    if wanted.parts == 0 {
        return Ok(());
    }
    let parts = i64::from(wanted.parts);
    let sql = "UPDATE jobs SET parts = $2, waits = $2 WHERE id = $1";
    db.query(sql, &[whole.as_str().into(), parts.into()])?;
    for number in 0..wanted.parts {
        let id = JobId::new(now).map_err(JobsError::Invalid)?;
        let mut request = wanted.request.clone();
        if let Json::Object(request) = &mut request {
            request.insert("part".to_owned(), json!({"number": number, "of": parts}));
        }
        // Nobody joins a part: its key is of this whole alone.
        let values = [
            id.as_str().into(),
            (*wanted.tenant).into(),
            (*wanted.kind).into(),
            format!("{whole}/{number:02}").into(),
            request.to_string().into(),
            wanted.priority.into(),
            wanted.max_attempts.into(),
            now.into(),
            None::<&str>.into(),
        ];
        db.query(INSERT, &values)?;
        let sql = "UPDATE jobs SET parent = $2 WHERE id = $1";
        db.query(sql, &[id.as_str().into(), whole.as_str().into()])?;
        append(db, &id, now, "state", &json!({"state": "queued"}))?;
    }
    Ok(())
}

/// Takes the row of the job that this one is a part of, if it is one.
pub(super) fn hold(db: &mut dyn Connection, id: &JobId) -> Result<(), DatabaseError> {
    let sql = "SELECT parent FROM jobs WHERE id = $1 AND parent IS NOT NULL";
    if let Some(row) = db.query(sql, &[id.as_str().into()])?.first() {
        // An update that changes nothing takes the row.
        db.query("UPDATE jobs SET waits = waits WHERE id = $1", &[row.text(0)?.into()])?;
    }
    Ok(())
}

/// What follows from a job's end: who is told, and for a part and its whole, what becomes of the others.
pub(super) fn over(
    db: &mut dyn Connection,
    id: &JobId,
    now: i64,
    ended: State,
    error: Option<&str>,
) -> Result<(), DatabaseError> {
    let rows = db.query("SELECT parent, parts FROM jobs WHERE id = $1", &[id.as_str().into()])?;
    let Some(row) = rows.first() else { return Ok(()) };
    let Some(whole) = parent(row, 0)? else {
        outbox::tell(db, id, now, ended, error)?;
        return match row.optional_int(1)? {
            Some(_) if ended != State::Succeeded => stop(db, id, now),
            _ => Ok(()),
        };
    };
    if ended == State::Succeeded {
        return done(db, &whole, now);
    }
    let sql = "UPDATE jobs SET state = $2, error = $3, finished_at = $4 \
        WHERE id = $1 AND state = 'queued' AND waits IS NOT NULL RETURNING id";
    let values = [whole.as_str().into(), ended.name().into(), error.into(), now.into()];
    if db.query(sql, &values)?.is_empty() {
        // It is over already.
        return Ok(());
    }
    let about = json!({"state": ended, "error": error});
    append(db, &whole, now, "state", &about)?;
    over(db, &whole, now, ended, error)
}

/// One part less is waited for.
fn done(db: &mut dyn Connection, whole: &JobId, now: i64) -> Result<(), DatabaseError> {
    let sql = "UPDATE jobs SET waits = CASE WHEN waits > 1 THEN waits - 1 END \
        WHERE id = $1 AND state = 'queued' AND waits IS NOT NULL RETURNING parts, waits";
    let rows = db.query(sql, &[whole.as_str().into()])?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (parts, waits) = (row.int(0)?, row.optional_int(1)?.unwrap_or(0));
    let progress =
        json!({"phase": "parts", "done": parts - waits, "total": parts, "unit": "parts"});
    let sql = "UPDATE jobs SET progress = $2 WHERE id = $1";
    db.query(sql, &[whole.as_str().into(), progress.to_string().into()])?;
    append(db, whole, now, "progress", &progress)
}

/// Ends the parts of a job that is over.
fn stop(db: &mut dyn Connection, whole: &JobId, now: i64) -> Result<(), DatabaseError> {
    let sql = "UPDATE jobs SET finished_at = CASE WHEN state = 'queued' THEN $2 ELSE finished_at END, \
        state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE 'cancelling' END \
        WHERE parent = $1 AND state IN ('queued', 'running') RETURNING id, state";
    for row in db.query(sql, &[whole.as_str().into(), now.into()])? {
        let id = row.text(0)?.parse().map_err(|_| DatabaseError::Row(0))?;
        append(db, &id, now, "state", &json!({"state": state(&row, 1)?}))?;
    }
    Ok(())
}

/// The id of a job in a row.
fn parent(row: &Row, at: usize) -> Result<Option<JobId>, DatabaseError> {
    let text = row.optional_text(at)?;
    text.map(|text| text.parse().map_err(|_| DatabaseError::Row(at))).transpose()
}
