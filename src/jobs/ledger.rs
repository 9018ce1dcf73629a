//! Who did what, and what each tenant has: for operators.

use super::database::{Begin, Row};
use super::error::JobsError;
use super::job::{JobId, State};
use super::queue::Jobs;
use super::rows::state;

/// Something that somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Its number, which grows.
    pub n: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Of which tenant.
    pub tenant: String,
    /// Whose token.
    pub who: String,
    /// What: `submit`, `cancel` and such.
    pub did: String,
    /// To what.
    pub what: String,
}

/// What a tenant has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantJobs {
    /// Its name.
    pub tenant: String,
    /// Its jobs in each state in which there are any.
    pub jobs: Vec<(State, i64)>,
}

impl Jobs {
    /// Notes what somebody did.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note(&self, tenant: &str, who: &str, did: &str, what: &str) -> Result<(), JobsError> {
        self.database.transaction(Begin::Light, |db| {
            let now = self.now(db)?;
            let n = JobId::new(now).map_err(JobsError::Invalid)?;
            let sql =
                "INSERT INTO audit (n, at, tenant, who, did, what) VALUES ($1, $2, $3, $4, $5, $6)";
            let values =
                [n.as_str().into(), now.into(), tenant.into(), who.into(), did.into(), what.into()];
            db.query(sql, &values)?;
            Ok(())
        })
    }

    /// What was done, the newest first, before number `before`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn deeds(&self, before: Option<&str>, limit: usize) -> Result<Vec<Deed>, JobsError> {
        let sql =
            "SELECT n, at, tenant, who, did, what FROM audit WHERE n < $1 ORDER BY n DESC LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let deed = |row: &Row| {
            let (n, at, tenant) = (row.text(0)?, row.int(1)?, row.text(2)?);
            Ok(Deed { n, at, tenant, who: row.text(3)?, did: row.text(4)?, what: row.text(5)? })
        };
        // Every number is less than this.
        let before = before.unwrap_or("g");
        self.database.transaction(Begin::Read, |db| {
            db.query(sql, &[before.into(), limit.into()])?.iter().map(deed).collect()
        })
    }

    /// The tenants that have jobs, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub fn tenants(&self) -> Result<Vec<TenantJobs>, JobsError> {
        let sql = "SELECT tenant, state, count(*) FROM jobs GROUP BY tenant, state ORDER BY tenant, state";
        self.database.transaction(Begin::Read, |db| {
            let mut all: Vec<TenantJobs> = Vec::new();
            for row in db.query(sql, &[])? {
                let (tenant, count) = (row.text(0)?, (state(&row, 1)?, row.int(2)?));
                match all.last_mut().filter(|last| last.tenant == tenant) {
                    Some(last) => last.jobs.push(count),
                    None => all.push(TenantJobs { tenant, jobs: vec![count] }),
                }
            }
            Ok(all)
        })
    }
}
