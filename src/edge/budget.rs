//! Memory for what is decoded ahead of readers: a pool that all of them share.
//!
//! A reader gets a part of what is left, and the least that it can work with when nothing is. So the
//! memory of many slow readers is bounded by the pool and that least, not by the files they read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The pool, in MiB.
const POOL: usize = 512;
/// The most and the least of one reader, in MiB; the least is not of the pool.
const MOST: usize = 16;
const LEAST: usize = 1;
/// Which part of what is left one reader gets.
const PART: usize = 8;

/// The pool.
#[derive(Debug)]
pub(super) struct Budgets(Arc<Semaphore>);

/// What a reader may hold, until it is dropped.
#[derive(Debug)]
pub(super) struct Budget {
    /// Bytes.
    pub(super) bytes: u64,
    _held: Option<OwnedSemaphorePermit>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(POOL)))
    }
}

impl Budgets {
    /// A budget for one more reader.
    pub(super) fn take(&self) -> Budget {
        let fair = (self.0.available_permits() / PART).min(MOST);
        // Another reader may be faster; then the least will do.
        let held = u32::try_from(fair)
            .ok()
            .filter(|fair| *fair > 0)
            .and_then(|fair| self.0.clone().try_acquire_many_owned(fair).ok());
        let mib = held.as_ref().map_or(LEAST, OwnedSemaphorePermit::num_permits);
        Budget { bytes: (mib as u64) << 20, _held: held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_readers_hold_is_bounded() {
        let budgets = Budgets::default();
        let first = budgets.take();
        assert_eq!(first.bytes, (MOST as u64) << 20);
        let many: Vec<Budget> = (0..10_000).map(|_| budgets.take()).collect();
        let held: u64 = many.iter().map(|budget| budget.bytes >> 20).sum();
        assert!(held <= (POOL + 10_000 * LEAST) as u64, "{held}");
        assert!(many.iter().all(|budget| budget.bytes >= 1 << 20));
        drop((first, many));
        assert_eq!(budgets.take().bytes, (MOST as u64) << 20);
    }
}
