//! Whom to tell when jobs end, and what each was told.
//!
//! What is to be told is written in the transaction that ends the job: it is told if the job ended, and only then.
//! Whoever sends takes a delivery for a while; one that is lost on the way is taken again.

use serde_json::{Value as Json, json};

use super::database::{Begin, Row};
use super::error::{DatabaseError, JobsError};
use super::job::{JobId, State};
use super::keyed::{Key, keyed};
use super::outbox::write;
use super::queue::Jobs;

/// Hooks of a tenant, at most.
const MAX_HOOKS: usize = 32;
/// How long who took a delivery has to send it.
const TAKEN: i64 = 60 * 1000;
/// The waits between attempts, in seconds: half a day in all.
const WAITS: [i64; 8] = [5, 20, 80, 320, 1280, 5120, 10240, 20480];

/// Who wants to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// Its id.
    pub id: String,
    /// Whose jobs it is about.
    pub tenant: String,
    /// Where to tell it.
    pub url: String,
    /// What messages are signed with.
    pub secret: String,
    /// Of which ends.
    pub states: Vec<State>,
    /// Since when, in milliseconds since 1970.
    pub created_at: i64,
    /// Since when its target is gone.
    pub disabled_at: Option<i64>,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its id, the same at every attempt.
    pub id: String,
    /// Whom it is for.
    pub hook: String,
    /// What it is about: `job.succeeded` and such.
    pub kind: String,
    /// What it says.
    pub data: Json,
    /// When that happened.
    pub created_at: i64,
    /// How often it was sent.
    pub attempts: i64,
    /// When it is sent next; none once it is over.
    pub due_at: Option<i64>,
    /// When it arrived.
    pub delivered_at: Option<i64>,
    /// The status of the last answer.
    pub status: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    /// It arrived.
    Arrived(i64),
    /// It did not, and is sent again.
    Failed(Option<i64>, String),
    /// Nobody is there any more: nothing is sent again.
    Gone(i64),
}

const HOOK: &str = "SELECT id, tenant, url, secret, states, created_at, disabled_at FROM hooks";
const DELIVERY: &str = "SELECT id, hook, kind, body, created_at, attempts, due_at, delivered_at, status, error FROM deliveries";

fn hook(row: &Row) -> Result<Hook, DatabaseError> {
    let states = row.text(4)?;
    Ok(Hook {
        id: row.text(0)?,
        tenant: row.text(1)?,
        url: row.text(2)?,
        secret: row.text(3)?,
        states: states.split(',').filter_map(|state| state.parse().ok()).collect(),
        created_at: row.int(5)?,
        disabled_at: row.optional_int(6)?,
    })
}

fn delivery(row: &Row) -> Result<Delivery, DatabaseError> {
    Ok(Delivery {
        id: row.text(0)?,
        hook: row.text(1)?,
        kind: row.text(2)?,
        data: serde_json::from_str(&row.text(3)?).unwrap_or(Json::Null),
        created_at: row.int(4)?,
        attempts: row.int(5)?,
        due_at: row.optional_int(6)?,
        delivered_at: row.optional_int(7)?,
        status: row.optional_int(8)?,
        error: row.optional_text(9)?,
    })
}

