//! How an edge serves, and the bounds that hold without being asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::edge::front::Front;
use crate::edge::http::access::Access;
use crate::edge::http::connections::ConnectionLimits;
use crate::edge::http::tls::Tls;
use crate::edge::ops::log::AccessLog;
use crate::edge::ops::trace::TraceTarget;
use crate::transport::small::RetryPolicy;
use crate::trust::{SeenRefs, TrustSet};

/// How long what was not there is taken not to be there.
pub(crate) const ABSENT: Duration = Duration::from_secs(2);
/// How long the origin may take for an answer or for the next bytes.
pub(crate) const ORIGIN_STALL: Duration = Duration::from_secs(30);
/// Requests at a time.
const MAX_REQUESTS: usize = 4096;
/// Bytes that answers hold.
const ANSWERS: u64 = 512 << 20;
/// How long a client may take nothing: a loader waits for a device meanwhile.
pub(crate) const CLIENT_STALL: Duration = Duration::from_secs(120);
/// How failures of an origin are waited out: clients wait no longer than 10 s for their first byte.
const RETRY: RetryPolicy = RetryPolicy {
    retries: 2,
    first_pause: Duration::from_millis(200),
    longest_pause: Duration::from_secs(2),
    stall: Duration::from_secs(5),
};

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

/// The time by which names age: the system's, which a test may set forward.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// In milliseconds.
    ahead: Arc<AtomicU64>,
}

impl Clock {
    /// Sets it forward, for all who share it.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    pub(crate) fn date(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }
}

/// How an edge serves.
#[derive(Debug)]
#[non_exhaustive]
pub struct EdgeOptions {
    /// The keys that count; with any, only what they signed is served.
    pub trust: TrustSet,
    /// The refs seen before. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
    /// How failures of an origin are waited out. What every origin failed is tried again by nobody.
    pub retry: RetryPolicy,
    /// How long names keep their meaning.
    pub names: Validity,
    /// By which time.
    pub clock: Clock,
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
    /// What else answers at the same address.
    pub front: Option<Arc<dyn Front>>,
    /// Requests at a time; one more is answered 503.
    pub max_requests: usize,
    /// How many connections there may be, and how long one may say nothing.
    pub connections: ConnectionLimits,
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
            clock: Clock::default(),
            memory: 512 << 20,
            answer_memory: ANSWERS,
            disk: None,
            access: Access::default(),
            tls: None,
            front: None,
            max_requests: MAX_REQUESTS,
            connections: ConnectionLimits::default(),
            rate: None,
            log: None,
            traces: None,
            client_stall: CLIENT_STALL,
            drain: Duration::ZERO,
        }
    }
}
