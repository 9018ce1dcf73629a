//! Compression as a service: jobs over HTTP, for programs and for people.
//!
//! The interface stands at an edge's address, in front of it: one address serves jobs, the page, and the artifacts
//! that jobs make. A request says what is wanted; a job does it, in a child process of a worker; the result is an
//! artifact of the store like any other.

mod api;
mod front;
mod lineage;
mod notify;
mod outside;
mod problem;
mod request;
mod source;
mod state;
mod tokens;
mod uploads;

pub use front::StudioFront;
pub use notify::notify;
pub use outside::{Fetched, Hub, Outside, OutsideError, OutsideOptions, Watch, is_elsewhere};
pub use request::arguments;
pub use state::{Studio, StudioOptions};
pub use tokens::{Tokens, TokensError};
