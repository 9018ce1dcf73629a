//! The world outside: what requests may name there, how it is listed and fetched, and whom to tell of jobs.

mod check;
mod client;
mod fetch;
mod guard;
mod listing;
mod place;
mod sample;
mod settings;

pub use client::{Outside, OutsideError};
pub use fetch::{Fetched, Watch};
pub(super) use place::Place;
pub use place::{Hub, is_elsewhere};
pub use settings::{LOCAL, OutsideOptions};
