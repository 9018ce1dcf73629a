//! Model weights as signed graphs of content-addressed chunks.

pub mod cli;
pub mod codec;
pub mod dtype;
pub mod edge;
pub mod format;
pub mod id;
pub mod maintain;
pub mod model;
pub mod pack;
pub mod parallel;
pub mod source;
pub mod store;
pub mod trust;
pub mod verify;
