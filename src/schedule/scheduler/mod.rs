//! The state of a load, without I/O: what to fetch next and from where, what to try again, what to
//! deliver. Time is a value that events carry in; actions are polled out.
//!
//! Every chunk has at most one owner at any time: it waits in the queue, or one fetch has it, or it
//! is done. Memory is admitted in delivery order, so what is needed first can always go on.
//!
//! One file: every event may change any part of the one state; `mirror` holds what one mirror's
//! answers say of it, `level` how many fetches may go on, `shared` how many of all loads that share one level.

mod events;
mod level;
mod mirror;
mod shared;
#[cfg(test)]
mod sim;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::format::id::PackId;
use crate::schedule::plan::{ChunkIndex, DeliveryIndex, List, ListIndex, Plan};
use crate::schedule::random::SplitMix;
pub use events::{Action, Event, Failure, FetchId, GaveUp, Limit, Limits, SchedulerStats};
use level::{Level, Requests};
use mirror::Mirrors;
pub use mirror::{MAX_MIRRORS, MirrorIndex};
use shared::Guide;
pub use shared::{Place, SharedLevel};

/// Chunks that wait for a request.
#[derive(Debug, Clone)]
struct Work {
    pack: PackId,
    whole: bool,
    chunks: Vec<ChunkIndex>,
    failures: u32,
    hedges: u32,
    not_before: Duration,
    /// Mirrors to pass over while there are others.
    avoid: u64,
    /// Mirrors that cannot serve this.
    excluded: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    Stalled,
    Slow,
    /// Its connection was needed for something earlier.
    Preempted,
}

/// Memory that is divided among fetches, if the budget knows no end.
const MEMORY: u64 = 256 << 20;
/// The most that is asked for before there is memory for it: what comes meanwhile waits in the system's buffers.
const AHEAD: u64 = 256 << 20;
/// What a fetch has left is divided among others if it would take longer.
const LONG: Duration = Duration::from_millis(250);

/// So few bytes within the stall limit are as good as none: a server that sends byte by byte would
/// otherwise hold a load for ever.
const TRICKLE: u64 = 4 << 10;

#[derive(Debug)]
struct Fetch {
    work: Work,
    mirror: MirrorIndex,
    granted: usize,
    finished: usize,
    sent: Duration,
    /// Whether an answer has begun.
    answered: bool,
    /// When bytes last came that count, or when it had last nothing to wait for.
    last_byte: Duration,
    /// Bytes since then, too few to count.
    trickle: u64,
    /// Bytes since `since`, when it last began to work.
    bytes: u64,
    since: Duration,
    cancelled: Option<(Cancelled, Duration)>,
}

impl Fetch {
    fn is_idle(&self) -> bool {
        self.finished == self.granted
    }

    fn next_chunk(&self) -> Option<ChunkIndex> {
        self.work.chunks.get(self.finished).copied()
    }
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    delivery: DeliveryIndex,
    len: u32,
    bad: u16,
    bad_mirrors: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    size: u64,
    /// The sizes of all before it.
    before: u64,
    /// Bytes of stored chunks that are kept until all its chunks are there.
    linked: u64,
    missing: u32,
    released: bool,
}

/// The state of a load.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    level: Guide,
    now: Duration,
    random: SplitMix,
    chunks: List<ChunkIndex, Chunk>,
    deliveries: List<DeliveryIndex, Pending>,
    /// Stored bytes of the chunks that wait in the queue.
    queued: u64,
    /// The next to admit.
    admitted: DeliveryIndex,
    /// The next to hand out.
    delivered: DeliveryIndex,
    /// The next that the consumer takes.
    taken: DeliveryIndex,
    used: u64,
    queue: BTreeMap<ChunkIndex, Work>,
    active: BTreeMap<FetchId, Fetch>,
    next_fetch: u64,
    mirrors: Mirrors,
    /// Bytes per second of fetches that went well, newest last.
    rates: VecDeque<u64>,
    actions: VecDeque<Action>,
    failed: bool,
    /// How long the consumer was waited for, and not the network.
    fed: Duration,
    stats: SchedulerStats,
}

