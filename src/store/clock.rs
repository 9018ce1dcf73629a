//! Whether this machine's clock can be right. What is published by one that is behind expires too early, or is
//! dead at once; after one that is ahead, right clocks are behind. So it is compared with what the store's host says,
//! or else with the newest time in the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::resolve::ref_object;
use super::{Store, StoreError};
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::RefBody;
use crate::format::time;

/// How far a clock may be off: S3 takes no requests beyond that either.
const OFF: Duration = Duration::from_secs(15 * 60);
/// How far it may be ahead of the newest name, where no host says what time it is: nobody may have published for years.
/// No signature lives longer.
const IDLE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

fn ms(time: SystemTime) -> u64 {
    ms_of(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn ms_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How a clock is wrong, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Behind(u64),
    Ahead(u64),
}

/// What is wrong with a clock that says `now`, all in milliseconds. A host that says what time it is decides alone:
/// whoever published with a clock that was ahead must not keep others out.
fn wrong(now: u64, host: Option<u64>, newest: Option<u64>) -> Option<Wrong> {
    let (then, ahead) = match host {
        Some(host) => (host, OFF),
        None => (newest?, IDLE),
    };
    let plus = |time: u64, by: Duration| time.saturating_add(ms_of(by));
    match () {
        () if then > plus(now, OFF) => Some(Wrong::Behind(then)),
        () if now > plus(then, ahead) => Some(Wrong::Ahead(then)),
        () => None,
    }
}

impl Store {
    /// The same store; whether this machine's clock is right is not asked.
    pub fn with_trusted_clock(self, trusted: bool) -> Self {
        Self { trusts_clock: trusted, ..self }
    }

    /// Checks the clock before something is published: under a name, if one is given.
    ///
    /// # Errors
    /// [`StoreError::Clock`] if it is behind or ahead.
    pub async fn check_clock(&self, name: Option<(&ArtifactName, &Tag)>) -> Result<(), StoreError> {
        if self.trusts_clock {
            return Ok(());
        }
        // What cannot be read tells nothing; whoever publishes hears of it.
        let index = self.index().await.ok().flatten();
        self.compare(index.map(|index| index.version()), |_| true)?;
        let Some((name, tag)) = name else { return Ok(()) };
        let found = self.document::<RefBody>(&ref_object(name, tag)).await.ok().flatten();
        self.compare_clock(found.map(|found| found.body().version))
    }

    /// Compares the clock with the version of a ref or of the index, and with what the host said. A ref may be
    /// any time older than the newest.
    pub(super) fn compare_clock(&self, version: Option<u64>) -> Result<(), StoreError> {
        self.compare(version, |wrong| matches!(wrong, Wrong::Behind(_)))
    }

    fn compare(
        &self,
        version: Option<u64>,
        counts: impl Fn(Wrong) -> bool,
    ) -> Result<(), StoreError> {
        if self.trusts_clock {
            return Ok(());
        }
        let now = ms(SystemTime::now());
        let (host, newest) = (self.transport().date().map(ms), version.and_then(time::published));
        let found = wrong(now, host, newest).filter(|wrong| host.is_some() || counts(*wrong));
        let (then, harm) = match found {
            None => return Ok(()),
            Some(Wrong::Behind(then)) => (then, "what it publishes would expire too early"),
            Some(Wrong::Ahead(then)) => {
                (then, "after it nobody whose clock is right could publish")
            }
        };
        let whose = match host {
            Some(_) => "its host says that it is",
            None => "its newest name was published at",
        };
        let (now, then) = (time::date(now / 1000), time::date(then / 1000));
        Err(StoreError::Clock { location: self.location().to_owned(), now, whose, then, harm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_off_and_the_host_decides() {
        const MINUTE: u64 = 60_000;
        const YEARS: u64 = 3650 * 24 * 60 * MINUTE;
        let now = 2 * YEARS;
        let (behind, ahead) = (Wrong::Behind, Wrong::Ahead);
        for (host, newest, expected) in [
            (None, None, None),
            (None, Some(now + 15 * MINUTE), None),
            (None, Some(now + 15 * MINUTE + 1), Some(behind(now + 15 * MINUTE + 1))),
            (None, Some(now - YEARS), None),
            (None, Some(now - YEARS - 1), Some(ahead(now - YEARS - 1))),
            (Some(now + 15 * MINUTE), None, None),
            (Some(now + 16 * MINUTE), None, Some(behind(now + 16 * MINUTE))),
            (Some(now + 16 * MINUTE), Some(0), Some(behind(now + 16 * MINUTE))),
            (Some(now - 15 * MINUTE), None, None),
            (Some(now - 16 * MINUTE), None, Some(ahead(now - 16 * MINUTE))),
            (Some(now - 16 * MINUTE), Some(now), Some(ahead(now - 16 * MINUTE))),
            (Some(now), Some(now + 1_000_000 * MINUTE), None),
            (Some(now), Some(0), None),
            (Some(0), Some(now + 20 * MINUTE), Some(ahead(0))),
        ] {
            assert_eq!(wrong(now, host, newest), expected, "{host:?} {newest:?}");
        }
        assert_eq!(wrong(u64::MAX, Some(u64::MAX), None), None);
    }
}
