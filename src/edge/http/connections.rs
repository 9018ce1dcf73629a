//! The connections of an edge: how many there may be, and how long one may say nothing.
//!
//! Who connects and says nothing keeps a place that others need. A connection has until a deadline to send the whole
//! head of its first request, and may be idle between two requests for a while. When there are as many as there may
//! be, one that has nothing to do makes room for the next; only where none is idle is the next refused.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What bounds the connections of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLimits {
    /// How many there may be.
    pub all: usize,
    /// How many of them from one address.
    pub of_address: usize,
    /// How long a client may take from its connection to the end of its first request's head, TLS included.
    pub first_request: Duration,
    /// How long a connection may be idle between two requests; it is closed before twice as long.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            all: 16_384,
            of_address: 16_384,
            first_request: Duration::from_secs(30),
            idle: Duration::from_secs(75),
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts {
    /// Those that are open.
    pub(crate) open: AtomicU64,
    /// Those that were closed because nothing came, or to make room.
    pub(crate) silent: AtomicU64,
    /// Those that found no place.
    pub(crate) refused: AtomicU64,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    counts: ConnectionCounts,
}

#[derive(Debug, Default)]
struct Open {
    all: HashMap<u64, Entry>,
    next: u64,
    idle: Idle,
    /// For each address: how many, and which of them are idle.
    of: HashMap<IpAddr, (usize, Idle)>,
}

/// Idle connections in the order in which they make room: first those that never sent a request, of these the oldest.
type Idle = BTreeSet<(bool, Instant, u64)>;

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    /// Requests that are being answered.
    requests: usize,
    /// Whether any came.
    heard: bool,
    /// When it was accepted, or the last answer ended.
    since: Instant,
    /// Wakes who closes it.
    close: Arc<Notify>,
}

impl Entry {
    fn key(&self, id: u64) -> (bool, Instant, u64) {
        (self.heard, self.since, id)
    }
}

impl Open {
    fn set_idle(&mut self, id: u64, idle: bool) {
        let Some(entry) = self.all.get(&id) else { return };
        let (key, address) = (entry.key(id), entry.address);
        let of = self.of.entry(address).or_default();
        for set in [&mut self.idle, &mut of.1] {
            if idle {
                set.insert(key);
            } else {
                set.remove(&key);
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        self.set_idle(id, false);
        let entry = self.all.remove(&id)?;
        if let Some((count, _)) = self.of.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&entry.address);
            }
        }
        Some(entry)
    }
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), counts: ConnectionCounts::default() })
    }

    pub(crate) fn counts(&self) -> &ConnectionCounts {
        &self.counts
    }

    /// A place for a connection from this address; `None` if there is none.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Connection>> {
        let open = &mut *self.lock();
        let own = open.of.get(&address);
        // Who has too many makes room among its own.
        let full = match own {
            Some((count, idle)) if *count >= self.limits.of_address => Some(idle.first()),
            _ if open.all.len() >= self.limits.all => Some(open.idle.first()),
            _ => None,
        };
        if let Some(idlest) = full.map(|first| first.copied()) {
            let Some((.., id)) = idlest else {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            self.close(open, id);
        }
        let (id, close) = (open.next, Arc::<Notify>::default());
        open.next += 1;
        let since = Instant::now();
        let entry = Entry { address, requests: 0, heard: false, since, close: close.clone() };
        open.all.insert(id, entry);
        open.of.entry(address).or_default().0 += 1;
        open.set_idle(id, true);
        self.counts.open.store(open.all.len() as u64, Ordering::Relaxed);
        Some(Arc::new(Connection { connections: self.clone(), id, address, close }))
    }

    fn close(&self, open: &mut Open, id: u64) {
        if let Some(entry) = open.remove(id) {
            entry.close.notify_one();
            self.counts.silent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing below panics between two changes that belong together.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    id: u64,
    address: IpAddr,
    close: Arc<Notify>,
}

impl Connection {
    /// A request has come: until its answer has gone out, the connection is not idle.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        let open = &mut *self.connections.lock();
        open.set_idle(self.id, false);
        if let Some(entry) = open.all.get_mut(&self.id) {
            entry.requests += 1;
            entry.heard = true;
        }
        Busy(self.clone())
    }

    /// Done when the connection is to be closed: nothing came for too long, or another needs its place.
    pub(crate) async fn is_over(&self) {
        loop {
            let limits = self.connections.limits;
            let now = Instant::now();
            let until = {
                let open = &mut *self.connections.lock();
                let Some(entry) = open.all.get(&self.id) else { return };
                let patience = if entry.heard { limits.idle } else { limits.first_request };
                let until = entry.since + patience;
                if entry.requests == 0 && until <= now {
                    return self.connections.close(open, self.id);
                }
                if entry.requests == 0 { until } else { now + patience }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.close.notified() => return,
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let open = &mut *self.connections.lock();
        open.remove(self.id);
        self.connections.counts.open.store(open.all.len() as u64, Ordering::Relaxed);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Busy {
    /// Whence it came.
    pub(crate) fn address(&self) -> IpAddr {
        self.0.address
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let open = &mut *self.0.connections.lock();
        if let Some(entry) = open.all.get_mut(&self.0.id) {
            entry.requests -= 1;
            if entry.requests == 0 {
                entry.since = Instant::now();
                open.set_idle(self.0.id, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn connections(all: usize, of_address: usize) -> Arc<Connections> {
        Connections::new(ConnectionLimits { all, of_address, ..ConnectionLimits::default() })
    }

    async fn is_over(connection: &Connection) -> bool {
        let over = tokio::time::timeout(Duration::from_millis(1), connection.is_over());
        over.await.is_ok()
    }

    #[tokio::test]
    async fn the_idle_make_room_and_the_busy_do_not() {
        let all = connections(3, 2);
        let (first, second) = (all.enter(address(1)).unwrap(), all.enter(address(1)).unwrap());
        let busy = second.begin();
        // Of its own address, the one that is idle.
        let third = all.enter(address(1)).unwrap();
        assert!(is_over(&first).await && !is_over(&second).await && !is_over(&third).await);
        let requests = third.begin();
        assert!(all.enter(address(1)).is_none(), "both are busy");
        let other = all.enter(address(2)).unwrap();
        assert_eq!(all.lock().all.len(), 3);
        let next = all.enter(address(3)).unwrap();
        assert!(is_over(&other).await, "of all, the one that is idle");
        drop(busy);
        // One that never sent a request goes before one that did.
        let _last = all.enter(address(3)).unwrap();
        assert!(is_over(&next).await && !is_over(&second).await);
        drop((first, second, third, requests, other, next, _last));
        let open = all.lock();
        assert!(open.all.is_empty() && open.of.is_empty() && open.idle.is_empty());
        let counts = [&all.counts.open, &all.counts.silent, &all.counts.refused];
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [0, 3, 1]);
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let (first_request, idle) = (Duration::from_millis(60), Duration::from_millis(90));
        let all = Connections::new(ConnectionLimits {
            first_request,
            idle,
            ..ConnectionLimits::default()
        });
        let (silent, talks) = (all.enter(address(1)).unwrap(), all.enter(address(1)).unwrap());
        let start = Instant::now();
        silent.is_over().await;
        assert!(start.elapsed() >= first_request);
        let busy = talks.begin();
        tokio::time::sleep(idle * 4).await;
        assert!(!is_over(&talks).await, "its answer takes long");
        drop(busy);
        let start = Instant::now();
        talks.is_over().await;
        assert!(start.elapsed() >= idle);
    }
}
