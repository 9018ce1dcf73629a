//! How many requests go on at a time. No two origins and links are alike, so that it is found by trying: as many
//! are tried as would be needed if each kept its pace, and as many stay as make the whole faster. Where the origin
//! refuses some, those that it serves stay.

use std::time::Duration;

use super::events::Limit;
use crate::schedule::random::SplitMix;

/// How much faster the whole must be for more requests to stay: for each hundredth more a quarter of one, and no more
/// than this.
const GAIN: f64 = 1.25;
/// Requests beyond those that would bring what all bring: no two are equally fast.
const SPARE: f64 = 1.25;
/// The shortest time in which a rate is measured, and in which new requests get going before.
const MEASURE: Duration = Duration::from_millis(25);
const WARM: Duration = Duration::from_millis(10);
/// Bytes per second of one request from which on the processors may be what limits: origins that pace connections
/// give less. Processors are shared with whatever else this machine does, so that what comes in a short time is as
/// much chance as measure: it is measured for longer, not much more is tried at a time, and only what makes the whole
/// faster by this part of what is more stays.
const FAST: f64 = 100e6;
const LONG_MEASURE: Duration = Duration::from_millis(75);
const FAST_GAIN: f64 = 0.6;
const LEAST_FAST_GAIN: f64 = 0.25;
/// New requests that do not get going are not waited for longer than so many times that beyond an answer.
const PATIENCE: u32 = 10;
/// How long a level stays that was found, more or less: many loads must not try at once. Twice as long each time
/// that trying was of no use.
const REST: Duration = Duration::from_millis(125);
const LONGEST_REST: Duration = Duration::from_secs(16);
/// In which time it is noticed that a level brings less than half of what it did.
const WATCH: Duration = Duration::from_millis(100);
/// One refusal among so many answers says nothing of how many requests are served.
const SPORADIC: u32 = 20;

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
    /// While a level is tried: the one before, and bytes per second there.
    before: Option<(usize, f64)>,
    /// How many more are tried next, where many were too many.
    step: Option<usize>,
    /// Bytes per second, when that was measured last, and of each request that was being answered.
    rate: f64,
    pace: f64,
    /// The highest that was measured of a request, since the whole was last found to bring much less.
    fastest: f64,
    /// Bytes that came.
    bytes: u64,
    /// How many requests were being answered lately, and for how long in all since the measure began.
    seen: (Duration, usize),
    busy: f64,
    /// The usual time to an answer.
    answer: Option<Duration>,
    /// Bytes of one request that come in that time, as far as that is known before they are measured.
    expected: f64,
    /// Requests that were answered and refused at this level.
    answers: u32,
    refusals: u32,
    /// Why it is no higher.
    limit: Limit,
    rest: Duration,
    random: SplitMix,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Requests get going.
    Warming { until: Duration, latest: Duration },
    /// `bytes` had come at `since`.
    Measuring { since: Duration, until: Duration, bytes: u64 },
    /// The level stays. `bytes` had come at `since`, and `next` is when to look what has come since.
    Resting { until: Duration, since: Duration, next: Duration, bytes: u64 },
}

/// The requests that go on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Requests {
    /// How many were sent and have not ended, how many of them had an answer, and how many of those bring bytes.
    pub sent: usize,
    pub answered: usize,
    pub answering: usize,
    /// Whether there is something left to send.
    pub more: bool,
    /// What those being answered share.
    pub memory: u64,
}

impl Requests {
    /// Whether nearly all that there can be have an answer. Where there is less to do than could be done, what
    /// there is counts.
    fn are_going(&self, level: usize) -> bool {
        self.answered * 4 >= if self.more { level } else { self.sent } * 3
    }
}

impl Level {
    /// Between `least`, where it begins, and `most`; with both alike it never changes.
    pub(super) fn new(least: usize, most: usize, enough: u64, seed: u64) -> Self {
        let least = least.max(1);
        Self {
            least,
            most: most.max(least),
            enough: enough as f64,
            now: least,
            highest: least,
            state: State::Warming { until: WARM, latest: WARM },
            before: None,
            step: None,
            rate: 0.0,
            pace: 0.0,
            fastest: 0.0,
            bytes: 0,
            seen: (Duration::ZERO, 0),
            busy: 0.0,
            answer: None,
            expected: 0.0,
            answers: 0,
            refusals: 0,
            limit: Limit::default(),
            rest: REST,
            random: SplitMix::new(seed),
        }
    }

