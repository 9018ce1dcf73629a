//! PostgreSQL, through a connection that blocks.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use bytes::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};

use super::interface::{Begin, Connection, PICK, Row, SERVE, TAKE, TELL, Value};
use super::postgres_tls::{Tls, wanted};
use crate::jobs::error::DatabaseError;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The lock that claims and expiries take one after another: "tenpak" in ASCII.
const LOCK: i64 = 0x7465_6e70_616b;
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// What one statement may take, and wait for locks: whoever is stopped in between holds nobody up longer.
const SETTINGS: &str = "SET statement_timeout = '20s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '10s'";

pub(super) struct Postgres {
    client: Client,
    prepared: HashMap<String, Statement>,
    /// The time that was asked for with the beginning of a transaction.
    time: Option<i64>,
}

impl Postgres {
    pub(super) fn open(url: &str) -> Result<Self, DatabaseError> {
        let wanted = wanted(url);
        let mut config: Config = wanted.url.parse().map_err(failed)?;
        config.connect_timeout(CONNECT).application_name("tenpak");
        let mut client = match wanted.tls {
            true => config.connect(Tls::new(wanted.roots.as_deref())?),
            false => config.connect(NoTls),
        }
        .map_err(failed)?;
        client.batch_execute(SETTINGS).map_err(failed)?;
        Ok(Self { client, prepared: HashMap::new(), time: None })
    }
}

/// A failure of a connection, or of a server that is not ready, may be over later; one of a statement stays.
fn failed(error: postgres::Error) -> DatabaseError {
    let lasting = error.code().is_some_and(|code| {
        let class = code.code().get(..2).unwrap_or_default();
        !["08", "25", "40", "53", "55", "57", "58"].contains(&class)
    });
    match lasting {
        true => DatabaseError::Failed(Box::new(error)),
        false => DatabaseError::Unavailable(Box::new(error)),
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) if *of == Type::INT4 => i32::try_from(*value)?.to_sql(of, out),
            Self::Int(value) => value.to_sql(of, out),
            Self::Text(value) => value.to_sql(of, out),
        }
    }

    fn accepts(of: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::TEXT].contains(of)
    }

    to_sql_checked!();
}

impl Connection for Postgres {
    fn begin(&mut self, kind: Begin) -> Result<(), DatabaseError> {
        match kind {
            Begin::Read => self.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Begin::Write => self.batch("BEGIN"),
            Begin::Light => self.batch("BEGIN; SET LOCAL synchronous_commit = off"),
            // Whoever has the lock holds all others up: the time comes along.
            Begin::Alone => {
                let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK}); {NOW}");
                let answers = self.client.simple_query(&sql).map_err(failed)?;
                self.time = answers.iter().rev().find_map(|answer| match answer {
                    SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                    _ => None,
                });
                Ok(())
            }
        }
    }

    /// One statement: a worker that is stopped between two would hold all others up.
    fn claim(&mut self, values: [Value; 4]) -> Result<Vec<Row>, DatabaseError> {
        let take = TAKE.replace("RETURNING", "AND EXISTS (SELECT 1 FROM served) RETURNING");
        let sql = format!(
            "WITH picked AS ({PICK}), served AS ({SERVE}), taken AS ({take}), told AS ({TELL}) \
             SELECT taken.* FROM picked LEFT JOIN taken ON TRUE"
        );
        self.query(&sql, &values)
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DatabaseError> {
        let statement = match self.prepared.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql).map_err(failed)?;
                self.prepared.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.client.query(&statement, &parameters).map_err(failed)?;
        let value = |row: &postgres::Row, at: usize, of: &Type| {
            Ok(match *of {
                Type::INT8 => row.try_get::<_, Option<i64>>(at).map_err(failed)?.into(),
                Type::TEXT => row.try_get::<_, Option<String>>(at).map_err(failed)?.into(),
                _ => return Err(DatabaseError::Row(at)),
            })
        };
        let rows = rows.iter().map(|row| {
            let columns = row.columns().iter().enumerate();
            columns
                .map(|(at, column)| value(row, at, column.type_()))
                .collect::<Result<_, _>>()
                .map(Row)
        });
        rows.collect()
    }

    fn batch(&mut self, sql: &str) -> Result<(), DatabaseError> {
        self.client.batch_execute(sql).map_err(failed)
    }

    fn now(&mut self) -> Result<i64, DatabaseError> {
        if let Some(time) = self.time.take() {
            return Ok(time);
        }
        self.query(NOW, &[])?.first().ok_or(DatabaseError::Row(0))?.int(0)
    }

    fn is_whole(&mut self) -> bool {
        !self.client.is_closed()
    }
}
