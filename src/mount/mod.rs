//! A store as a read-only file system, for whoever opens paths.
//!
//! Every file of an artifact stands with its size and digest; its bytes are fetched, verified and decoded when
//! they are touched, by the edge's cache, and no unverified byte is ever handed out: damage is `EIO`. What a reader
//! touches is answered chunk by chunk; a reader that reads on has what follows in the order of its tensors put into
//! the kernel's pages before it asks, which all processes share.

mod ahead;
mod chunks;
mod core;
mod decoded;
mod error;
mod fuse;
mod keep;
mod options;
mod pages;
mod session;
mod view;

pub use error::MountError;
pub use options::{MountLog, MountOptions, Shown};
pub use session::{Mount, MountStats};
