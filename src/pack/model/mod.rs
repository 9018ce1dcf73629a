//! Models as they lie on disk: folders of files, of which some are safetensors or GGUF.

mod complete;
mod error;
mod fault;
mod file;
mod gguf;
mod opaque;
mod part;
mod safetensors;
mod tree;

pub(crate) use complete::faults;
pub use error::{Malformed, ModelError};
pub use fault::{Fault, FaultKind};
pub use file::SourceFile;
pub use opaque::Opaque;
pub use part::{Part, PartKind};
pub use tree::{Walked, walk};
