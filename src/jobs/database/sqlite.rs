//! SQLite: one file, written by one at a time.

use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, OpenFlags, ToSql};

use super::interface::{Begin, Connection, PICK, Row, SERVE, TAKE, TELL, Value, local_now};
use crate::jobs::error::DatabaseError;

/// How long a writer waits for others.
const PATIENCE: Duration = Duration::from_secs(20);
/// Statements kept prepared.
const PREPARED: usize = 64;

pub(super) struct Sqlite {
    connection: rusqlite::Connection,
    /// Whether a commit is on the disk when it is answered.
    full: bool,
}

impl Sqlite {
    pub(super) fn open(path: &str) -> Result<Self, DatabaseError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        let settings =
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
        connection.execute_batch(settings).map_err(failed)?;
        Ok(Self { connection, full: true })
    }
}

fn failed(error: rusqlite::Error) -> DatabaseError {
    let unavailable = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
        )
    );
    match unavailable {
        true => DatabaseError::Unavailable(Box::new(error)),
        false => DatabaseError::Failed(Box::new(error)),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
        }))
    }
}

impl Connection for Sqlite {
    fn begin(&mut self, kind: Begin) -> Result<(), DatabaseError> {
        let full = kind == Begin::Write;
        if full != self.full && kind != Begin::Read {
            self.batch(if full {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.full = full;
        }
        self.batch(match kind {
            Begin::Read => "BEGIN",
            // Whoever writes is alone here.
            Begin::Write | Begin::Light | Begin::Alone => "BEGIN IMMEDIATE",
        })
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        for (at, value) in parameters.iter().enumerate() {
            // By its name: statements may name their parameters in any order.
            let index = statement.parameter_index(&format!("${}", at + 1)).map_err(failed)?;
            let index = index.ok_or(DatabaseError::Row(at))?;
            statement.raw_bind_parameter(index, value).map_err(failed)?;
        }
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let value = |at| {
                Ok(match row.get_ref(at).map_err(failed)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(value) => Value::Int(value),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                    ValueRef::Real(_) | ValueRef::Blob(_) => return Err(DatabaseError::Row(at)),
                })
            };
            found.push(Row((0..columns).map(value).collect::<Result<_, _>>()?));
        }
        Ok(found)
    }

    fn claim(&mut self, values: [Value; 4]) -> Result<Vec<Row>, DatabaseError> {
        let [now, worker, until, event] = values;
        let picked = self.query(PICK, std::slice::from_ref(&now))?;
        let Some(Row(picked)) = picked.first() else { return Ok(Vec::new()) };
        let [id, tenant] = &picked[..] else { return Err(DatabaseError::Row(1)) };
        let serve = format!("WITH picked AS (SELECT $1 AS tenant) {SERVE}");
        self.query(&serve, std::slice::from_ref(tenant))?;
        let take = format!("WITH picked AS (SELECT $4 AS id) {TAKE}");
        let taken = self.query(&take, &[now.clone(), worker, until, id.clone()])?;
        // Whoever writes is alone here: nobody cancelled it meanwhile.
        let tell = TELL.replace("$4", "$2");
        let tell = format!("WITH taken AS (SELECT * FROM jobs WHERE id = $3) {tell}");
        self.query(&tell, &[now, event, id.clone()])?;
        Ok(taken)
    }

    fn batch(&mut self, sql: &str) -> Result<(), DatabaseError> {
        self.connection.execute_batch(sql).map_err(failed)
    }

    fn now(&mut self) -> Result<i64, DatabaseError> {
        Ok(local_now())
    }

    fn is_whole(&mut self) -> bool {
        self.connection.is_autocommit()
    }
}
