//! Which tensors are resident, how recently each was used, and what may leave. No I/O.
//!
//! Bytes count from the moment that room is made for a tensor until its memory is gone: one that was
//! evicted while somebody uses it counts until the last user lets go. So what is alive never exceeds the
//! budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;

/// Bytes that are alive.
#[derive(Debug, Default)]
struct Account(AtomicU64);

/// Room that was made; it is given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    bytes: u64,
    account: Arc<Account>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Something resident, with its room, which goes after it.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) value: T,
    _lease: Lease,
}

impl<T> Held<T> {
    pub(super) fn new(value: T, lease: Lease) -> Arc<Self> {
        Arc::new(Self { value, _lease: lease })
    }
}

#[derive(Debug)]
struct Entry<T> {
    held: Arc<Held<T>>,
    pins: u32,
}

impl<T> Entry<T> {
    fn is_used(&self) -> bool {
        // The set is one owner; who else could become one needs the set's lock, or is one already.
        Arc::strong_count(&self.held) > 1
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Tensors that are pinned.
    pub(super) pinned: usize,
    /// Tensors that are used, and not pinned.
    pub(super) used: usize,
}

/// The resident tensors of a budget.
pub(super) struct Set<T> {
    budget: u64,
    account: Arc<Account>,
    entries: LruCache<String, Entry<T>>,
    pub(super) evictions: u64,
}

impl<T> Set<T> {
    pub(super) fn new(budget: u64) -> Self {
        let (account, entries) = (Arc::default(), LruCache::unbounded());
        Self { budget, account, entries, evictions: 0 }
    }

    /// Bytes that are alive: resident, arriving, or evicted and still used.
    pub(super) fn alive(&self) -> u64 {
        self.account.0.load(Ordering::Acquire)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The tensor, which is now the most recently used.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<Held<T>>> {
        self.entries.get(name).map(|entry| entry.held.clone())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains(name)
    }

    /// Adds a tensor as the most recently used.
    pub(super) fn put(&mut self, name: &str, held: Arc<Held<T>>) {
        self.entries.put(name.to_owned(), Entry { held, pins: 0 });
    }

    /// Makes room: what was least recently used leaves first, but nothing that is pinned or used.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<Lease, NoRoom> {
        while self.alive().saturating_add(bytes) > self.budget {
            let free = |entry: &Entry<T>| entry.pins == 0 && !entry.is_used();
            let mut oldest = self.entries.iter().rev();
            let Some(name) = oldest.find(|(_, entry)| free(entry)).map(|(name, _)| name.clone())
            else {
                let pinned = self.entries.iter().filter(|(_, entry)| entry.pins > 0).count();
                let used = self.entries.iter().filter(|(_, entry)| !free(entry)).count() - pinned;
                return Err(NoRoom { pinned, used });
            };
            self.entries.pop(&name);
            self.evictions += 1;
        }
        self.account.0.fetch_add(bytes, Ordering::AcqRel);
        Ok(Lease { bytes, account: self.account.clone() })
    }

    /// Keeps a tensor that is held from leaving, until as many [`Self::unpin`].
    pub(super) fn pin(&mut self, name: &str, held: &Arc<Held<T>>) {
        let held = || Entry { held: held.clone(), pins: 0 };
        self.entries.get_or_insert_mut(name.to_owned(), held).pins += 1;
    }

    pub(super) fn unpin(&mut self, name: &str) {
        if let Some(entry) = self.entries.peek_mut(name) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Lets a tensor go, used or not, unless it is pinned. Whether it went.
    pub(super) fn evict(&mut self, name: &str) -> bool {
        let goes = self.entries.peek(name).is_some_and(|entry| entry.pins == 0);
        if goes {
            self.entries.pop(name);
            self.evictions += 1;
        }
        goes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(set: &mut Set<u32>, name: &str, bytes: u64) -> Result<Arc<Held<u32>>, NoRoom> {
        let held = Held::new(7, set.reserve(bytes)?);
        set.put(name, held.clone());
        Ok(held)
    }

    fn resident(set: &Set<u32>) -> String {
        let mut names: Vec<_> = set.entries.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.concat()
    }

    #[test]
    fn the_least_recently_used_leaves() {
        let mut set = Set::new(100);
        for name in ["a", "b", "c"] {
            drop(add(&mut set, name, 30).unwrap());
        }
        assert!(set.get("a").is_some());
        drop(add(&mut set, "d", 40).unwrap());
        assert_eq!((resident(&set).as_str(), set.alive(), set.evictions), ("acd", 100, 1));
        drop(add(&mut set, "e", 100).unwrap());
        assert_eq!((resident(&set).as_str(), set.alive()), ("e", 100));
    }

    #[test]
    fn what_is_pinned_or_used_stays_and_fills_the_budget() {
        let mut set = Set::new(100);
        let a = add(&mut set, "a", 40).unwrap();
        set.pin("a", &a);
        drop(a);
        let b = add(&mut set, "b", 40).unwrap();
        assert_eq!(set.reserve(30).unwrap_err(), NoRoom { pinned: 1, used: 1 });
        assert!(!set.evict("a"), "pinned");
        // Evicted in use: out of the set, and its bytes are alive until it is let go.
        assert!(set.evict("b") && !set.contains("b"));
        assert_eq!((set.alive(), b.value), (80, 7));
        assert_eq!(set.reserve(30).unwrap_err(), NoRoom { pinned: 1, used: 0 });
        drop(b);
        assert_eq!(set.alive(), 40);
        set.unpin("a");
        drop(add(&mut set, "c", 100).unwrap());
        assert_eq!(resident(&set), "c");
    }

    #[test]
    fn room_that_is_not_used_comes_back() {
        let mut set = Set::<u32>::new(100);
        let lease = set.reserve(100).unwrap();
        assert!(set.reserve(1).is_err());
        drop(lease);
        assert_eq!((set.alive(), set.len()), (0, 0));
        assert!(set.reserve(100).is_ok() && set.reserve(101).is_err());
        assert!(set.reserve(u64::MAX).is_err());
    }
}
