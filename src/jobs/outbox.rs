//! What is to be told of jobs, written where they end.

use serde_json::{Value as Json, json};

use super::database::Connection;
use super::error::{DatabaseError, JobsError};
use super::job::{JobId, State};

/// Writes what the hooks of a job's tenant are to be told of its end.
pub(super) fn tell(
    db: &mut dyn Connection,
    id: &JobId,
    now: i64,
    state: State,
    error: Option<&str>,
) -> Result<(), DatabaseError> {
    let sql = "SELECT hooks.id, jobs.kind FROM jobs JOIN hooks ON hooks.tenant = jobs.tenant \
        WHERE jobs.id = $1 AND hooks.disabled_at IS NULL AND hooks.states LIKE $2";
    let like = format!("%,{},%", state.name());
    for row in db.query(sql, &[id.as_str().into(), like.into()])? {
        let data = json!({"id": id, "kind": row.text(1)?, "status": state, "error": error});
        write(db, &row.text(0)?, now, &format!("job.{}", state.name()), &data)
            .map_err(|error| DatabaseError::Failed(error.into()))?;
    }
    Ok(())
}

/// Writes one message, which is due at once.
pub(super) fn write(
    db: &mut dyn Connection,
    hook: &str,
    now: i64,
    kind: &str,
    data: &Json,
) -> Result<(), JobsError> {
    let id = format!("msg_{}", JobId::new(now).map_err(JobsError::Invalid)?);
    let sql = "INSERT INTO deliveries (id, hook, kind, body, created_at, due_at) VALUES ($1, $2, $3, $4, $5, $5)";
    db.query(sql, &[id.into(), hook.into(), kind.into(), data.to_string().into(), now.into()])?;
    Ok(())
}
