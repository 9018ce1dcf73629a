//! How many requests go on at a time. No two origins and links are alike, so that it is found by trying: more are
//! sent while that makes the whole faster by much, and fewer where the origin refuses.

use std::time::Duration;

/// How many times as many requests are tried.
const STEP: usize = 4;
/// How much faster the whole must be for more requests to stay.
const GAIN: f64 = 1.25;
/// The shortest time in which a rate is measured, and in which new requests get going before.
const MEASURE: Duration = Duration::from_millis(50);
const WARM: Duration = Duration::from_millis(20);
/// How long a level stays that was found; twice as long each time it is found again.
const REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long an origin is left alone that refused.
const BACK_OFF: Duration = Duration::from_secs(2);

/// The level, and what is known of it.
#[derive(Debug)]
pub(super) struct Level {
    least: usize,
    most: usize,
    /// Bytes per second from which on no more requests are tried.
    enough: f64,
    now: usize,
    highest: usize,
    state: State,
    /// The level below this one, and bytes per second there.
    below: Option<(usize, f64)>,
    /// A level that was refused.
    refused: Option<usize>,
    /// When that was heard last.
    heard: Option<Duration>,
    /// Bytes that came.
    bytes: u64,
    /// The usual time to the first bytes of an answer.
    answer: Duration,
    rest: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Requests get going.
    Warming { until: Duration },
    /// `bytes` had come at `since`.
    Measuring { since: Duration, until: Duration, bytes: u64 },
    /// The level stays.
    Resting { until: Duration },
}

impl Level {
    /// Between `least`, where it begins, and `most`; with both alike it never changes.
    pub(super) fn new(least: usize, most: usize, enough: u64) -> Self {
        let least = least.max(1);
        Self {
            least,
            most: most.max(least),
            enough: enough as f64,
            now: least,
            highest: least,
            state: State::Warming { until: WARM },
            below: None,
            refused: None,
            heard: None,
            bytes: 0,
            answer: Duration::ZERO,
            rest: REST,
        }
    }

    /// Requests at a time.
    pub(super) fn get(&self) -> usize {
        self.now
    }

    /// The highest that it was.
    pub(super) fn highest(&self) -> usize {
        self.highest
    }

    /// Whether more requests than at first have made the whole faster, or are asked for.
    pub(super) fn is_proven(&self) -> bool {
        let below = self.below.map_or(self.now, |(below, _)| below);
        self.is_fixed() || below > self.least
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The first bytes of an answer came, so long after they were asked for.
    pub(super) fn answered(&mut self, after: Duration) {
        self.answer = match self.answer {
            Duration::ZERO => after,
            usual => usual * 7 / 8 + after / 8,
        };
    }

    /// The origin refused a request: no byte of an answer came.
    pub(super) fn refused(&mut self, now: Duration) {
        // Once for all that were sent before it was heard.
        if self.is_fixed() || self.heard.is_some_and(|heard| now < heard + BACK_OFF / 2) {
            return;
        }
        self.heard = Some(now);
        self.refused = Some(self.now);
        self.now = self.below.take().map_or(self.now * 7 / 10, |(below, _)| below).max(1);
        self.state = State::Resting { until: now + BACK_OFF };
    }

    /// When [`Self::pass`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let (State::Warming { until } | State::Measuring { until, .. } | State::Resting { until }) =
            self.state;
        (!self.is_fixed()).then_some(until)
    }

    fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// Time passes. `hungry`: it is the network that is waited for. Returns whether the level rose.
    pub(super) fn pass(&mut self, now: Duration, hungry: bool) -> bool {
        if self.is_fixed() || self.deadline().is_some_and(|until| now < until) {
            return false;
        }
        match self.state {
            _ if !hungry => self.warm(now),
            State::Warming { .. } => {
                let until = now + MEASURE.max(self.answer);
                self.state = State::Measuring { since: now, until, bytes: self.bytes };
            }
            State::Measuring { since, bytes, .. } => {
                let rate = (self.bytes - bytes) as f64 / (now - since).as_secs_f64().max(1e-6);
                match self.below {
                    Some((below, before)) if rate < before * GAIN => {
                        self.now = below;
                        self.settle(now);
                    }
                    _ if self.next() == self.now || rate >= self.enough => self.settle(now),
                    _ => {
                        self.below = Some((self.now, rate));
                        self.now = self.next();
                        self.highest = self.highest.max(self.now);
                        self.warm(now);
                        return true;
                    }
                }
            }
            State::Resting { .. } => self.warm(now),
        }
        false
    }

