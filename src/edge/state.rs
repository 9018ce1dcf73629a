//! What a running edge holds: its caches, its limits and its counts.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::edge::cache::catalog::Catalog;
use crate::edge::cache::chunks::ChunkCache;
use crate::edge::cache::disk::DiskTier;
use crate::edge::cache::files::Files;
use crate::edge::cache::origins::Origins;
use crate::edge::cache::packs::Packs;
use crate::edge::cache::relay::Relay;
use crate::edge::cache::source::ChunkSource;
use crate::edge::error::EdgeError;
use crate::edge::front::Front;
use crate::edge::http::access::Access;
use crate::edge::http::connections::Connections;
use crate::edge::http::tls::Tls;
use crate::edge::ops::limits::Limits;
use crate::edge::ops::trace::TraceTarget;
use crate::edge::ops::traffic::{Sample, Traffic};
use crate::edge::ops::watch::Watch;
use crate::edge::options::EdgeOptions;
use crate::format::id::{ManifestId, StoredDigest};
use crate::transport::Transport;

/// Artifacts whose chunks are known as sets.
const OWNED: u64 = 64;

/// A store with its cache, ready to be served.
#[derive(Debug)]
pub struct Edge {
    pub(crate) relay: Arc<Relay>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) chunks: Arc<ChunkSource>,
    pub(crate) packs: Arc<Packs>,
    pub(crate) files: Arc<Files>,
    pub(crate) cache: Arc<ChunkCache>,
    pub(crate) disk: Option<Arc<DiskTier>>,
    /// The chunks of artifacts that clients with limited tokens read.
    pub(crate) owned: moka::sync::Cache<ManifestId, Arc<HashSet<StoredDigest>>>,
    pub(crate) access: Access,
    pub(crate) front: Option<Arc<dyn Front>>,
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Connections>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) traces: Option<TraceTarget>,
    pub(crate) traffic: Traffic,
    pub(crate) started: Instant,
    pub(crate) tls: Option<Tls>,
    pub(crate) client_stall: Duration,
    pub(crate) drain: Duration,
    /// Whether what was to be fetched first is there.
    pub(crate) ready: AtomicBool,
    /// Whether the server is about to end.
    pub(crate) draining: AtomicBool,
    /// Artifacts being fetched ahead, and those that were, and could not be.
    pub(crate) fetching: AtomicU64,
    pub(crate) fetched: AtomicU64,
    pub(crate) unfetched: AtomicU64,
}

impl Edge {
    /// An edge over `origins`, which hold the same store; the first is preferred.
    ///
    /// # Errors
    /// If the folder of its chunks cannot be used.
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
        let origins = Origins::new(origins, options.retry).ok_or(EdgeError::NoOrigin)?;
        let chunks = ChunkSource::new(origins.clone(), cache.clone(), disk.clone());
        let (packs, files) = (Packs::new(chunks.clone()), Files::new(chunks.clone()));
        let relay = Relay::new(origins, options.names, options.clock);
        Ok(Arc::new(Self {
            relay,
            catalog,
            chunks,
            packs,
            files,
            cache,
            disk,
            owned: moka::sync::Cache::new(OWNED),
            access: options.access,
            front: options.front,
            limits: Limits::new(options.max_requests, options.rate),
            connections: Connections::new(options.connections),
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

    /// The traffic up to now.
    pub(crate) fn sample(&self) -> Sample {
        let at = Instant::now();
        let sent = self.watch.sent.load(Ordering::Relaxed);
        Sample { at, sent, fetched: self.chunks.stats().bytes.load(Ordering::Relaxed) }
    }
}
