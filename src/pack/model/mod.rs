//! Models as they lie on disk: folders of files, of which some are safetensors or GGUF.

mod error;
mod file;
mod gguf;
mod part;
mod safetensors;
mod tree;

pub use error::ModelError;
pub use file::SourceFile;
pub(crate) use gguf::block_types;
pub use part::{Part, PartKind};
pub use tree::walk;
