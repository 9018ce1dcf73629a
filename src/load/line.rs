//! Loads from the same store that stand in one line: how many requests go on at a time, they find together.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::pace;
use crate::schedule::scheduler::{Place, SharedLevel};
use crate::store::Store;

/// Loads that begin in the order in which they came, as soon as there may be one more request to their store. Those
/// that begin later begin with what those before them found.
pub struct Line {
    level: OnceLock<SharedLevel>,
    started: Instant,
    /// Whose turn is next.
    head: Mutex<()>,
    /// There may be room for one more.
    freed: Arc<Notify>,
}

impl Default for Line {
    fn default() -> Self {
        let (head, freed) = (Mutex::default(), Arc::default());
        Self { level: OnceLock::new(), started: Instant::now(), head, freed }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("level", &self.level.get()).finish_non_exhaustive()
    }
}

impl Line {
    /// Waits for a place. What opening an artifact told of the way to the store is known by then.
    pub(super) async fn place(&self, store: &Store) -> Place {
        let level = self.level.get_or_init(|| {
            let ((first, most), freed) = (pace::connections(store), self.freed.clone());
            let seed = fastrand::u64(..);
            SharedLevel::new(first, most, pace::enough(), seed, move || freed.notify_waiters())
                .expecting(pace::on_the_way(store))
        });
        let _head = self.head.lock().await;
        loop {
            let freed = self.freed.notified();
            if let Some(place) = level.join(self.started.elapsed()) {
                return place;
            }
            freed.await;
        }
    }
}
