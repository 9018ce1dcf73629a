//! The on-store format, version 1: parsing and writing, no I/O. `format-spec/` is the authority.

pub mod json;
pub mod name;
pub mod refs;
