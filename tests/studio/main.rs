//! The studio as the command serves it: jobs over HTTP on real models, in temporary stores; kills of workers and
//! servers, tokens and tenants, hostile requests, the page in a browser, and what `deploy/` starts.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../quantize/model.rs"]
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/run.rs"]
mod run;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/s3.rs"]
mod s3;

mod access;
mod deploy;
mod described;
mod flow;
mod harm;
mod operations;
mod page;
mod parts;
mod sources;
mod survive;
mod twice;
mod webhooks;
mod world;
