//! Model weights as signed graphs of content-addressed chunks.

pub mod artifact;
pub mod codec;
pub mod dtype;
pub mod format;
pub mod id;
pub mod load_state;
pub mod loader;
pub mod parallel;
pub mod plan;
pub mod shard;
pub mod sink;
pub mod source;
pub mod trust;
pub mod verify;
