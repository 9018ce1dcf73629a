//! What the integration tests share: an S3 server process, and a web server that follows a script.
#![cfg(unix)]

pub mod s3;
pub mod web;
