//! How much at a time: requests in flight, and requests per second of one client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clients whose rate is remembered.
const CLIENTS: u64 = 65_536;
/// How long a client that is silent is remembered: its bucket is full again before.
const IDLE: Duration = Duration::from_secs(60);
/// How many seconds' worth of requests a client may send at once.
const BURST: f64 = 2.0;

/// The limits of an edge.
#[derive(Debug)]
pub(crate) struct Limits {
    in_flight: Arc<Semaphore>,
    /// Requests per second of one client.
    rate: Option<f64>,
    clients: Cache<String, Arc<Mutex<Bucket>>>,
}

impl Limits {
    pub(crate) fn new(requests: usize, rate: Option<f64>) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(requests.clamp(1, Semaphore::MAX_PERMITS))),
            rate: rate.filter(|rate| *rate > 0.0),
            clients: Cache::builder().max_capacity(CLIENTS).time_to_idle(IDLE).build(),
        }
    }

    /// A place for one request, held until its answer has gone out; `None` if there is none free.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().ok()
    }

    /// Counts a client's request; the error is how long it has to wait.
    pub(crate) fn count(&self, client: &str) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = Instant::now();
        let full = || Arc::new(Mutex::new(Bucket { left: (rate * BURST).max(1.0), at: now }));
        let bucket = self.clients.get_with(client.to_owned(), full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(rate, now)
    }
}

/// Requests that a client may still send.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: f64, now: Instant) -> Result<(), Duration> {
        let gained = now.duration_since(self.at).as_secs_f64() * rate;
        self.left = (self.left + gained).min((rate * BURST).max(1.0));
        self.at = now;
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / rate));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_sends_no_more_than_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket { left: 8.0, at: start };
        let mut sent = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            sent += u32::from(bucket.take(4.0, now).is_ok());
        }
        // Two seconds' worth at once, and then ten seconds' worth.
        assert!((47..=48).contains(&sent), "{sent}");
        let wait = bucket.take(4.0, start + Duration::from_secs(10)).map_or_else(
            |w| w,
            |()| bucket.take(4.0, start + Duration::from_secs(10)).expect_err("it is empty"),
        );
        assert!(wait <= Duration::from_millis(250), "{wait:?}");
    }

    #[test]
    fn requests_in_flight_are_bounded() {
        let limits = Limits::new(2, None);
        let (first, _second) = (limits.enter(), limits.enter());
        assert!(first.is_some() && limits.enter().is_none());
        drop(first);
        assert!(limits.enter().is_some());
        assert!((0..1000).all(|_| limits.count("x").is_ok()));
    }
}
