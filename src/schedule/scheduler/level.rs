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
mod tests {
    use super::*;

    /// Every request is being answered.
    fn going(level: &Level) -> Requests {
        let (all, memory) = (level.get(), u64::MAX);
        Requests { sent: all, answered: all, answering: all, more: false, memory }
    }

    const STEP: Duration = Duration::from_millis(5);

    fn level(enough: u64) -> Level {
        let mut level = Level::new(4, 64, enough, 1);
        level.answered(Duration::ZERO, Duration::from_millis(1));
        level
    }

    /// An origin that gives each request `each` bytes a second, and all of them `all`; the level after `seconds`.
    fn found(each: f64, all: f64, seconds: u64) -> usize {
        let mut level = level(1_500_000_000);
        let (mut now, mut carry) = (Duration::ZERO, 0.0);
        while now < Duration::from_secs(seconds) {
            now += STEP;
            carry += (each * level.get() as f64).min(all) * STEP.as_secs_f64();
            level.received(carry as u64);
            carry = carry.fract();
            level.pass(now, true, going(&level));
        }
        level.get()
    }

    #[test]
    fn it_rises_while_the_whole_gets_faster() {
        assert_eq!(found(20e6, 1e12, 1), 64, "each request is slow, and the origin is not");
        assert_eq!(found(80e6, 1e12, 1), 19, "so many bring enough");
        assert_eq!(found(1e9, 1e9, 1), 4, "one takes all there is");
        let some = found(20e6, 300e6, 1);
        assert!((15..=20).contains(&some), "fifteen take all there is: {some}");
    }

    /// Bytes come in turns of both ends on a busy machine, however many requests there are.
    #[test]
    fn a_busy_machine_is_no_slow_network() {
        let mut levels = Vec::new();
        for seed in 0..200 {
            let mut level = Level::new(4, 128, 1_500_000_000, seed);
            let mut random = SplitMix::new(seed + 1);
            level.answered(Duration::ZERO, Duration::from_millis(1));
            for at in 1..400 {
                let share = if random.unit() < 0.5 { 0.3 } else { 1.7 };
                level.received((800e6 * share * STEP.as_secs_f64()) as u64);
                level.pass(STEP * at, true, going(&level));
            }
            levels.push(level.highest());
        }
        levels.sort_unstable();
        assert!(levels[100] <= 10 && levels[180] <= 20, "{levels:?}");
    }

    /// Whoever waits for the deadline must not be woken again and again.
    #[test]
    fn a_slow_consumer_is_not_watched_all_the_time() {
        let mut level = level(u64::MAX);
        let (mut now, mut passes) = (Duration::ZERO, 0);
        let end = Duration::from_secs(60);
        while now < end {
            level.received(100_000);
            level.pass(now, now < end / 2, going(&level));
            let next = level.deadline().unwrap();
            assert!(next > now, "{now:?}: {next:?}");
            (now, passes) = (next, passes + 1);
        }
        assert!(passes < 2000, "{passes}");
    }

    #[test]
    fn it_is_quick() {
        let mut level = level(u64::MAX);
        let mut now = Duration::ZERO;
        while level.get() < 64 {
            now += STEP;
            level.received(100_000 * level.get() as u64);
            level.pass(now, true, going(&level));
        }
        assert!(now <= Duration::from_millis(50), "{now:?}");
    }

    /// An origin that serves so many at a time and refuses the others.
    #[test]
    fn it_finds_how_many_are_served() {
        for served in [1, 6, 13, 40] {
            let mut level = level(u64::MAX);
            let (mut now, mut refusals, mut below) = (Duration::ZERO, 0, 0);
            for _ in 0..6000 {
                now += STEP;
                level.received(100_000 * level.get().min(served) as u64);
                let (sent, mut others) = (level.get(), level.get());
                for _ in served..sent {
                    refusals += 1;
                    others -= 1;
                    level.refused(now, others);
                }
                for _ in 0..sent.min(served) {
                    level.answered(now, Duration::from_millis(1));
                }
                below += usize::from(level.get() < served);
                level.pass(now, true, going(&level));
            }
            assert!(level.get() <= served + 1, "{served}: {}", level.get());
            assert!(refusals < 200 && below < 100, "{served}: {refusals} {below}");
        }
    }

    #[test]
    fn few_refusals_say_nothing() {
        let mut level = level(u64::MAX);
        for at in 1..4000 {
            let now = Duration::from_millis(at * 5);
            level.received(100_000 * level.get() as u64);
            level.answered(now, Duration::from_millis(1));
            if at % 30 == 0 {
                level.refused(now, level.get() - 1);
            }
            level.pass(now, true, going(&level));
        }
        assert_eq!(level.get(), 64);
    }

    /// A thousand loads that begin at once at an origin that serves 8,000 requests: neither does it have little to do,
    /// nor do they all come back together.
    #[test]
    fn a_thousand_loads_share_an_origin() {
        const SERVED: usize = 8000;
        let mut random = SplitMix::new(7);
        let mut loads: Vec<_> = (0..1000).map(|seed| Level::new(4, 128, u64::MAX, seed)).collect();
        let (mut now, mut refused, mut served, mut used) = (Duration::ZERO, 0, 0, Vec::new());
        for _ in 0..2000 {
            now += STEP;
            let all: usize = loads.iter().map(Level::get).sum();
            let excess = all.saturating_sub(SERVED) as f64 / all as f64;
            let late = now > Duration::from_secs(4);
            if late {
                used.push(all.min(SERVED));
            }
            for load in &mut loads {
                let sent = load.get();
                let mut others = sent;
                for _ in 0..sent {
                    if random.unit() < excess {
                        others -= 1;
                        refused += usize::from(late);
                        load.refused(now, others);
                    } else if random.unit() < 0.1 {
                        served += usize::from(late);
                        load.answered(now, Duration::from_millis(10));
                    }
                }
                load.received(100_000 * others as u64);
                load.pass(now, true, going(load));
            }
        }
        let mean = used.iter().sum::<usize>() / used.len();
        let least = used.iter().min().copied().unwrap_or(0);
        assert!(mean > SERVED * 85 / 100 && least > SERVED * 70 / 100, "{mean} {least}");
        assert!(refused * 10 < served, "{refused} {served}");
    }

    /// What came at once from what a server had ready says little of what follows.
    #[test]
    fn it_looks_again_when_less_comes() {
        let mut level = level(1_500_000_000);
        let mut now = Duration::ZERO;
        for at in 1..100 {
            now += STEP;
            level.received(if at < 20 { 10_000_000 } else { 100_000 * level.get() as u64 });
            level.pass(now, true, going(&level));
        }
        assert_eq!(level.get(), 64);
    }

    #[test]
    fn nothing_is_tried_where_it_is_fast_enough() {
        let mut level = level(1_000_000_000);
        for at in 1..1000 {
            level.received(5_000_000);
            assert!(!level.pass(Duration::from_millis(at * 5), true, going(&level)));
        }
    }

    #[test]
    fn it_stays_where_it_was_fixed_or_nobody_waits_for_the_network() {
        let mut fixed = Level::new(8, 8, 0, 1);
        fixed.refused(Duration::ZERO, 0);
        let mut fed = level(u64::MAX);
        for at in 1..1000 {
            let now = Duration::from_millis(at * 5);
            assert!(!fixed.pass(now, true, going(&fixed)) && !fed.pass(now, false, going(&fed)));
        }
        assert_eq!((fixed.get(), fixed.deadline(), fed.get()), (8, None, 4));
    }
}
