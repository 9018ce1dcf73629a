//! Keeping a store right: verifying, collecting garbage, copying, mending, and looking inside.
//!
//! What is decided is decided by pure functions over what was read; the rest moves bytes. Memory
//! is bounded by permits for chunks on their way, plus the artifact's own table. Nothing here
//! changes an artifact's identifier; [`annotate()`] makes another artifact of the same bytes.

mod annotate;
mod chunks;
mod copy;
mod diff;
mod error;
mod gc;
mod inspect;
mod marks;
pub mod order;
mod packs;
mod repack;
mod tag;
mod usage;
mod verify;

pub use annotate::annotate;
pub use copy::{CopyOptions, CopyReport, copy, signatures};
pub use diff::{Change, Diff, diff};
pub use error::MaintainError;
pub use gc::{CollectOptions, Collected, collect};
pub use inspect::{Encoding, Group, Inspection, inspect};
pub use marks::{Decision, LeaseState, decide};
pub use repack::{RepackOptions, Repacked, repack};
pub use tag::tag;
pub use usage::{ArtifactUsage, Kind, StoreUsage, artifact_usage, store_usage};
pub use verify::{Damage, VerifyReport, verify, verify_store};
