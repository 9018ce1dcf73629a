//! What is mounted, and within which bounds.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::edge::{Clock, Validity};
use crate::format::name::ArtifactSpec;
use crate::transport::small::RetryPolicy;
use crate::trust::{SeenRefs, TrustSet};

/// Bytes in memory.
const MEMORY: u64 = 512 << 20;
/// How failures of an origin are waited out: a reader waits no longer than about half a minute for an error.
const RETRY: RetryPolicy = RetryPolicy {
    retries: 4,
    first_pause: Duration::from_millis(200),
    longest_pause: Duration::from_secs(4),
    stall: Duration::from_secs(5),
};

/// What stands in the mounted folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The files of one artifact, which is the same until the end.
    Artifact(ArtifactSpec),
    /// All names of the store, as folders `org/model/tag`.
    Store,
    /// These alone, likewise.
    Names(Vec<ArtifactSpec>),
}

/// Where errors that a reader sees only as `EIO` are told.
#[derive(Clone)]
pub struct MountLog(Arc<dyn Fn(&str) + Send + Sync>);

impl MountLog {
    /// Tells them to `tell`, a line at a time.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for MountLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MountLog")
    }
}

/// How a store is mounted.
#[derive(Debug)]
#[non_exhaustive]
pub struct MountOptions {
    /// The keys that count; with any, only what they signed is shown.
    pub trust: TrustSet,
    /// The refs seen before. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
    /// How failures of an origin are waited out, before a reader gets `EIO`.
    pub retry: RetryPolicy,
    /// How long names keep their meaning.
    pub names: Validity,
    /// By which time.
    pub clock: Clock,
    /// Bytes of chunks kept in memory.
    pub memory: u64,
    /// A folder for chunks, and how many bytes of them are kept there.
    pub disk: Option<(PathBuf, u64)>,
    /// Whether the disk of that folder is trusted: then files that were read whole are kept there decoded, in half of it,
    /// and the kernel reads them itself, where it can, without anybody checking them again.
    pub trust_disk: bool,
    /// Whether users other than the one who mounts may read.
    pub allow_other: bool,
    /// Where errors are told.
    pub log: MountLog,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            trust: TrustSet::default(),
            seen: None,
            retry: RETRY,
            names: Validity::default(),
            clock: Clock::default(),
            memory: MEMORY,
            disk: None,
            trust_disk: false,
            allow_other: false,
            log: MountLog::new(|line| tracing::error!("{line}")),
        }
    }
}
