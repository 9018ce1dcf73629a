//! A store: typed objects over a transport. Everything read here is checked before it is returned.

pub mod artifact;
mod ensure;
mod error;
mod graph;
mod handle;
mod lease;
mod read;
mod refs;
mod resolve;

pub use crate::format::layout::Placed;
pub use error::{FileError, StoreError};
pub use graph::ArtifactGraph;
pub use handle::{Store, unix_now};
pub(crate) use lease::LIFETIME as LEASE_LIFETIME;
pub use lease::{Lease, candidates};
pub use read::ReadStats;
pub(crate) use read::Rejected;
pub use refs::{Lifetime, Published, RefPlaced};
pub use resolve::{Resolved, ref_object};
