//! Keeping a store right: verifying, collecting garbage, copying, mending, and looking inside.
//!
//! What is decided is decided by pure functions over what was read; the rest moves bytes. Memory
//! is bounded by permits for chunks on their way, plus the artifact's own table. Nothing here
//! changes an artifact's identifier.

mod chunks;
mod copy;
mod error;
mod gc;
mod marks;
pub mod order;
mod packs;
mod repack;
mod verify;

pub use copy::{CopyOptions, CopyReport, copy};
pub use error::MaintainError;
pub use gc::{CollectOptions, Collected, collect};
pub use marks::{Decision, LeaseState, decide};
pub use repack::{RepackOptions, Repacked, repack};
pub use verify::{Damage, VerifyReport, verify, verify_store};
