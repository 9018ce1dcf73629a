//! A store: typed objects over a transport. Everything read here is checked before it is returned.

pub mod artifact;
mod clock;
mod document;
mod ensure;
mod error;
mod graph;
mod handle;
mod index;
mod lease;
mod read;
mod refs;
mod resolve;

pub use crate::format::layout::Placed;
pub use document::Lifetime;
pub use error::{FileError, StoreError};
pub use graph::ArtifactGraph;
pub use handle::{Store, unix_now};
pub(crate) use index::Index;
pub use index::Listed;
pub(crate) use lease::LIFETIME as LEASE_LIFETIME;
pub use lease::{Lease, candidates};
pub use read::ReadStats;
pub(crate) use read::Rejected;
pub use refs::{Published, RefPlaced};
pub use resolve::{Resolved, ref_object};
