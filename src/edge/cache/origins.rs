//! Several origins of the same store: which to ask first, and when to ask a second one.
//!
//! One that fails again and again rests for a while and is asked last. A request whose answer is late
//! is sent once more, to another origin if there is one, and the first answer counts; such second
//! requests are few and counted apart, and the later answer is dropped before its body is read.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::load::LoadStats;
use crate::store::{Store, StoreError};
use crate::transport::small::RetryPolicy;
use crate::transport::{
    Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind,
};

/// Failures in a row after which an origin rests.
const PATIENCE: u32 = 3;
/// How long it rests at first; twice as long after each further failure.
const REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How many times the usual time to an answer is late, and the bounds of that.
const LATE: u64 = 4;
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(2);
/// The usual time, before anything was measured.
const USUAL: Duration = Duration::from_millis(250);
/// Second requests that are always allowed, and for how many requests one more is.
const SECONDS: u64 = 10;
const SHARE: u64 = 20;

/// The origins of a store.
#[derive(Debug)]
pub(crate) struct Origins {
    all: Vec<Origin>,
    /// The first alone: it keeps what is known of the way to them.
    base: Store,
    started: Instant,
    /// The usual time to an answer, in microseconds.
    usual: AtomicU64,
    requests: AtomicU64,
    /// Requests sent again because an answer was late.
    hedges: AtomicU64,
}

#[derive(Debug)]
struct Origin {
    transport: Arc<dyn Transport>,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Until when it rests, in milliseconds since the start.
    until: AtomicU64,
}

/// An opened read, and whose it is.
pub(crate) struct Opened {
    pub(crate) reader: ObjectReader,
    pub(crate) origin: usize,
}

impl Origins {
    /// `None` without any.
    pub(crate) fn new(backends: Vec<Arc<dyn Transport>>, retry: RetryPolicy) -> Option<Arc<Self>> {
        let origin =
            |transport| Origin { transport, failures: AtomicU32::new(0), until: AtomicU64::new(0) };
        let base = Store::new(backends.first()?.clone()).with_retry(retry);
        let origins = Self {
            all: backends.into_iter().map(origin).collect(),
            base,
            started: Instant::now(),
            usual: AtomicU64::new(micros(USUAL)),
            requests: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
        };
        Some(Arc::new(origins))
    }

    /// The origins as one store and its mirrors, in the order in which to ask, which comes beside it.
    pub(crate) fn store(self: &Arc<Self>) -> (Vec<usize>, Store) {
        let order = self.in_order();
        let asked = |&own: &usize| -> Arc<dyn Transport> {
            Arc::new(Hedged { origins: self.clone(), own })
        };
        let store = self.base.over(order.iter().map(asked).collect());
        (order, store)
    }

    /// Hears how those went that a fetch asked in this order.
    pub(crate) fn judge(&self, order: &[usize], stats: &LoadStats) {
        for (bit, &origin) in order.iter().enumerate() {
            if stats.asked >> bit & 1 == 1 {
                self.settle(origin, stats.faulty >> bit & 1 == 1);
            }
        }
    }

    pub(crate) fn requests(&self) -> &AtomicU64 {
        &self.requests
    }

    pub(crate) fn hedges(&self) -> &AtomicU64 {
        &self.hedges
    }

    /// How many rest now.
    pub(crate) fn resting(&self) -> u64 {
        let now = self.now();
        self.all.iter().filter(|origin| origin.until.load(Ordering::Relaxed) > now).count() as u64
    }

    pub(crate) fn location(&self) -> &str {
        self.all.first().map_or("", |origin| origin.transport.location())
    }

    /// The origins in the order in which to ask: the preferred first, those that rest last.
    pub(crate) fn in_order(&self) -> Vec<usize> {
        let now = self.now();
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        let rests = |at: &usize| self.all[*at].until.load(Ordering::Relaxed) > now;
        order.sort_by_key(rests);
        order
    }

    pub(crate) fn transport(&self, origin: usize) -> &Arc<dyn Transport> {
        &self.all[origin].transport
    }

    /// Hears how a request went. That something is not there is an answer, too.
    pub(crate) fn tell(&self, origin: usize, error: Option<&TransportError>) {
        let failed = error.is_some_and(|e| e.is_transient() || e.kind == TransportErrorKind::Io);
        self.settle(origin, failed);
    }

    fn settle(&self, origin: usize, failed: bool) {
        let origin = &self.all[origin];
        if !failed {
            origin.failures.store(0, Ordering::Relaxed);
            origin.until.store(0, Ordering::Relaxed);
            return;
        }
        let failures = origin.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(more) = failures.checked_sub(PATIENCE) {
            let rest = REST.saturating_mul(1 << more.min(16)).min(LONGEST_REST);
            let rest = rest.mul_f64(1.0 - fastrand::f64() / 2.0);
            let until = self.now() + u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
            origin.until.store(until, Ordering::Relaxed);
        }
    }

    /// Opens a read at an origin and, if its answer is late, at another one too.
    pub(crate) async fn open(
        &self,
        origin: usize,
        path: &ObjectPath,
        range: &ReadRange,
    ) -> Result<Opened, TransportError> {
        let mut first = pin!(self.ask(origin, path, range));
        if self.all[origin].transport.reads_block() {
            return first.await;
        }
        if let Ok(opened) = tokio::time::timeout(self.late(), &mut first).await {
            return opened;
        }
        if !self.may_hedge() {
            return first.await;
        }
        let other = self.in_order().into_iter().find(|other| *other != origin).unwrap_or(origin);
        let mut second = pin!(self.ask(other, path, range));
        tokio::select! {
            opened = &mut first => match opened {
                Ok(opened) => Ok(opened),
                Err(_) => second.await,
            },
            opened = &mut second => match opened {
                Ok(opened) => Ok(opened),
                Err(_) => first.await,
            },
        }
    }