impl Scheduler {
    /// The state before anything happened.
    pub fn new(plan: &Plan, limits: Limits) -> Self {
        let (least, most) = (limits.connections, limits.most_connections);
        let mut level = Level::new(least, most, limits.enough, limits.seed);
        level.expect(limits.on_the_way);
        Self::guided(plan, limits, Guide::Own(Box::new(level)))
    }

    /// The same of a load that shares the level of others: their limits of connections count.
    pub fn sharing(plan: &Plan, limits: Limits, place: Place) -> Self {
        Self::guided(plan, limits, Guide::Shared(place))
    }

    fn guided(plan: &Plan, limits: Limits, level: Guide) -> Self {
        let (mut before, beside) = (0, limits.beside);
        let pending = |d: &crate::schedule::plan::Delivery| {
            let size = d.len() + beside;
            before += size;
            Pending {
                size,
                before: before - size,
                linked: d.linked_bytes,
                missing: d.chunks,
                released: false,
            }
        };
        let work = |fetch: &crate::schedule::plan::PlannedFetch| Work {
            pack: fetch.pack,
            whole: fetch.whole,
            chunks: fetch.chunks.clone(),
            failures: 0,
            hedges: 0,
            not_before: Duration::ZERO,
            avoid: 0,
            excluded: 0,
        };
        let chunk = |c: &crate::schedule::plan::PlannedChunk| Chunk {
            delivery: c.delivery,
            len: c.len,
            bad: 0,
            bad_mirrors: 0,
        };
        let mut state = Self {
            random: SplitMix::new(limits.seed),
            mirrors: Mirrors::new(limits.mirrors),
            level,
            limits,
            now: Duration::ZERO,
            chunks: plan.chunks.iter().map(chunk).collect(),
            deliveries: plan.deliveries.iter().map(pending).collect(),
            admitted: DeliveryIndex::FIRST,
            delivered: DeliveryIndex::FIRST,
            taken: DeliveryIndex::FIRST,
            used: 0,
            queued: 0,
            queue: BTreeMap::new(),
            active: BTreeMap::new(),
            next_fetch: 0,
            rates: VecDeque::new(),
            actions: VecDeque::new(),
            failed: false,
            fed: Duration::ZERO,
            stats: SchedulerStats::default(),
        };
        plan.fetches.iter().for_each(|fetch| state.enqueue(work(fetch)));
        state.advance();
        state
    }

    /// Counts so far.
    pub fn stats(&self) -> SchedulerStats {
        let limit = match self.level.limit() {
            _ if self.fed > self.now / 2 => Limit::Consumer,
            Limit::Answers if self.level.most() == self.limits.connections => Limit::Connections,
            limit => limit,
        };
        SchedulerStats {
            dropped_mirrors: self.mirrors.dropped(),
            connections: self.level.highest() as u64,
            limit,
            ..self.stats
        }
    }

