//! The on-store format, version 1: parsing and writing, no I/O. `format-spec/` is the authority.

#![warn(clippy::indexing_slicing)]

pub mod dtype;
mod error;
pub mod glob;
pub mod grid;
pub mod id;
pub mod json;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod markup;
pub mod name;
pub mod names;
pub mod pack;
pub mod page;
pub mod path;
pub mod record;
pub mod refs;
pub mod store;
pub mod table;
pub mod time;
mod wire;

pub use error::{FormatError, with_causes};
