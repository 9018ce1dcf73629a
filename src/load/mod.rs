//! Loads tensors: streams them in the order asked, each as soon as its last chunk is verified.
//!
//! A driver task feeds the sans-I/O [`Scheduler`](crate::schedule::scheduler::Scheduler); fetch tasks read
//! into memory that the destination lends, where chunks are verified and decoded. A tensor's bytes leave
//! here only when every chunk of it has passed its check.

mod artifact;
mod bases;
mod buffer;
pub(crate) mod chunks;
pub mod delta_base_cache;
mod driver;
mod error;
mod fetch;
mod gguf;
mod in_order;
mod line;
mod links;
mod loader;
mod options;
mod pace;
pub mod sink;
mod tensor;
mod weights;

pub use artifact::ArtifactError;
pub use error::{ChunkSite, ErrorKind, LoadError};
pub use line::Line;
pub use loader::Loader;
pub use options::LoadOptions;
pub use tensor::{LoadStats, StoredChunk, Tensor};
pub use weights::{AsFloats, modules};
