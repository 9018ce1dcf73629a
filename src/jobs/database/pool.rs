//! The connections of a process, transactions on them, and the schema.

use std::sync::{Condvar, Mutex, PoisonError};

use super::interface::{Begin, Connection};
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use crate::jobs::error::DatabaseError;

/// The schema that this version reads and writes.
pub(in crate::jobs) const SCHEMA: i64 = 3;
const MIGRATIONS: [&str; SCHEMA as usize] = [
    include_str!("../sql/schema-1.sql"),
    include_str!("../sql/schema-2.sql"),
    include_str!("../sql/schema-3.sql"),
];

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Sqlite(String),
    Postgres(String),
}

/// A database with its open connections.
pub(in crate::jobs) struct Database {
    place: Place,
    idle: Mutex<Pool>,
    freed: Condvar,
    /// Who writes to SQLite: waiting here is fairer than asking the file again and again.
    writer: Mutex<()>,
}

struct Pool {
    idle: Vec<Box<dyn Connection>>,
    /// Connections that may still be opened.
    left: usize,
}

/// Connections of one process.
const CONNECTIONS: usize = 8;

impl Database {
    /// Opens `postgres://...`, or `sqlite:PATH` or a path, and brings its schema up to date.
    pub(in crate::jobs) fn open(url: &str) -> Result<Self, DatabaseError> {
        let place = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Place::Postgres(url.to_owned())
        } else {
            let path = url.strip_prefix("sqlite:").unwrap_or(url);
            if path.is_empty() || path.contains("://") {
                return Err(DatabaseError::Url(url.to_owned()));
            }
            Place::Sqlite(path.to_owned())
        };
        let pool = Pool { idle: Vec::new(), left: CONNECTIONS };
        let database =
            Self { place, idle: Mutex::new(pool), freed: Condvar::new(), writer: Mutex::new(()) };
        database.transaction(Begin::Alone, migrate)?;
        Ok(database)
    }

    fn connect(&self) -> Result<Box<dyn Connection>, DatabaseError> {
        Ok(match &self.place {
            Place::Sqlite(path) => Box::new(Sqlite::open(path)?),
            Place::Postgres(url) => Box::new(Postgres::open(url)?),
        })
    }

    fn take(&self) -> Result<Box<dyn Connection>, DatabaseError> {
        let mut pool = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(mut connection) = pool.idle.pop() {
                if connection.is_whole() {
                    return Ok(connection);
                }
                pool.left += 1;
            } else if pool.left > 0 {
                pool.left -= 1;
                drop(pool);
                return self.connect().inspect_err(|_| self.give(None));
            } else {
                pool = self.freed.wait(pool).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Gives a connection back, or the right to open one.
    fn give(&self, connection: Option<Box<dyn Connection>>) {
        let mut pool = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(connection) => pool.idle.push(connection),
            None => pool.left += 1,
        }
        self.freed.notify_one();
    }

    /// Runs a transaction, which is undone where `work` fails. Blocks.
    pub(in crate::jobs) fn transaction<T, E: From<DatabaseError>>(
        &self,
        kind: Begin,
        work: impl FnOnce(&mut dyn Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let alone = matches!(self.place, Place::Sqlite(_)) && kind != Begin::Read;
        let _turn = alone.then(|| self.writer.lock().unwrap_or_else(PoisonError::into_inner));
        let mut connection = self.take()?;
        let result = (|| {
            connection.begin(kind)?;
            let done = work(&mut *connection)?;
            connection.batch("COMMIT")?;
            Ok(done)
        })();
        // A connection that cannot undo is closed, which undoes.
        let whole = result.is_ok() || connection.batch("ROLLBACK").is_ok();
        self.give((whole && connection.is_whole()).then_some(connection));
        result
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An address of PostgreSQL holds a password.
        let kind = match &self.place {
            Place::Sqlite(path) => path,
            Place::Postgres(_) => "postgres",
        };
        f.debug_tuple("Database").field(&kind).finish()
    }
}

/// Brings the schema to this version's; a newer one is refused.
fn migrate(connection: &mut dyn Connection) -> Result<(), DatabaseError> {
    connection.batch("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")?;
    let found = connection.query("SELECT version FROM schema_version", &[])?;
    let found = found.first().map_or(Ok(0), |row| row.int(0))?;
    if found > SCHEMA {
        return Err(DatabaseError::Newer { found, known: SCHEMA });
    }
    let at = usize::try_from(found).map_err(|_| DatabaseError::Row(0))?;
    for migration in MIGRATIONS.iter().skip(at) {
        connection.batch(migration)?;
    }
    if found < SCHEMA {
        connection.batch("DELETE FROM schema_version")?;
        connection.query("INSERT INTO schema_version (version) VALUES ($1)", &[SCHEMA.into()])?;
    }
    Ok(())
}