    async fn ask(
        &self,
        origin: usize,
        path: &ObjectPath,
        range: &ReadRange,
    ) -> Result<Opened, TransportError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let asked = Instant::now();
        let reader = self.all[origin].transport.open(path, range.clone()).await?;
        let usual = self.usual.load(Ordering::Relaxed);
        self.usual.store(usual - usual / 8 + micros(asked.elapsed()) / 8, Ordering::Relaxed);
        Ok(Opened { reader, origin })
    }

    /// After how long an answer is late.
    fn late(&self) -> Duration {
        let usual = self.usual.load(Ordering::Relaxed);
        Duration::from_micros(usual.saturating_mul(LATE)).clamp(SOONEST, LATEST)
    }

    /// Takes leave for a second request, unless there were too many.
    fn may_hedge(&self) -> bool {
        let most = SECONDS + self.requests.load(Ordering::Relaxed) / SHARE;
        let more = |hedges: u64| (hedges < most).then_some(hedges + 1);
        self.hedges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One of the origins, as a fetch asks it: another one answers where it is late.
#[derive(Debug)]
struct Hedged {
    origins: Arc<Origins>,
    own: usize,
}

impl Hedged {
    fn transport(&self) -> &Arc<dyn Transport> {
        self.origins.transport(self.own)
    }
}

#[async_trait]
impl Transport for Hedged {
    fn location(&self) -> &str {
        self.transport().location()
    }

    fn expect(&self, requests: usize) {
        self.transport().expect(requests);
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        Ok(self.origins.open(self.own, path, &range).await?.reader)
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        self.transport().head(path).await
    }

    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError> {
        self.transport().put(path, parts).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError> {
        self.transport().put_if(path, expected, content).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        self.transport().delete(path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        self.transport().list(prefix).await
    }

    fn reads_block(&self) -> bool {
        self.transport().reads_block()
    }
}

/// What a store says, as its transport would.
pub(crate) fn transport_error(error: StoreError) -> TransportError {
    let (location, object) = match &error {
        StoreError::Damaged { location, object, .. } => (location.clone(), object.clone()),
        StoreError::Chunk { location, pack, .. } => (location.clone(), format!("packs/{pack}")),
        _ => (String::new(), "packs".to_owned()),
    };
    match error {
        StoreError::Transport(error) => error,
        error => {
            let what = error.to_string();
            TransportError::new(TransportErrorKind::Protocol, location, object, what)
        }
    }
}

/// The more telling of two failures: that something is wrong says more than that it is not there.
pub(crate) fn worse(last: Option<TransportError>, next: TransportError) -> TransportError {
    match last {
        Some(last) if next.kind == TransportErrorKind::NotFound => last,
        _ => next,
    }
}

/// The same error for another who waited.
pub(crate) fn copy(error: &TransportError) -> TransportError {
    let mut copy = TransportError::new(
        error.kind,
        error.location.clone(),
        error.object.clone(),
        error.message.clone(),
    );
    copy.retry_after = error.retry_after;
    copy
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fault::{Action, Fault, FaultBackend};
    use crate::transport::object::ObjectBackend;

    async fn two(faults: Vec<Fault>) -> (Arc<Origins>, Arc<FaultBackend>, Arc<FaultBackend>) {
        let memory = Arc::new(ObjectBackend::memory());
        memory.put(&path(), vec!["abc".into()]).await.unwrap();
        let first = Arc::new(FaultBackend::new(memory.clone(), faults));
        let second = Arc::new(FaultBackend::counting(memory));
        let origins = Origins::new(vec![first.clone(), second.clone()], RetryPolicy::default());
        (origins.unwrap(), first, second)
    }

    fn path() -> ObjectPath {
        ObjectPath::new("a").unwrap()
    }

    #[tokio::test]
    async fn one_that_fails_again_and_again_rests() {
        let (origins, ..) = two(Vec::new()).await;
        let busy = TransportError::new(TransportErrorKind::Transient, "o", "p", "busy");
        let missing = TransportError::new(TransportErrorKind::NotFound, "o", "p", "missing");
        for _ in 0..10 {
            origins.tell(0, Some(&missing));
        }
        for _ in 1..PATIENCE {
            origins.tell(0, Some(&busy));
            assert_eq!((origins.in_order(), origins.resting()), (vec![0, 1], 0));
        }
        origins.tell(0, Some(&busy));
        assert_eq!((origins.in_order(), origins.resting()), (vec![1, 0], 1));
        origins.tell(0, None);
        assert_eq!(origins.in_order(), [0, 1]);
    }

    #[tokio::test]
    async fn a_late_answer_is_not_waited_for() {
        let (origins, first, second) = two(vec![Fault::nth("", 0, Action::Hang)]).await;
        let opened = origins.open(0, &path(), &ReadRange::Full).await.unwrap();
        assert_eq!(opened.origin, 1);
        assert_eq!(origins.hedges.load(Ordering::Relaxed), 1);
        assert_eq!(first.stats().total().bytes_read + second.stats().total().bytes_read, 0);
        // One that is on time is asked alone.
        let opened = origins.open(0, &path(), &ReadRange::Full).await.unwrap();
        assert_eq!((opened.origin, second.stats().total().reads), (0, 1));
    }

    #[tokio::test]
    async fn second_requests_are_few() {
        let (origins, ..) = two(Vec::new()).await;
        let allowed = (0..SHARE * 100).filter(|_| {
            origins.requests.fetch_add(1, Ordering::Relaxed);
            origins.may_hedge()
        });
        assert_eq!(allowed.count() as u64, SECONDS + 100);
    }
}