    /// The level to try: below one that was refused, halfway.
    fn next(&self) -> usize {
        let next = (self.now * STEP).min(self.most);
        self.refused.map_or(next, |refused| next.min((self.now + refused) / 2)).max(self.now)
    }

    fn warm(&mut self, now: Duration) {
        self.state = State::Warming { until: now + WARM.max(self.answer) };
    }

    fn settle(&mut self, now: Duration) {
        (self.below, self.refused) = (None, None);
        self.state = State::Resting { until: now + self.rest };
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin that gives each request `each` bytes a second, and all of them `all`; the level after `seconds`.
    fn found(each: f64, all: f64, seconds: u64) -> usize {
        let mut level = Level::new(4, 64, u64::MAX);
        let step = Duration::from_millis(5);
        let (mut now, mut carry) = (Duration::ZERO, 0.0);
        while now < Duration::from_secs(seconds) {
            now += step;
            carry += (each * level.get() as f64).min(all) * step.as_secs_f64();
            level.received(carry as u64);
            carry = carry.fract();
            level.pass(now, true);
        }
        level.get()
    }

    #[test]
    fn it_rises_while_the_whole_gets_faster() {
        assert_eq!(found(20e6, 1e12, 1), 64, "each request is slow, and the origin is not");
        assert_eq!(found(1e9, 1e9, 1), 4, "one takes all there is");
        assert_eq!(found(20e6, 300e6, 1), 16, "fifteen take all there is");
    }

    #[test]
    fn it_falls_where_it_is_refused_and_rises_again() {
        let mut level = Level::new(4, 64, u64::MAX);
        for at in 1..100 {
            level.received(20_000 * level.get() as u64);
            level.pass(Duration::from_millis(at * 5), true);
        }
        assert_eq!(level.get(), 64);
        let now = Duration::from_secs(1);
        for _ in 0..30 {
            level.refused(now);
        }
        assert_eq!(level.get(), 44, "once for all that were under way");
        level.refused(now + BACK_OFF / 2);
        assert_eq!(level.get(), 30);
    }

    /// An origin that serves so many at a time and refuses the others.
    #[test]
    fn it_finds_how_many_are_served() {
        for served in [1, 6, 13, 40] {
            let mut level = Level::new(4, 64, u64::MAX);
            let (mut now, mut refusals, mut below) = (Duration::ZERO, 0, 0);
            for _ in 0..6000 {
                now += Duration::from_millis(5);
                level.received(100_000 * level.get().min(served) as u64);
                if level.get() > served {
                    refusals += 1;
                    level.refused(now);
                }
                below += usize::from(level.get() * 2 < served);
                level.pass(now, true);
            }
            assert!(level.get() <= served, "{served}: {}", level.get());
            assert!(refusals < 1000 && below < 1200, "{served}: {refusals} {below}");
        }
    }

    #[test]
    fn nothing_is_tried_where_it_is_fast_enough() {
        let mut level = Level::new(4, 64, 1_000_000_000);
        for at in 1..1000 {
            level.received(5_000_000);
            assert!(!level.pass(Duration::from_millis(at * 5), true));
        }
    }

    #[test]
    fn it_stays_where_it_was_fixed_or_nobody_waits_for_the_network() {
        let mut fixed = Level::new(8, 8, 0);
        fixed.refused(Duration::ZERO);
        let mut fed = Level::new(4, 64, u64::MAX);
        for at in 1..1000 {
            let now = Duration::from_millis(at * 5);
            assert!(!fixed.pass(now, true) && !fed.pass(now, false));
        }
        assert_eq!((fixed.get(), fixed.deadline(), fed.get()), (8, None, 4));
    }
}
