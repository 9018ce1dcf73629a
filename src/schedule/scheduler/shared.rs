//! One level for many loads that ask the same origin: how many requests all of them may send is found once, and who
//! begins later begins with what is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::events::Limit;
use super::level::{Level, Requests};

/// How many requests may go on at a time, for all who share it.
#[derive(Clone)]
pub struct SharedLevel {
    common: Arc<Mutex<Common>>,
    /// Called when there may be room for one more.
    freed: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for SharedLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLevel").field("common", &self.common).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Common {
    level: Level,
    members: BTreeMap<u64, Member>,
    next: u64,
    /// The latest time that any of them told.
    now: Duration,
}

/// What is known of one load.
#[derive(Debug, Clone, Copy, Default)]
struct Member {
    requests: Requests,
    hungry: bool,
    /// The level that it knows of.
    seen: usize,
}

impl Member {
    /// Requests that it has, or is about to send.
    fn requests(&self) -> usize {
        self.requests.sent.max(1)
    }
}

/// The place of one load among those who share a level. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    level: SharedLevel,
    own: u64,
    /// What the clock of the others said when that of this load began.
    began: Duration,
}

impl SharedLevel {
    /// Between `least` requests at a time, where it begins, and `most`; more than bring `enough` bytes a second are
    /// not tried. `freed` is called when there may be room for one more.
    pub fn new(
        least: usize,
        most: usize,
        enough: u64,
        seed: u64,
        freed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let level = Level::new(least, most, enough, seed);
        let common = Common { level, members: BTreeMap::new(), next: 0, now: Duration::ZERO };
        Self { common: Arc::new(Mutex::new(common)), freed: Arc::new(freed) }
    }

    /// The same, where so many bytes of a request are expected to come in the time to an answer.
    pub fn expecting(self, bytes: u64) -> Self {
        self.lock().level.expect(bytes);
        self
    }

    /// A place, if there may be one more request. `now` is the time of the clock that all share.
    pub fn join(&self, now: Duration) -> Option<Place> {
        let mut common = self.lock();
        if common.requests() >= common.level.get() {
            return None;
        }
        if common.members.is_empty() {
            let now = common.reach(now);
            common.level.resume(now);
        }
        let own = common.next;
        common.next += 1;
        let seen = common.level.get();
        common.members.insert(own, Member { seen, ..Member::default() });
        Some(Place { level: self.clone(), own, began: now })
    }

    fn lock(&self) -> MutexGuard<'_, Common> {
        // Whoever panicked left numbers that are at worst out of date.
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Common {
    /// Requests of all.
    fn requests(&self) -> usize {
        self.members.values().map(Member::requests).sum()
    }

    /// The clocks of the loads are read one after the other: time does not go back.
    fn reach(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    /// What all of them do.
    fn all(&self) -> Requests {
        let mut all = Requests::default();
        for Member { requests, .. } in self.members.values() {
            all.sent += requests.sent;
            all.answered += requests.answered;
            all.answering += requests.answering;
            all.more |= requests.more;
            all.memory = all.memory.saturating_add(requests.memory);
        }
        all
    }
}

impl Place {
    /// Requests that this load may have: what the others leave, and one at least.
    fn level(&self) -> usize {
        let common = self.level.lock();
        let own = common.members.get(&self.own).map_or(1, Member::requests);
        let others = common.requests() - own;
        common.level.get().saturating_sub(others).max(1)
    }

    fn pass(&self, now: Duration, hungry: bool, requests: Requests) -> bool {
        let mut common = self.level.lock();
        if let Some(member) = common.members.get_mut(&self.own) {
            (member.requests, member.hungry) = (requests, hungry);
        }
        // What comes tells nothing while fewer are asked for than there may be.
        let (all, now) = (common.all(), common.reach(self.began + now));
        let is_full = all.more || all.sent >= common.level.get();
        let hungry = is_full && common.members.values().any(|member| member.hungry);
        let rose = common.level.pass(now, hungry, all);
        let level = common.level.get();
        let member = common.members.get_mut(&self.own);
        let more = member.is_some_and(|m| level > std::mem::replace(&mut m.seen, level));
        drop(common);
        if rose {
            (self.level.freed)();
        }
        more
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.level.lock().members.remove(&self.own);
        (self.level.freed)();
    }
}

/// The level of one load: its own, or that of many.
#[derive(Debug)]
pub(super) enum Guide {
    Own(Box<Level>),
    Shared(Place),
}

impl Guide {
    /// Asks the level, whoever's it is.
    fn of<T>(&self, ask: impl FnOnce(&Level) -> T) -> T {
        match self {
            Self::Own(level) => ask(level),
            Self::Shared(place) => ask(&place.level.lock().level),
        }
    }

    /// Tells the level, whoever's it is, at the time that its clock says.
    fn tell(&mut self, now: Duration, tell: impl FnOnce(&mut Level, Duration)) {
        match self {
            Self::Own(level) => tell(level, now),
            Self::Shared(place) => {
                let common = &mut *place.level.lock();
                let now = common.reach(place.began + now);
                tell(&mut common.level, now);
            }
        }
    }

    /// So many requests go on.
    pub(super) fn have(&mut self, requests: usize) {
        let Self::Shared(place) = self else { return };
        let before = match place.level.lock().members.get_mut(&place.own) {
            Some(member) => std::mem::replace(&mut member.requests.sent, requests),
            None => return,
        };
        if requests < before {
            (place.level.freed)();
        }
    }

    /// Requests at a time.
    pub(super) fn get(&self) -> usize {
        match self {
            Self::Own(level) => level.get(),
            Self::Shared(place) => place.level(),
        }
    }

    pub(super) fn highest(&self) -> usize {
        self.of(Level::highest)
    }

    pub(super) fn limit(&self) -> Limit {
        self.of(Level::limit)
    }

    pub(super) fn is_found(&self) -> bool {
        self.of(Level::is_found)
    }

    pub(super) fn most(&self) -> usize {
        self.of(Level::most)
    }

    pub(super) fn pace(&self) -> f64 {
        self.of(Level::pace)
    }

    pub(super) fn on_the_way(&self) -> f64 {
        self.of(Level::on_the_way)
    }

    pub(super) fn answering(&self, requests: usize, memory: u64) -> f64 {
        self.of(|level| level.answering(requests, memory))
    }

    pub(super) fn received(&mut self, now: Duration, bytes: u64) {
        self.tell(now, |level, _| level.received(bytes));
    }

    pub(super) fn answered(&mut self, now: Duration, after: Duration) {
        self.tell(now, |level, now| level.answered(now, after));
    }

    /// The origin refused a request, while `others` of the same load go on.
    pub(super) fn refused(&mut self, now: Duration, others: usize) {
        match self {
            Self::Own(level) => level.refused(now, others),
            Self::Shared(place) => {
                let common = &mut *place.level.lock();
                let own = common.members.get(&place.own).map_or(1, Member::requests);
                let others = common.requests() - own + others;
                let now = common.reach(place.began + now);
                common.level.refused(now, others);
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Own(level) => level.deadline(),
            Self::Shared(place) => {
                let at = place.level.lock().level.deadline()?;
                Some(at.saturating_sub(place.began))
            }
        }
    }

    /// Time passes; see [`Level::pass`]. Returns whether there may be more requests than before.
    pub(super) fn pass(&mut self, now: Duration, hungry: bool, requests: Requests) -> bool {
        match self {
            Self::Own(level) => level.pass(now, hungry, requests),
            Self::Shared(place) => place.pass(now, hungry, requests),
        }
    }
}
