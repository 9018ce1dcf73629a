//! Whether this machine's clock can be right. What is published by one that is behind expires too early, or is
//! dead at once; so it is compared with what the store's host says, or else with the newest time in the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::resolve::ref_object;
use super::{Store, StoreError};
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::RefBody;
use crate::format::time;

/// How far a clock may be behind: S3 takes no requests beyond that either.
const BEHIND: Duration = Duration::from_secs(15 * 60);

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that a clock which says `now` is behind, all in milliseconds. A host that says what time it is
/// decides alone: whoever published with a clock that was ahead must not keep others out.
fn ahead_of(now: u64, host: Option<u64>, newest: Option<u64>) -> Option<u64> {
    let bound = u64::try_from(BEHIND.as_millis()).unwrap_or(u64::MAX);
    host.or(newest).filter(|then| *then > now.saturating_add(bound))
}

impl Store {
    /// The same store; whether this machine's clock is right is not asked.
    pub fn with_trusted_clock(self, trusted: bool) -> Self {
        Self { trusts_clock: trusted, ..self }
    }

    /// Checks the clock before something is published: under a name, if one is given.
    ///
    /// # Errors
    /// [`StoreError::Clock`] if it is behind.
    pub async fn check_clock(&self, name: Option<(&ArtifactName, &Tag)>) -> Result<(), StoreError> {
        if self.trusts_clock {
            return Ok(());
        }
        // What cannot be read tells nothing; whoever publishes hears of it.
        let index = self.index().await.ok().flatten();
        self.compare_clock(index.map(|index| index.version()))?;
        let Some((name, tag)) = name else { return Ok(()) };
        let found = self.document::<RefBody>(&ref_object(name, tag)).await.ok().flatten();
        self.compare_clock(found.map(|found| found.body().version))
    }

    /// Compares the clock with the version of a ref or of the index, and with what the host said.
    pub(super) fn compare_clock(&self, version: Option<u64>) -> Result<(), StoreError> {
        if self.trusts_clock {
            return Ok(());
        }
        let now = ms(SystemTime::now());
        let (host, newest) = (self.transport().date().map(ms), version.and_then(time::published));
        let Some(then) = ahead_of(now, host, newest) else { return Ok(()) };
        let whose = match host {
            Some(_) => "its host says that it is",
            None => "its newest name was published at",
        };
        let (now, then) = (time::date(now / 1000), time::date(then / 1000));
        Err(StoreError::Clock { location: self.location().to_owned(), now, whose, then })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_behind_and_the_host_decides() {
        const MINUTE: u64 = 60_000;
        let now = 1_000 * MINUTE;
        for (host, newest, behind) in [
            (None, None, None),
            (None, Some(now + 15 * MINUTE), None),
            (None, Some(now + 15 * MINUTE + 1), Some(now + 15 * MINUTE + 1)),
            (None, Some(0), None),
            (Some(now + 16 * MINUTE), None, Some(now + 16 * MINUTE)),
            (Some(now + 16 * MINUTE), Some(0), Some(now + 16 * MINUTE)),
            (Some(now), Some(now + 1_000_000 * MINUTE), None),
            (Some(0), Some(now + 20 * MINUTE), None),
        ] {
            assert_eq!(ahead_of(now, host, newest), behind, "{host:?} {newest:?}");
        }
        assert_eq!(ahead_of(u64::MAX, Some(u64::MAX), None), None);
    }
}