impl Jobs {
    /// Adds a hook for the jobs of a tenant that end so. The same Idempotency-Key again gives the same hook.
    ///
    /// # Errors
    /// If the tenant has as many as it may, the key came with something else, or the database fails.
    pub fn add_hook(
        &self,
        tenant: &str,
        url: &str,
        secret: &str,
        states: &[State],
        idempotency: Option<&Key>,
    ) -> Result<Hook, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            let id = JobId::new(now).map_err(JobsError::Invalid)?.as_str().to_owned();
            if let Some(key) = idempotency
                && let Some(before) = keyed(db, tenant, key, &id, now)?
            {
                let found = db.query(&format!("{HOOK} WHERE id = $1"), &[before.into()])?;
                // What is no hook's is another kind of request's.
                return found.first().map(hook).transpose()?.ok_or(JobsError::OtherRequest);
            }
            let there = db.query("SELECT id FROM hooks WHERE tenant = $1", &[tenant.into()])?;
            if there.len() >= MAX_HOOKS {
                return Err(JobsError::Invalid(format!("a tenant has at most {MAX_HOOKS} webhooks")));
            }
            let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
            let sql = "INSERT INTO hooks (id, tenant, url, secret, states, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
            let listed = format!(",{},", names.join(","));
            db.query(sql, &[(*id).into(), tenant.into(), url.into(), secret.into(), listed.into(), now.into()])?;
            let (tenant, url, secret) = (tenant.to_owned(), url.to_owned(), secret.to_owned());
            Ok(Hook { id, tenant, url, secret, states: states.to_vec(), created_at: now, disabled_at: None })
        })
    }

    /// The hooks of a tenant, the oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn hooks(&self, tenant: &str) -> Result<Vec<Hook>, JobsError> {
        let sql = format!("{HOOK} WHERE tenant = $1 ORDER BY id");
        self.database.transaction(Begin::Read, |db| {
            db.query(&sql, &[tenant.into()])?.iter().map(|row| Ok(hook(row)?)).collect()
        })
    }

    /// Removes a hook of a tenant, and what it was to be told. Returns whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remove_hook(&self, tenant: &str, id: &str) -> Result<bool, JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let sql = "DELETE FROM hooks WHERE tenant = $1 AND id = $2 RETURNING id";
            let gone = !db.query(sql, &[tenant.into(), id.into()])?.is_empty();
            if gone {
                db.query("DELETE FROM deliveries WHERE hook = $1", &[id.into()])?;
                db.query("DELETE FROM submissions WHERE job = $1", &[id.into()])?;
            }
            Ok(gone)
        })
    }

    /// What a hook was told, the newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn deliveries(&self, id: &str, limit: usize) -> Result<Vec<Delivery>, JobsError> {
        let sql = format!("{DELIVERY} WHERE hook = $1 ORDER BY id DESC LIMIT $2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.database.transaction(Begin::Read, |db| {
            db.query(&sql, &[id.into(), limit.into()])?
                .iter()
                .map(|row| Ok(delivery(row)?))
                .collect()
        })
    }

    /// Has a hook told something that is about no job.
    ///
    /// # Errors
    /// If the database fails.
    pub fn ping(&self, id: &str) -> Result<(), JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            write(db, id, now, "ping", &json!({}))
        })
    }

    /// Takes the next message that is due, with whom it is for. It is due again if nothing is heard of it.
    ///
    /// # Errors
    /// If the database fails.
    pub fn take_delivery(&self) -> Result<Option<(Delivery, Hook)>, JobsError> {
        // A look that locks nothing: there is seldom anything to do.
        let due = self.database.transaction(Begin::Read, |db| {
            let now = self.now(db)?;
            let sql = "SELECT id FROM deliveries WHERE due_at <= $1 LIMIT 1";
            Ok::<_, JobsError>(!db.query(sql, &[now.into()])?.is_empty())
        })?;
        if !due {
            return Ok(None);
        }
        self.database.transaction(Begin::Alone, |db| {
            let now = self.now(db)?;
            let sql = "UPDATE deliveries SET attempts = attempts + 1, due_at = $2 WHERE id = \
                (SELECT id FROM deliveries WHERE due_at <= $1 ORDER BY due_at, id LIMIT 1) RETURNING id";
            let taken = db.query(sql, &[now.into(), (now + TAKEN).into()])?;
            let Some(row) = taken.first() else { return Ok(None) };
            let found = db.query(&format!("{DELIVERY} WHERE id = $1"), &[row.text(0)?.into()])?;
            let Some(message) = found.first().map(delivery).transpose()? else { return Ok(None) };
            let of = db.query(&format!("{HOOK} WHERE id = $1"), &[(*message.hook).into()])?;
            Ok(of.first().map(hook).transpose()?.map(|hook| (message, hook)))
        })
    }

    /// Notes what became of an attempt.
    ///
    /// # Errors
    /// If the database fails.
    pub fn sent(&self, message: &Delivery, sent: &Sent) -> Result<(), JobsError> {
        self.database.transaction(Begin::Write, |db| {
            let now = self.now(db)?;
            let wait = usize::try_from(message.attempts - 1).ok().and_then(|at| WAITS.get(at));
            let (due, delivered, status, error) = match sent {
                Sent::Arrived(status) => (None, Some(now), Some(*status), None),
                Sent::Failed(status, why) => {
                    (wait.map(|wait| now + wait * 1000), None, *status, Some(why.clone()))
                }
                Sent::Gone(status) => (None, None, Some(*status), Some("it is gone".to_owned())),
            };
            let sql = "UPDATE deliveries SET due_at = $2, delivered_at = $3, status = $4, error = $5 WHERE id = $1";
            db.query(sql, &[(*message.id).into(), due.into(), delivered.into(), status.into(), error.into()])?;
            if matches!(sent, Sent::Gone(_)) {
                let sql = "UPDATE hooks SET disabled_at = $2 WHERE id = $1";
                db.query(sql, &[(*message.hook).into(), now.into()])?;
            }
            Ok(())
        })
    }
}
