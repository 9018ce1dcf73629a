//! Model weights as signed graphs of content-addressed chunks.

pub mod cli;
pub mod artifact;
pub mod codec;
pub mod dtype;
pub mod edge;
pub mod format;
pub mod id;
pub mod load_state;
pub mod loader;
pub mod model;
pub mod pack;
pub mod parallel;
pub mod plan;
pub mod shard;
pub mod sink;
pub mod source;
pub mod store;
pub mod trust;
pub mod unpack;
pub mod verify;