    /// Whether every delivery was handed out.
    pub fn is_complete(&self) -> bool {
        self.delivered == self.deliveries.end()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Tick`], if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        if self.failed || self.is_complete() {
            return None;
        }
        let stalls = self.active.values().filter_map(|fetch| match fetch.cancelled {
            Some((_, since)) => Some(since + self.limits.stall),
            None if fetch.is_idle() => None,
            None => Some(fetch.last_byte + self.limits.stall),
        });
        let free = self.active.len() < self.level.get();
        let pauses = self.queue.values().map(|work| work.not_before).filter(|&at| at > self.now);
        let hedge = self.limits.hedge_after.filter(|_| free && self.is_any_busy());
        let hedge = hedge.map(|after| self.now + after / 4);
        stalls.chain(pauses).chain(hedge).chain(self.level.deadline()).min()
    }

    fn is_any_busy(&self) -> bool {
        self.active.values().any(|fetch| !fetch.is_idle() && fetch.cancelled.is_none())
    }

    /// Whether the network is waited for: what was delivered is taken.
    fn is_hungry(&self) -> bool {
        self.taken == self.delivered && self.is_any_busy()
    }

    /// Takes in what happened at `now`, which never goes back.
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.handle_all(now, [event]);
    }

    /// The same of several events, one after the other.
    pub fn handle_all(&mut self, now: Duration, events: impl IntoIterator<Item = Event>) {
        let passed = now.saturating_sub(self.now);
        self.now += passed;
        if !self.is_hungry() {
            self.fed += passed;
        }
        let mut anything = false;
        for event in events {
            anything |= !self.failed && self.take_in(event);
        }
        if anything {
            self.advance();
        }
    }

    /// Whether something can follow from the event.
    fn take_in(&mut self, event: Event) -> bool {
        match event {
            Event::Bytes { fetch, count } => {
                self.level.received(self.now, count);
                if let Some(fetch) = self.active.get_mut(&fetch) {
                    fetch.bytes += count;
                    fetch.trickle += count;
                    if fetch.trickle >= TRICKLE {
                        (fetch.last_byte, fetch.trickle) = (self.now, 0);
                    }
                }
                return false;
            }
            Event::Answered { fetch } => {
                if let Some(fetch) = self.active.get_mut(&fetch) {
                    fetch.answered = true;
                    self.level.answered(self.now, self.now.saturating_sub(fetch.sent));
                }
            }
            Event::Verified { fetch, chunk } => self.verified(fetch, chunk),
            Event::Bad { fetch, chunk } => self.bad(fetch, chunk),
            Event::Ended { fetch, failure } => self.ended(fetch, failure),
            Event::Taken { delivery } => self.taken = self.taken.max(delivery.next()),
            Event::Released { delivery } => {
                if let Some(pending) = self.deliveries.get_mut(delivery)
                    && !std::mem::replace(&mut pending.released, true)
                {
                    self.used -= pending.size;
                }
            }
            Event::Tick => {}
        }
        true
    }

    fn verified(&mut self, fetch: FetchId, chunk: ChunkIndex) {
        let Some(active) = self.active.get_mut(&fetch) else { return };
        active.finished += 1;
        active.last_byte = self.now;
        active.work.failures = 0;
        self.mirrors.worked(active.mirror);
        self.arrived(chunk);
    }

    fn bad(&mut self, fetch: FetchId, index: ChunkIndex) {
        let Some(active) = self.active.get_mut(&fetch) else { return };
        active.finished += 1;
        active.last_byte = self.now;
        let (mirror, pack) = (active.mirror, active.work.pack);
        self.mirrors.lied(mirror);
        self.stats.faulty |= mirror.bit();
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        chunk.bad += 1;
        chunk.bad_mirrors |= mirror.bit();
        let tries = u32::from(chunk.bad);
        // A mirror that has not been asked may have it right.
        let all_bad = self.mirrors.usable(chunk.bad_mirrors) == 0;
        if tries >= self.limits.bad_chunks && all_bad {
            let why = GaveUp::BadChunk { chunk: index, tries };
            return if self.limits.tolerant { self.lose(index, why) } else { self.fail(why) };
        }
        self.stats.refetched_chunks += 1;
        let avoid = chunk.bad_mirrors;
        // Alone, and at once: what damaged it may have been on the way.
        let work = Work {
            pack,
            whole: false,
            chunks: vec![index],
            failures: 0,
            hedges: 0,
            not_before: self.now,
            avoid,
            excluded: 0,
        };
        self.enqueue(work);
    }

    fn ended(&mut self, id: FetchId, failure: Option<Failure>) {
        let Some(fetch) = self.active.remove(&id) else { return };
        if fetch.cancelled.is_none() {
            self.remember_rate(&fetch);
        }
        let mut work = fetch.work;
        work.chunks.drain(..fetch.finished.min(work.chunks.len()));
        work.whole = false;
        let Some(&first) = work.chunks.first() else { return };
        let mirror = fetch.mirror;
        match (fetch.cancelled.map(|(why, _)| why), failure) {
            (Some(Cancelled::Preempted), _) => {}
            (Some(Cancelled::Slow), _) => {
                self.stats.hedges += 1;
                work.hedges += 1;
                work.avoid |= mirror.bit();
                // The other half goes to another connection.
                let rest = work.chunks.split_off(work.chunks.len().div_ceil(2));
                self.enqueue(Work { chunks: rest, ..work.clone() });
            }
            (None, Some(failure @ (Failure::Permanent | Failure::Absent))) => {
                work.excluded |= mirror.bit();
                let absent = self.limits.tolerant && failure == Failure::Absent;
                if !absent {
                    self.mirrors.failed(mirror);
                }
                if self.mirrors.usable(work.excluded) == 0 {
                    let why = GaveUp::Fetch { chunk: first, mirror };
                    return if absent { self.lack(work, why) } else { self.fail(why) };
                }
                self.stats.retries += 1;
            }
            (cancelled, failure) => {
                let others = self.active.values().filter(|other| other.cancelled.is_none());
                // One that breaks off in the middle says nothing of how many there may be.
                if cancelled.is_none() && !fetch.answered {
                    self.level.refused(self.now, others.clone().count());
                }
                work.avoid |= mirror.bit();
                // Nor is a mirror bad that answers others meanwhile.
                if !others.clone().any(|other| other.mirror == mirror && other.answered) {
                    self.mirrors.failed(mirror);
                }
                self.stats.faulty |= mirror.bit();
                self.stats.retries += 1;
                // Another mirror is asked at once; when each has failed, the round is over.
                if self.mirrors.usable(work.excluded | work.avoid) == 0 {
                    work.failures += 1;
                    work.avoid = mirror.bit();
                    if work.failures > self.limits.failures {
                        return self.fail(GaveUp::Fetch { chunk: first, mirror });
                    }
                    // A stall has waited long enough already.
                    if cancelled.is_none() {
                        let wish = match failure {
                            Some(Failure::Transient(wish)) => wish,
                            _ => None,
                        };
                        work.not_before = self.now + self.pause(work.failures, wish);
                    }
                }
            }
        }
        self.enqueue(work);
    }

    /// No mirror has all of it: what it holds of the chunks, asking for each alone tells.
    fn lack(&mut self, work: Work, why: GaveUp) {
        if let [chunk] = work.chunks[..] {
            return self.lose(chunk, why);
        }
        for &chunk in &work.chunks {
            let (chunks, excluded) = (vec![chunk], 0);
            self.enqueue(Work { chunks, excluded, ..work.clone() });
        }
    }

    fn lose(&mut self, index: ChunkIndex, why: GaveUp) {
        self.actions.push_back(Action::Lost { chunk: index, why });
        self.arrived(index);
    }

    /// A chunk of a delivery is no longer waited for.
    fn arrived(&mut self, index: ChunkIndex) {
        let Some(chunk) = self.chunks.get(index) else { return };
        if let Some(delivery) = self.deliveries.get_mut(chunk.delivery) {
            delivery.missing -= 1;
            // What is lost before there was memory for it had none.
            if delivery.missing == 0 && chunk.delivery < self.admitted {
                self.used -= delivery.linked;
            }
        }
    }

    /// Half of it is chance, so that many loaders do not return together.
    fn pause(&mut self, failures: u32, wish: Option<Duration>) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.limits.first_pause.saturating_mul(factor).min(self.limits.longest_pause);
        let pause = full.mul_f64(0.5 + self.random.unit() / 2.0);
        pause.max(wish.unwrap_or_default().min(self.limits.longest_pause))
    }

    fn fail(&mut self, why: GaveUp) {
        self.failed = true;
        let cancels = self.active.iter().filter(|(_, fetch)| fetch.cancelled.is_none());
        self.actions.extend(cancels.map(|(&fetch, _)| Action::Cancel { fetch }));
        self.actions.push_back(Action::Fail(why));
    }

    /// Does whatever has become possible.
    fn advance(&mut self) {
        if !self.failed {
            self.check_time();
        }
        if !self.failed {
            self.admit();
            self.find_level();
            self.start();
            self.level.have(self.active.len());
        }
        if !self.failed {
            self.grant();
            self.hedge();
            self.deliver();
        }
    }

    fn check_time(&mut self) {
        let (now, stall) = (self.now, self.limits.stall);
        let mut hung = None;
        for (&id, fetch) in &mut self.active {
            match fetch.cancelled {
                Some((_, since)) if now >= since + stall => {
                    hung = fetch.next_chunk().map(|chunk| (chunk, fetch.mirror));
                }
                None if !fetch.is_idle() && now >= fetch.last_byte + stall => {
                    fetch.cancelled = Some((Cancelled::Stalled, now));
                    self.actions.push_back(Action::Cancel { fetch: id });
                }
                _ => {}
            }
        }
        if let Some((chunk, mirror)) = hung {
            self.fail(GaveUp::Hung { chunk, mirror });
        }
    }

    fn budget(&self) -> u64 {
        match self.is_as_planned() {
            true => self.limits.budget,
            false => self.limits.budget.max(self.limits.most_budget),
        }
    }

    /// Whether so few fetches go on that they are what was planned.
    fn is_as_planned(&self) -> bool {
        self.level.get() <= self.limits.as_planned
    }

    fn admit(&mut self) {
        while let Some(next) = self.deliveries.get(self.admitted) {
            let linked = if next.missing > 0 { next.linked } else { 0 };
            let needs = next.size.saturating_add(linked);
            let fits = self.used.saturating_add(needs) <= self.budget();
            // When the consumer has taken all there is, it waits for this one, whatever it holds.
            if !fits && self.taken < self.admitted {
                break;
            }
            self.used += needs;
            self.actions.push_back(Action::Admit { delivery: self.admitted });
            self.admitted = self.admitted.next();
        }
    }

    /// Puts chunks into the queue, if there are any.
    fn enqueue(&mut self, work: Work) {
        let Some(&first) = work.chunks.first() else { return };
        self.queued += self.size(&work.chunks);
        self.queue.insert(first, work);
    }

    fn dequeue(&mut self, key: ChunkIndex) -> Option<Work> {
        let work = self.queue.remove(&key)?;
        self.queued -= self.size(&work.chunks);
        Some(work)
    }

    /// Stored bytes of these chunks.
    fn size(&self, chunks: &[ChunkIndex]) -> u64 {
        let chunks = chunks.iter().filter_map(|&chunk| self.chunks.get(chunk));
        chunks.map(|chunk| u64::from(chunk.len)).sum()
    }

    /// Bytes that are asked for before there is memory for them: those of requests that wait for an answer, for one
    /// that is on its way needs none.
    fn ahead(&self) -> u64 {
        if self.is_as_planned() {
            return 0;
        }
        let (level, memory) = (self.level.get(), self.memory());
        let waiting = level as f64 - self.level.answering(level, memory);
        ((waiting * self.part(level)) as u64).min(AHEAD)
    }

    /// Memory that is divided among fetches.
    fn memory(&self) -> u64 {
        self.budget().min(MEMORY)
    }

    /// Bytes of one of so many fetches.
    fn part(&self, level: usize) -> f64 {
        self.memory() as f64 / self.level.answering(level, self.memory()).max(1.0)
    }

    /// Whether a chunk has memory, or will soon.
    fn is_near(&self, chunk: Option<&ChunkIndex>) -> bool {
        if self.is_admitted(chunk) {
            return true;
        }
        let before = |delivery| Some(self.deliveries.get(delivery)?.before);
        let own = chunk.and_then(|&chunk| before(self.chunks.get(chunk)?.delivery));
        own.zip(before(self.admitted)).is_some_and(|(own, admitted)| own - admitted < self.ahead())
    }

    fn is_admitted(&self, chunk: Option<&ChunkIndex>) -> bool {
        let chunk = chunk.and_then(|&chunk| self.chunks.get(chunk));
        chunk.is_some_and(|chunk| chunk.delivery < self.admitted)
    }

    /// The first work that can be sent now.
    fn next_work(&self) -> Option<ChunkIndex> {
        // The queue is in the order of need: nothing far behind an unadmitted chunk is admitted.
        let near = self.queue.iter().take(64);
        let mut ready = near
            .filter(|(_, work)| work.not_before <= self.now && self.is_near(work.chunks.first()));
        ready.next().map(|(&key, _)| key)
    }

    fn start(&mut self) {
        while let Some(key) = self.next_work() {
            if self.active.len() >= self.level.get() {
                if self.is_admitted(Some(&key)) {
                    self.preempt();
                }
                return;
            }
            let Some(work) = self.take_work(key) else { return };
            let Some(mirror) = self.choose_mirror(&work) else {
                let mirror = MirrorIndex::FIRST;
                return self.fail(GaveUp::Fetch { chunk: key, mirror });
            };
            let fetch = FetchId(self.next_fetch);
            self.next_fetch += 1;
            self.stats.requests += 1;
            self.stats.asked |= mirror.bit();
            self.actions.push_back(Action::Start {
                fetch,
                mirror,
                pack: work.pack,
                whole: work.whole,
                chunks: work.chunks.clone(),
            });
            let (last_byte, since, sent) = (self.now, self.now, self.now);
            let active = Fetch {
                work,
                mirror,
                granted: 0,
                finished: 0,
                sent,
                answered: false,
                last_byte,
                trickle: 0,
                bytes: 0,
                since,
                cancelled: None,
            };
            self.active.insert(fetch, active);
        }
    }

    /// Takes work from the queue: all of it or, where there are more fetches than were planned, the part for which
    /// there is memory, and of that what one of them has its share of. Less than the least fetch is not worth a
    /// request: the rest of it waits for memory.
    fn take_work(&mut self, key: ChunkIndex) -> Option<Work> {
        let (size, mut sum) = (self.share(), 0);
        let mut work = self.dequeue(key)?;
        if self.is_as_planned() {
            return Some(work);
        }
        let mut fits = |chunk: &ChunkIndex| {
            let len = self.chunks.get(*chunk).map_or(0, |chunk| u64::from(chunk.len));
            sum += len;
            // As near to its share as whole chunks come.
            sum - len / 2 <= size && (sum <= self.limits.least_fetch || self.is_near(Some(chunk)))
        };
        let count = work.chunks.iter().take_while(|chunk| fits(chunk)).count().max(1);
        if count < work.chunks.len() {
            let rest = work.chunks.split_off(count);
            work.whole = false;
            self.enqueue(Work { chunks: rest, ..work.clone() });
        }
        Some(work)
    }

    /// Bytes of the next fetch. Of what waits an equal part, but no less than comes in the time to an answer, unless
    /// all of it can be asked for now. While the number of fetches is not known it is taken to be the highest.
    fn share(&self) -> u64 {
        let number = self.level.get();
        let level = if self.level.is_found() { number } else { self.level.most() };
        let equal = self.queued / number as u64;
        let mut least = self.level.on_the_way() as u64;
        // What all has memory, and can be asked for now, is there soonest in equal parts.
        if self.queue.last_key_value().is_none_or(|(_, work)| self.is_admitted(work.chunks.last()))
        {
            let free = number.saturating_sub(self.active.len()).max(1);
            least = least.min(self.queued / free as u64);
        }
        (self.part(level) as u64).min(equal.max(least)).max(self.limits.least_fetch)
    }

    /// Finds the level. What a fetch has left that was begun when there were few is divided among many, if it
    /// would take long.
    fn find_level(&mut self) {
        let answered = self.active.values().filter(|fetch| fetch.answered);
        let requests = Requests {
            sent: self.active.len(),
            answered: answered.clone().count(),
            answering: answered.filter(|fetch| !fetch.is_idle()).count(),
            more: !self.queue.is_empty(),
            memory: self.memory(),
        };
        if !self.level.pass(self.now, self.is_hungry(), requests) {
            return;
        }
        // Two that are hardly smaller would not be there sooner.
        let most = (self.share() * 2).max((self.level.pace() * LONG.as_secs_f64()) as u64);
        let began = |fetch: &Fetch| fetch.cancelled.is_none() && fetch.answered;
        let mut long = Vec::new();
        for (&id, fetch) in self.active.iter().filter(|(_, fetch)| began(fetch)) {
            let left = fetch.work.chunks.get(fetch.finished..).unwrap_or_default();
            long.extend((self.size(left) > most).then_some(id));
        }
        for id in long {
            self.stats.hedges += 1;
            self.cancel(id, Cancelled::Preempted);
        }
    }

    fn cancel(&mut self, id: FetchId, why: Cancelled) {
        if let Some(fetch) = self.active.get_mut(&id) {
            fetch.cancelled = Some((why, self.now));
            self.actions.push_back(Action::Cancel { fetch: id });
        }
    }

    fn choose_mirror(&self, work: &Work) -> Option<MirrorIndex> {
        let load = |mirror: MirrorIndex| {
            self.active.values().filter(|fetch| fetch.mirror == mirror).count()
        };
        self.mirrors.choose(work.avoid, work.excluded, load)
    }

    /// Takes the connection of a fetch that waits for memory: something needed earlier waits.
    fn preempt(&mut self) {
        if self.active.values().any(|fetch| fetch.cancelled.is_some()) {
            return;
        }
        let waits =
            |fetch: &Fetch| fetch.is_idle() && !self.is_admitted(fetch.next_chunk().as_ref());
        let last = self.active.iter().filter(|(_, fetch)| waits(fetch));
        let last = last.max_by_key(|(_, fetch)| fetch.next_chunk());
        if let Some((&id, _)) = last.filter(|(_, fetch)| fetch.next_chunk().is_some()) {
            self.cancel(id, Cancelled::Preempted);
        }
    }

    fn grant(&mut self) {
        let (now, admitted, chunks) = (self.now, self.admitted, &self.chunks);
        let is_admitted =
            |&chunk: &ChunkIndex| chunks.get(chunk).is_some_and(|chunk| chunk.delivery < admitted);
        for (&fetch, active) in self.active.iter_mut().filter(|(_, f)| f.cancelled.is_none()) {
            let rest = active.work.chunks.get(active.granted..).unwrap_or_default();
            let count = rest.iter().take_while(|chunk| is_admitted(chunk)).count();
            if count > 0 {
                if active.is_idle() {
                    (active.last_byte, active.since, active.bytes) = (now, now, 0);
                }
                active.granted += count;
                self.actions.push_back(Action::Grant { fetch, count });
            }
        }
    }

    fn remember_rate(&mut self, fetch: &Fetch) {
        let micros = (self.now - fetch.since).as_micros().max(1);
        let rate = u128::from(fetch.bytes) * 1_000_000 / micros;
        if fetch.bytes > 0 {
            self.rates.push_back(u64::try_from(rate).unwrap_or(u64::MAX));
            if self.rates.len() > 16 {
                self.rates.pop_front();
            }
        }
    }

    /// Ends one fetch that is much slower than others were, while connections have nothing to do;
    /// what is left of it is divided among them.
    fn hedge(&mut self) {
        let Some(after) = self.limits.hedge_after else { return };
        let free = self.active.len() < self.level.get() && self.next_work().is_none();
        if !free || self.active.values().any(|fetch| fetch.cancelled.is_some()) {
            return;
        }
        let mut rates: Vec<_> = self.rates.iter().copied().collect();
        rates.sort_unstable();
        let Some(&usual) = rates.get(rates.len() / 2) else { return };
        let now = self.now;
        let slow = self.active.iter().find(|(_, fetch)| {
            let busy = now.saturating_sub(fetch.since);
            let usual_bytes = u128::from(usual) * busy.as_micros() / 1_000_000;
            !fetch.is_idle()
                && fetch.work.hedges < 3
                && busy >= after
                && u128::from(fetch.bytes) * 4 < usual_bytes
        });
        if let Some((&id, _)) = slow {
            self.cancel(id, Cancelled::Slow);
        }
    }

    fn deliver(&mut self) {
        while let Some(next) = self.deliveries.get(self.delivered) {
            if next.missing > 0 || self.delivered >= self.admitted {
                break;
            }
            self.actions.push_back(Action::Deliver { delivery: self.delivered });
            self.delivered = self.delivered.next();
        }
    }
}