    /// So many bytes of a request will come in the time to an answer, as far as that is known before it is measured.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.expected = bytes as f64;
    }

    /// Requests at a time.
    pub(super) fn get(&self) -> usize {
        self.now
    }

    /// The highest that it was.
    pub(super) fn highest(&self) -> usize {
        self.highest
    }

    /// What keeps it from being higher.
    pub(super) fn limit(&self) -> Limit {
        self.limit
    }

    /// Whether it is known how many there should be.
    pub(super) fn is_found(&self) -> bool {
        self.is_fixed() || matches!(self.state, State::Resting { .. })
    }

    /// The most that there can be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Bytes per second of a request that is being answered, as measured last.
    pub(super) fn pace(&self) -> f64 {
        self.pace
    }

    /// Bytes of one request that come in the time to an answer.
    pub(super) fn on_the_way(&self) -> f64 {
        match self.answer {
            Some(answer) if self.pace > 0.0 => self.pace * answer.as_secs_f64(),
            _ => self.expected,
        }
    }

    /// How many of so many requests at a time are being answered, where each of those needs its part of `memory`; the
    /// others wait for an answer, and need none. If n are, a request takes `memory` / n / pace seconds, and n times
    /// as many wait as the time to an answer is longer than that.
    pub(super) fn answering(&self, requests: usize, memory: u64) -> f64 {
        let (requests, waiting) = (requests as f64, self.on_the_way() / memory.max(1) as f64);
        // The root of n + n * n * waiting = requests.
        2.0 * requests / (1.0 + (1.0 + 4.0 * waiting * requests).sqrt())
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// An answer came, so long after it was asked for.
    pub(super) fn answered(&mut self, now: Duration, after: Duration) {
        if self.answer.is_none() {
            // The others were asked at the same time. Where answers take long, what comes at first tells most.
            let until = now + if after > WARM { Duration::ZERO } else { WARM };
            self.state = State::Warming { until, latest: until };
        }
        self.answer = Some(self.answer.map_or(after, |usual| usual * 7 / 8 + after / 8));
        self.answers = self.answers.saturating_add(1);
    }

    /// The origin refused a request, while `others` go on.
    pub(super) fn refused(&mut self, now: Duration, others: usize) {
        self.refusals = self.refusals.saturating_add(1);
        if self.is_fixed() || self.refusals.saturating_mul(SPORADIC) < self.answers {
            return;
        }
        if others.max(1) < self.now {
            self.now = others.max(1);
        }
        (self.before, self.step, self.limit) = (None, Some(1), Limit::Origin);
        if !matches!(self.state, State::Resting { .. }) {
            self.settle(now, Limit::Origin);
        }
    }

    /// When [`Self::pass`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let at = match self.state {
            // Before the first answer there is nothing to measure.
            State::Warming { .. } if self.answer.is_none() => return None,
            State::Warming { until, .. } | State::Measuring { until, .. } => until,
            State::Resting { until, next, .. } => until.min(next),
        };
        (!self.is_fixed()).then_some(at)
    }

    fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// Time passes. `hungry`: the network is waited for. Returns whether the level rose.
    pub(super) fn pass(&mut self, now: Duration, hungry: bool, requests: Requests) -> bool {
        let (since, answering) = std::mem::replace(&mut self.seen, (now, requests.answering));
        self.busy += answering as f64 * now.saturating_sub(since).as_secs_f64();
        if self.deadline().is_none_or(|until| now < until) {
            return false;
        }
        match self.state {
            State::Resting { until, .. } if !hungry => self.watch(now, until.max(now + WATCH)),
            _ if !hungry => self.warm(now),
            State::Warming { latest, .. } if !requests.are_going(self.now) && now < latest => {
                self.state = State::Warming { until: now + WARM, latest };
            }
            State::Warming { .. } => self.measure(now),
            State::Measuring { since, bytes, .. } => {
                let mut rate = self.since(now, since, bytes);
                if rate == 0.0 {
                    self.measure(now);
                    return false;
                }
                self.pace = (self.bytes - bytes) as f64 / self.busy.max(1e-3);
                self.fastest = self.fastest.max(self.pace);
                if self.rate == 0.0 {
                    // All were answered at the same time; from now on some wait.
                    rate = rate.min(self.pace * self.answering(self.now, requests.memory));
                }
                return self.measured(now, rate);
            }
            State::Resting { until, .. } if now >= until => self.measure(now),
            State::Resting { until, since, bytes, .. } => {
                if self.since(now, since, bytes) < self.rate / 2.0 {
                    self.fastest = 0.0;
                    self.measure(now);
                } else {
                    self.watch(now, until);
                }
            }
        }
        false
    }

    /// Bytes per second since then.
    fn since(&self, now: Duration, since: Duration, bytes: u64) -> f64 {
        (self.bytes - bytes) as f64 / (now - since).as_secs_f64().max(1e-6)
    }

    /// Whether a request has brought more than a network that limits would have let through.
    fn is_fast(&self) -> bool {
        self.fastest >= FAST
    }

    fn measured(&mut self, now: Duration, rate: f64) -> bool {
        if let Some((before, old)) = self.before.take() {
            let more = self.now as f64 / before as f64 - 1.0;
            let least = if self.is_fast() {
                (more * FAST_GAIN).max(LEAST_FAST_GAIN)
            } else {
                (more / 4.0).min(GAIN - 1.0)
            };
            if rate < old * (1.0 + least) {
                (self.now, self.rate) = (before, old);
                // So many more were too many; some may not be.
                self.step = Some((before / 2).max(1));
                let refuses = self.limit == Limit::Origin;
                self.settle(now, if refuses { Limit::Origin } else { Limit::Link });
                return false;
            }
            self.rest = REST;
            self.step = self.step.map(|step| (step * 2).min(self.most));
            let enough = (before as f64 * rate / old.max(1.0) * SPARE).ceil() as usize;
            // What is measured of so many is rough: a few too many are kept.
            if enough * 3 < self.now {
                (self.now, self.rate) = (enough.max(before), rate);
                self.step = Some((self.now / 4).max(1));
                self.settle(now, Limit::Link);
                return false;
            }
        }
        let first = self.rate == 0.0;
        self.rate = rate;
        let next = self.next();
        if next == self.now {
            let all = next == self.most && self.rate < self.enough;
            self.settle(now, if all { Limit::Connections } else { Limit::Processor });
            return false;
        }
        if first && self.is_fast() {
            self.measure(now);
            return false;
        }
        self.before = Some((self.now, rate));
        self.now = next;
        self.highest = self.highest.max(next);
        (self.answers, self.refusals) = (0, 0);
        self.warm(now);
        true
    }

    /// The level to try: as many as would bring enough, if each keeps its pace; some more where so many were too many.
    fn next(&self) -> usize {
        let next = match self.step {
            _ if self.rate >= self.enough => self.now,
            Some(step) => self.now + step,
            None => {
                let needed = self.enough / self.rate.max(1.0) * self.now as f64;
                // So few more could not be told from none.
                if needed < self.now as f64 * 1.5 { self.now } else { needed.ceil() as usize }
            }
        };
        // Where each brings much, a few more tell as much as many.
        let most = if self.is_fast() { self.now * 2 } else { self.most };
        next.min(most).min(self.most).max(self.now)
    }

    /// Requests begin after none went on for a while: nothing follows from what has come meanwhile.
    pub(super) fn resume(&mut self, now: Duration) {
        match self.state {
            State::Resting { until, .. } => self.watch(now, until.max(now + WATCH)),
            _ if self.answer.is_some() => self.warm(now),
            _ => {}
        }
    }

    fn warm(&mut self, now: Duration) {
        let time = WARM.max(self.answer.unwrap_or_default());
        self.state = State::Warming { until: now + time, latest: now + WARM * PATIENCE + time };
    }

    fn measure(&mut self, now: Duration) {
        // At first all requests are answered at the same time; later some wait while others are.
        let first = self.rate == 0.0;
        let round = if first { Duration::ZERO } else { self.answer.unwrap_or_default() * 2 };
        let least = if self.is_fast() { LONG_MEASURE } else { MEASURE };
        let until = now + least.max(round);
        self.busy = 0.0;
        self.state = State::Measuring { since: now, until, bytes: self.bytes };
    }

    fn settle(&mut self, now: Duration, limit: Limit) {
        self.limit = limit;
        let rest = self.rest.mul_f64(0.75 + self.random.unit() / 2.0);
        self.watch(now, now + rest);
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }

    fn watch(&mut self, now: Duration, until: Duration) {
        let next = now + WATCH.max(self.answer.unwrap_or_default() * 2);
        self.state = State::Resting { until, since: now, next, bytes: self.bytes };
    }
}

#[cfg(test)]
mod tests;
