//! Which chunks on disk go first once there is no room. Pure.
//!
//! One that was written and not read again goes before any that was, so that an artifact that is read
//! once, however large, leaves what many read in its place. Among equals the least recently used goes.

use lru::LruCache;

use crate::format::id::StoredDigest;

/// Which part of the budget chunks that were read again may hold against new ones.
const PROTECTED: (u64, u64) = (4, 5);

/// The chunks, and their lengths.
#[derive(Debug)]
pub(crate) struct Recency {
    budget: u64,
    once: LruCache<StoredDigest, u64>,
    again: LruCache<StoredDigest, u64>,
    /// Bytes of all, and of those that were read again.
    used: u64,
    protected: u64,
}

impl Recency {
    pub(crate) fn new(budget: u64) -> Self {
        let (once, again) = (LruCache::unbounded(), LruCache::unbounded());
        Self { budget, once, again, used: 0, protected: 0 }
    }

    /// Bytes of all chunks.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn contains(&self, digest: &StoredDigest) -> bool {
        self.once.contains(digest) || self.again.contains(digest)
    }

    /// A chunk is there that was not.
    pub(crate) fn add(&mut self, digest: StoredDigest, len: u64) {
        self.remove(&digest);
        self.once.put(digest, len);
        self.used += len;
    }

    /// A chunk is read; whether it is there.
    pub(crate) fn read(&mut self, digest: &StoredDigest) -> bool {
        if self.again.get(digest).is_some() {
            return true;
        }
        let Some(len) = self.once.pop(digest) else { return false };
        self.again.put(*digest, len);
        self.protected += len;
        // Those read longest ago have to be read again to stay.
        while u128::from(self.protected) * u128::from(PROTECTED.1)
            > u128::from(self.budget) * u128::from(PROTECTED.0)
            && self.again.len() > 1
            && let Some((digest, len)) = self.again.pop_lru()
        {
            self.once.put(digest, len);
            self.protected -= len;
        }
        true
    }

    pub(crate) fn remove(&mut self, digest: &StoredDigest) {
        if let Some(len) = self.once.pop(digest) {
            self.used -= len;
        }
        if let Some(len) = self.again.pop(digest) {
            self.used -= len;
            self.protected -= len;
        }
    }

    /// Forgets a chunk that has to go; `None` if all fit.
    pub(crate) fn evict(&mut self) -> Option<StoredDigest> {
        if self.used <= self.budget {
            return None;
        }
        let next = self.once.peek_lru().or_else(|| self.again.peek_lru());
        let digest = *next?.0;
        self.remove(&digest);
        Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> StoredDigest {
        StoredDigest::of(&number.to_le_bytes())
    }

    fn write(recency: &mut Recency, number: u32) {
        recency.add(digest(number), 10);
        while recency.evict().is_some() {}
    }

    #[test]
    fn what_is_read_once_leaves_what_is_read_again() {
        let mut recency = Recency::new(1000);
        (0..50).for_each(|number| write(&mut recency, number));
        assert!((0..50).all(|number| recency.read(&digest(number))));
        (100..10_000).for_each(|number| write(&mut recency, number));
        assert!((0..50).all(|number| recency.contains(&digest(number))));
        assert!(recency.used() <= 1000 && recency.contains(&digest(9999)));
        // Nobody stays for ever: others that are read again take their place.
        for number in 20_000..20_100 {
            write(&mut recency, number);
            assert!(recency.read(&digest(number)));
        }
        assert!((0..50).all(|number| !recency.contains(&digest(number))));
        assert!(recency.used() <= 1000 && recency.protected <= 800);
    }

    #[test]
    fn counts_hold_whatever_happens() {
        let mut recency = Recency::new(95);
        for step in 0..10_000_u32 {
            let one = digest(step.wrapping_mul(2_654_435_761) % 23);
            match step % 4 {
                0 | 1 => recency.add(one, u64::from(step % 7)),
                2 => drop(recency.read(&one)),
                _ => recency.remove(&one),
            }
            while recency.evict().is_some() {}
            let sum =
                |chunks: &LruCache<StoredDigest, u64>| chunks.iter().map(|c| c.1).sum::<u64>();
            let (once, again) = (sum(&recency.once), sum(&recency.again));
            assert_eq!((recency.used, recency.protected), (once + again, again));
            assert!(recency.used <= 95);
        }
    }
}
