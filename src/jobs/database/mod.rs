//! The database: SQLite in a file, or PostgreSQL, behind one interface of statements and rows.
//!
//! Both run the same SQL. Whatever must not interleave runs in a transaction; claims and expiries also hold the
//! one lock that [`Connection::begin`] takes for them, so that both databases do them one at a time.

mod interface;
mod pool;
mod postgres;
mod postgres_tls;
mod sqlite;

pub(super) use interface::{Begin, Connection, Row, Value};
pub(super) use pool::{Database, SCHEMA};
