//! A database as lines of JSON, the same of SQLite and PostgreSQL: what is written from one is read into either.

use std::io::{BufRead, Write};

use serde_json::{Map, Value as Json, json};

use super::database::{Begin, Connection, SCHEMA, Value};
use super::error::{DatabaseError, JobsError};
use super::queue::Jobs;

/// The tables that are kept, each with its columns, in an order in which none refers to a later one. Workers come
/// back by themselves.
const TABLES: [(&str, &str); 7] = [
    ("tenants", "name, max_running, served"),
    (
        "jobs",
        "id, tenant, kind, key, request, priority, state, attempts, max_attempts, epoch, worker, lease_until, run_at, \
         progress, result, error, retry_of, events, created_at, started_at, finished_at, \
         parent, parts, waits",
    ),
    ("events", "job, n, at, kind, data"),
    ("submissions", "tenant, key, body, job, at"),
    ("hooks", "id, tenant, url, secret, states, created_at, disabled_at"),
    (
        "deliveries",
        "id, hook, kind, body, created_at, attempts, due_at, delivered_at, status, error",
    ),
    ("audit", "n, at, tenant, who, did, what"),
];
/// Rows read at a time.
const ROWS: i64 = 500;
/// How far epochs are moved on: leases that were given after the copy was made count for nothing.
const EPOCHS: i64 = 1_000_000;

fn columns(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// The columns that tell rows of a table apart.
fn key(table: &str) -> &'static str {
    match table {
        "tenants" => "name",
        "events" => "job, n",
        "submissions" => "tenant, key",
        "audit" => "n",
        _ => "id",
    }
}

fn failed(error: &std::io::Error) -> JobsError {
    JobsError::Invalid(format!("the copy: {error}"))
}

impl Jobs {
    /// Writes all that is kept, as it is at one moment. Returns how many rows.
    ///
    /// # Errors
    /// If the database or the writer fails.
    pub fn write_copy(&self, out: &mut dyn Write) -> Result<u64, JobsError> {
        self.database.transaction(Begin::Read, |db| {
            let now = self.now(db)?;
            let head = json!({"tenpak_jobs": SCHEMA, "at": now});
            writeln!(out, "{head}").map_err(|error| failed(&error))?;
            let mut count = 0;
            for (table, list) in TABLES {
                let mut at = 0;
                loop {
                    let sql = format!(
                        "SELECT {list} FROM {table} ORDER BY {} LIMIT $1 OFFSET $2",
                        key(table)
                    );
                    let rows = db.query(&sql, &[ROWS.into(), at.into()])?;
                    for row in &rows {
                        let values = columns(list)
                            .zip(&row.0)
                            .map(|(name, value)| (name.to_owned(), json_of(value)));
                        let line = json!({table: values.collect::<Map<String, Json>>()});
                        writeln!(out, "{line}").map_err(|error| failed(&error))?;
                    }
                    count += rows.len() as u64;
                    at += ROWS;
                    if (rows.len() as i64) < ROWS {
                        break;
                    }
                }
            }
            Ok(count)
        })
    }

    /// Reads a copy into this database, which must hold no jobs. Jobs that ran are queued again when their leases run
    /// out; leases given after the copy was made count for nothing. Returns how many rows.
    ///
    /// # Errors
    /// If there are jobs already, or it is no copy, or one of a newer version: nothing is changed.
    pub fn read_copy(&self, copy: &mut dyn BufRead) -> Result<u64, JobsError> {
        let invalid =
            |line: u64, why: &str| JobsError::Invalid(format!("the copy: line {line}: {why}"));
        self.database.transaction(Begin::Alone, |db| {
            if !db.query("SELECT id FROM jobs LIMIT 1", &[])?.is_empty() {
                return Err(JobsError::Invalid(
                    "the database holds jobs: restore into an empty one".to_owned(),
                ));
            }
            let mut count = 0;
            for (number, line) in (1..).zip(copy.lines()) {
                let line = line.map_err(|error| failed(&error))?;
                let Ok(Json::Object(line)) = serde_json::from_str(&line) else {
                    return Err(invalid(number, "no object of JSON"));
                };
                if number == 1 {
                    match line.get("tenpak_jobs").and_then(Json::as_i64) {
                        Some(found) if found <= SCHEMA => continue,
                        Some(found) => {
                            return Err(DatabaseError::Newer { found, known: SCHEMA }.into());
                        }
                        None => return Err(invalid(number, "it does not begin as one")),
                    }
                }
                let row = TABLES.iter().find_map(|(table, list)| {
                    Some((*table, *list, line.get(*table)?.as_object()?))
                });
                let (table, list, row) =
                    row.ok_or_else(|| invalid(number, "no table of this version"))?;
                insert(db, table, list, row)?;
                count += 1;
            }
            if count == 0 {
                return Err(JobsError::Invalid("the copy is empty".to_owned()));
            }
            db.query("UPDATE jobs SET epoch = epoch + $1", &[EPOCHS.into()])?;
            Ok(count)
        })
    }
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Int(value) => (*value).into(),
        Value::Text(text) => text.as_str().into(),
    }
}

fn insert(
    db: &mut dyn Connection,
    table: &str,
    list: &str,
    row: &Map<String, Json>,
) -> Result<(), DatabaseError> {
    let value = |name: &str| match row.get(name) {
        Some(Json::String(text)) => Value::Text(text.clone()),
        Some(Json::Number(number)) => number.as_i64().map_or(Value::Null, Value::Int),
        _ => Value::Null,
    };
    let values: Vec<Value> = columns(list).map(value).collect();
    let places: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
    // A tenant may have been made by whoever opened the database.
    let or = if table == "tenants" { " ON CONFLICT DO NOTHING" } else { "" };
    db.query(&format!("INSERT INTO {table} ({list}) VALUES ({}){or}", places.join(", ")), &values)
        .map(drop)
}
