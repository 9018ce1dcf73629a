//! Serves a store over HTTP, verified: its own layout for loaders and further edges, and its artifacts
//! as repositories for clients of the Hugging Face Hub.
//!
//! Chunks pass through one cache, which nothing enters unverified. Only paths of a store's own folders
//! are answered. A body that cannot be finished ends its connection, so that no client takes a part for
//! the whole.

mod access;
mod admin_face;
mod answer;
mod budget;
mod cache;
mod catalog;
mod conditions;
mod disk;
mod files;
mod freshness;
mod histogram;
mod hub;
mod hub_face;
mod limits;
mod log;
mod metrics;
mod object;
mod origins;
mod pack_face;
mod packs;
mod permit;
mod prefetch;
mod purge;
mod ranges;
mod recency;
mod relay;
mod request;
mod route;
mod s3;
mod s3_face;
mod s3_xml;
mod serve;
mod signed;
mod stall_timeout;
mod status;
mod status_face;
mod stream;
mod tls;
mod trace;
mod traffic;
mod watch;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::format::id::{ManifestId, StoredDigest};
use crate::transport::Transport;
use crate::transport::small::RetryPolicy;
use crate::trust::{SeenRefs, TrustSet};
use cache::ChunkCache;
use catalog::Catalog;
use disk::DiskTier;
use limits::Limits;
use origins::Origins;
use packs::Packs;
use relay::Relay;
use traffic::{Sample, Traffic};
use watch::Watch;

pub use access::Access;
pub use log::AccessLog;
pub use serve::serve;
pub use signed::UrlKey;
pub use tls::Tls;
pub use trace::TraceTarget;

/// How long what was not there is taken not to be there.
const ABSENT: Duration = Duration::from_secs(2);
/// How long the origin may take for an answer or for the next bytes.
const ORIGIN_STALL: Duration = Duration::from_secs(30);
/// Requests at a time.
const MAX_REQUESTS: usize = 4096;
/// Bytes that answers hold.
const ANSWERS: u64 = 512 << 20;
/// How long a client may take nothing: a loader waits for a device meanwhile.
const CLIENT_STALL: Duration = Duration::from_secs(120);
/// How failures of an origin are waited out: clients wait no longer than 10 s for their first byte.
const RETRY: RetryPolicy = RetryPolicy {
    retries: 2,
    first_pause: Duration::from_millis(200),
    longest_pause: Duration::from_secs(2),
    stall: Duration::from_secs(5),
};
/// Artifacts whose chunks are known as sets.
const OWNED: u64 = 64;

/// How long what an origin said of a name counts, unless it says so itself.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// How long a name is taken to mean what it meant.
    pub fresh: Duration,
    /// How much longer it does where the origin cannot be asked.
    pub stale: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self { fresh: Duration::from_secs(5), stale: Duration::from_secs(60 * 60) }
    }
}

/// How an edge serves.
#[derive(Debug)]
pub struct EdgeOptions {
    /// The keys that count; with any, only what they signed is served.
    pub trust: TrustSet,
    /// The refs seen before. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
    /// How failures of an origin are waited out. What every origin failed is tried again by nobody.
    pub retry: RetryPolicy,
    /// How long names keep their meaning.
    pub names: Validity,
    /// Bytes of chunks kept in memory.
    pub memory: u64,
    /// Bytes that answers under way may hold beyond that; with as many, a request is answered 503.
    pub answer_memory: u64,
    /// A folder for chunks, and how many bytes of them are kept there.
    pub disk: Option<(PathBuf, u64)>,
    /// What clients must show.
    pub access: Access,
    /// The certificate to show; none is plain HTTP.
    pub tls: Option<Tls>,
    /// Requests at a time; one more is answered 503.
    pub max_requests: usize,
    /// Requests per second of one client, over which it is answered 429.
    pub rate: Option<f64>,
    /// Where requests are logged.
    pub log: Option<AccessLog>,
    /// Where traces go.
    pub traces: Option<TraceTarget>,
    /// How long a client may take nothing of what it is sent.
    pub client_stall: Duration,
    /// How long connections are still accepted, and told to close, before the server ends.
    pub drain: Duration,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            trust: TrustSet::default(),
            seen: None,
            retry: RETRY,
            names: Validity::default(),
            memory: 512 << 20,
            answer_memory: ANSWERS,
            disk: None,
            access: Access::default(),
            tls: None,
            max_requests: MAX_REQUESTS,
            rate: None,
            log: None,
            traces: None,
            client_stall: CLIENT_STALL,
            drain: Duration::ZERO,
        }
    }
}

/// A store with its cache, ready to be served.
#[derive(Debug)]
pub struct Edge {
    relay: Arc<Relay>,
    catalog: Arc<Catalog>,
    packs: Arc<Packs>,
    cache: Arc<ChunkCache>,
    disk: Option<Arc<DiskTier>>,
    /// The chunks of artifacts that clients with limited tokens read.
    owned: moka::sync::Cache<ManifestId, Arc<HashSet<StoredDigest>>>,
    access: Access,
    limits: Limits,
    watch: Arc<Watch>,
    traces: Option<TraceTarget>,
    traffic: Traffic,
    started: Instant,
    tls: Option<Tls>,
    client_stall: Duration,
    drain: Duration,
    /// Whether what was to be fetched first is there.
    ready: AtomicBool,
    /// Whether the server is about to end.
    draining: AtomicBool,
    /// Artifacts being fetched ahead, and those that were, and could not be.
    fetching: AtomicU64,
    fetched: AtomicU64,
    unfetched: AtomicU64,
}

impl Edge {
    /// An edge over `origins`, which hold the same store; the first is preferred. Fails if the folder
    /// of its chunks cannot be used.
    pub fn new(
        origins: Vec<Arc<dyn Transport>>,
        mut options: EdgeOptions,
    ) -> Result<Arc<Self>, EdgeError> {
        let open = |(folder, budget): (PathBuf, u64)| {
            let failed = |source| EdgeError::Cache { folder: folder.clone(), source };
            DiskTier::open(&folder, budget).map(Arc::new).map_err(failed)
        };
        let disk = options.disk.take().map(open).transpose()?;
        let cache = ChunkCache::new(options.memory, options.answer_memory);
        let catalog = Catalog::new(&origins, &mut options);
        let origins = Origins::new(origins);
        let packs = Packs::new(origins.clone(), options.retry, cache.clone(), disk.clone());
        let relay = Relay::new(origins, options.names);
        Ok(Arc::new(Self {
            relay,
            catalog,
            packs,
            cache,
            disk,
            owned: moka::sync::Cache::new(OWNED),
            access: options.access,
            limits: Limits::new(options.max_requests, options.rate),
            watch: Arc::new(Watch { log: options.log, ..Watch::default() }),
            traces: options.traces,
            traffic: Traffic::default(),
            started: Instant::now(),
            tls: options.tls,
            client_stall: options.client_stall,
            drain: options.drain,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            fetching: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            unfetched: AtomicU64::new(0),
        }))
    }
}

impl Edge {
    /// The traffic up to now.
    fn sample(&self) -> Sample {
        let at = Instant::now();
        let sent = self.watch.sent.load(Ordering::Relaxed);
        Sample { at, sent, fetched: self.packs.stats().bytes.load(Ordering::Relaxed) }
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The system gives no more connections.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
    /// Traces cannot be sent.
    #[error("cannot set up the client of the collector of traces")]
    Traces(#[source] io::Error),
    /// The folder of the cache cannot be used.
    #[error("{}: {source}; name another --cache-dir", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
