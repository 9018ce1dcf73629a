//! Statements, rows and connections, whichever database they are of.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::jobs::error::DatabaseError;

/// What a statement takes and a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::jobs) enum Value {
    Null,
    Int(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer.
#[derive(Debug)]
pub(in crate::jobs) struct Row(pub(in crate::jobs) Vec<Value>);

impl Row {
    pub(in crate::jobs) fn int(&self, at: usize) -> Result<i64, DatabaseError> {
        self.optional_int(at)?.ok_or(DatabaseError::Row(at))
    }

    pub(in crate::jobs) fn optional_int(&self, at: usize) -> Result<Option<i64>, DatabaseError> {
        match self.0.get(at) {
            Some(Value::Int(value)) => Ok(Some(*value)),
            Some(Value::Null) => Ok(None),
            _ => Err(DatabaseError::Row(at)),
        }
    }

    pub(in crate::jobs) fn text(&self, at: usize) -> Result<String, DatabaseError> {
        self.optional_text(at)?.ok_or(DatabaseError::Row(at))
    }

    pub(in crate::jobs) fn optional_text(
        &self,
        at: usize,
    ) -> Result<Option<String>, DatabaseError> {
        match self.0.get(at) {
            Some(Value::Text(value)) => Ok(Some(value.clone())),
            Some(Value::Null) => Ok(None),
            _ => Err(DatabaseError::Row(at)),
        }
    }
}

/// The steps of a claim: `picked` is the row of the first, `taken` that of the third.
pub(super) const PICK: &str = include_str!("../sql/claim_pick.sql");
/// The tenant's row comes before the job's, as submissions take them.
pub(super) const SERVE: &str = include_str!("../sql/claim_serve.sql");
pub(super) const TAKE: &str = include_str!("../sql/claim_take.sql");
pub(super) const TELL: &str = include_str!("../sql/claim_tell.sql");

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jobs) enum Begin {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Writing what need not outlive a loss of power of the database's machine: whatever only says that work goes on.
    Light,
    /// Writing what only one may write at a time. In SQLite as light as that: with the one machine its workers end, too.
    Alone,
}

/// One connection. Statements number their parameters `$1`, `$2`, ... in the order of their first use.
pub(in crate::jobs) trait Connection: Send {
    fn begin(&mut self, kind: Begin) -> Result<(), DatabaseError>;
    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError>;
    /// Leases the job that is due next: `values` are the time, the worker, the end of its lease, and what the event
    /// that tells of it says before the attempt's number. Gives the job; a row of nothing where it was cancelled
    /// meanwhile; and no row where none is due.
    fn claim(&mut self, values: [Value; 4]) -> Result<Vec<Row>, DatabaseError>;
    fn batch(&mut self, sql: &str) -> Result<(), DatabaseError>;
    /// The time in milliseconds since 1970, by the one clock that all who use the database share.
    fn now(&mut self) -> Result<i64, DatabaseError>;
    /// Whether it can be used again.
    fn is_whole(&mut self) -> bool;
}

/// This machine's clock.
pub(super) fn local_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
