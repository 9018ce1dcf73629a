//! What `tenpak::jobs` promises, on SQLite and on PostgreSQL: a model of the rules beside the database, many
//! workers as threads and processes, kills, pauses, restarts.

#![cfg(feature = "studio")]

#[path = "../support/postgres.rs"]
mod postgres;

mod company;
mod cost;
mod model;
mod parts;
mod rules;
mod tls;
mod told;
mod world;
