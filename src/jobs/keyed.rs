//! Requests that are sent twice: what an Idempotency-Key led to the first time.

use super::database::Connection;
use super::error::JobsError;

/// An Idempotency-Key, and a digest of what was sent with it.
pub type Key = (String, String);

/// Notes that a tenant's key leads to `id`, and gives what it led to before. Whoever comes second waits for the
/// first one's end.
pub(super) fn keyed(
    db: &mut dyn Connection,
    tenant: &str,
    (key, body): &Key,
    id: &str,
    now: i64,
) -> Result<Option<String>, JobsError> {
    let sql = "INSERT INTO submissions (tenant, key, body, job, at) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT DO NOTHING RETURNING job";
    let values = [tenant.into(), (**key).into(), (**body).into(), id.into(), now.into()];
    if !db.query(sql, &values)?.is_empty() {
        return Ok(None);
    }
    before(db, tenant, key, body)
}

/// What a key led to before.
pub(super) fn before(
    db: &mut dyn Connection,
    tenant: &str,
    key: &str,
    body: &str,
) -> Result<Option<String>, JobsError> {
    let sql = "SELECT body, job FROM submissions WHERE tenant = $1 AND key = $2";
    match db.query(sql, &[tenant.into(), key.into()])?.first() {
        None => Ok(None),
        Some(row) if row.text(0)? != body => Err(JobsError::OtherRequest),
        Some(row) => Ok(Some(row.text(1)?)),
    }
}
