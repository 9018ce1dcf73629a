//! Simulation: a virtual clock, random faults, and an owner for every chunk.
//!
//! One file: all properties are asked of the same simulated origin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::schedule::plan::{
    ChunkUse, Delivery, PlannedBase, PlannedChunk, PlannedFetch, RecordIndex, SlotIndex,
    TensorIndex, Way,
};

/// The length of a chunk of what is loaded from an origin, and how many there are in a MB.
const LEN: u32 = 500_000;
const PER_MB: f64 = 2.0;

/// How a mirror of the simulation behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Nature {
    Good,
    /// Damages half of the chunks.
    Liar,
    /// Every chunk fails with a chance of one in five.
    Flaky,
    /// Falls silent after some chunks.
    Silent,
    /// Refuses everything.
    Dead,
}

struct Running {
    chunks: Vec<ChunkIndex>,
    granted: usize,
    at: usize,
    mirror: MirrorIndex,
    cancelled: bool,
    silent: bool,
    answered: bool,
}

/// Deliveries of the given numbers of chunks, each chunk 10 bytes, in fetches of `per_fetch`. With
/// `bases`, every third chunk is one that the chunk before it is stored against.
fn plan(deliveries: &[u32], per_fetch: usize, shuffle: u64, bases: bool) -> Plan {
    let mut plan = Plan::default();
    for &chunks in deliveries {
        let (mut linked, mut filled) = (Vec::new(), SlotIndex::FIRST);
        for chunk in 0..chunks {
            let index = plan.chunks.end();
            let is_base = bases && chunk % 3 == 2;
            let needs = bases && chunk % 3 == 1 && chunk + 1 < chunks;
            linked.extend((is_base || needs).then_some(index));
            let slot = (!is_base).then_some(filled);
            filled = if is_base { filled } else { filled.next() };
            plan.chunks.push(PlannedChunk {
                delivery: plan.deliveries.end(),
                first: ChunkUse { record: RecordIndex::at(chunk as usize), slot },
                more: Vec::new(),
                kept: false,
                base: if needs { PlannedBase::Fetched(index.next()) } else { PlannedBase::Nothing },
                level: u8::from(is_base),
                offset: index.get() as u32 * 10,
                len: 10,
            });
        }
        plan.deliveries.push(Delivery {
            tensor: TensorIndex::FIRST,
            range: 0..filled.get() as u64 * 10,
            slots: List::default(),
            chunks,
            echoes: Vec::new(),
            linked_bytes: linked.len() as u64 * 10,
            linked,
            stored: None,
        });
    }
    // Bases lie in a pack of their own. Some plans take every other chunk in a fetch of its own
    // pack, as foreign layouts may.
    let all: Vec<_> = plan.chunks.pairs().map(|(index, _)| index).collect();
    let apart = |c: &ChunkIndex| match bases {
        true => plan.chunks[c.get()].level > 0,
        false => shuffle.is_multiple_of(3) && c.get() % 2 == 1,
    };
    let (b, a): (Vec<_>, Vec<_>) = all.iter().partition(|c| apart(c));
    for (chunks, pack) in [(a, 1), (b, 2)] {
        for part in chunks.chunks(per_fetch) {
            let pack = PackId::of(&[pack]);
            plan.fetches.push(PlannedFetch { pack, whole: false, chunks: part.to_vec() });
        }
    }
    plan.fetches.sort_by_key(|fetch| fetch.chunks.first().copied());
    plan
}

struct World {
    state: Scheduler,
    limits: Limits,
    /// Of each delivery its bytes, and those of its chunks that wait for each other.
    sizes: Vec<(u64, u64)>,
    /// Chunks of each delivery that are not there.
    missing: Vec<u32>,
    natures: Vec<Nature>,
    rng: StdRng,
    now: Duration,
    running: BTreeMap<FetchId, Running>,
    owner: HashMap<ChunkIndex, FetchId>,
    done: BTreeSet<ChunkIndex>,
    admitted: usize,
    delivered: usize,
    taken: usize,
    held: BTreeSet<usize>,
    used: u64,
    hoards: bool,
    failed: Option<GaveUp>,
    lost: BTreeSet<ChunkIndex>,
    /// What a dead mirror says.
    dead: Failure,
}

impl World {
    fn act(&mut self, plan: &Plan) {
        while let Some(action) = self.state.poll_action() {
            match action {
                Action::Admit { delivery } => {
                    assert_eq!(delivery.get(), self.admitted);
                    let (own, linked) = self.sizes[self.admitted];
                    let size = own + if self.missing[self.admitted] > 0 { linked } else { 0 };
                    let fits = self.used + size <= self.limits.budget;
                    assert!(fits || self.taken == self.admitted, "admitted beyond the budget");
                    self.used += size;
                    let lost = self
                        .lost
                        .iter()
                        .filter(|chunk| plan.chunks[chunk.get()].delivery == delivery);
                    let missing = plan.deliveries[self.admitted].chunks - lost.count() as u32;
                    assert_eq!(self.missing[self.admitted], missing);
                    self.admitted += 1;
                }
                Action::Lost { chunk, .. } => {
                    assert!(self.limits.tolerant && !self.done.contains(&chunk));
                    assert!(self.lost.insert(chunk), "lost twice");
                    let delivery = plan.chunks[chunk.get()].delivery.get();
                    self.missing[delivery] -= 1;
                    if self.missing[delivery] == 0 && delivery < self.admitted {
                        self.used -= self.sizes[delivery].1;
                    }
                }
                Action::Start { fetch, mirror, chunks, .. } => {
                    for chunk in &chunks {
                        assert_eq!(self.owner.insert(*chunk, fetch), None, "two owners");
                        assert!(!self.done.contains(chunk), "fetched though it is there");
                    }
                    let silent = self.natures[mirror.get()] == Nature::Silent;
                    let running = Running {
                        chunks,
                        granted: 0,
                        at: 0,
                        mirror,
                        cancelled: false,
                        silent,
                        answered: false,
                    };
                    self.running.insert(fetch, running);
                    assert!(self.running.len() <= self.limits.most_connections);
                }
                Action::Grant { fetch, count } => {
                    let running = self.running.get_mut(&fetch).unwrap();
                    running.granted += count;
                    for &chunk in &running.chunks[..running.granted] {
                        let delivery = plan.chunks[chunk.get()].delivery.get();
                        assert!(delivery < self.admitted, "granted without memory");
                    }
                }
                Action::Cancel { fetch } => {
                    self.running.get_mut(&fetch).unwrap().cancelled = true;
                }
                Action::Deliver { delivery } => {
                    assert_eq!(delivery.get(), self.delivered, "out of order");
                    let own = plan.chunks.pairs().filter(|(_, c)| c.delivery == delivery);
                    let there = |index| self.done.contains(&index) || self.lost.contains(&index);
                    assert!(own.map(|(index, _)| index).all(there));
                    self.delivered += 1;
                }
                Action::Fail(why) => self.failed = Some(why),
            }
        }
    }

    fn end(&mut self, id: FetchId, failure: Option<Failure>) {
        let running = self.running.remove(&id).unwrap();
        for chunk in &running.chunks[running.at..] {
            assert_eq!(self.owner.remove(chunk), Some(id));
        }
        self.state.handle(self.now, Event::Ended { fetch: id, failure });
    }

    /// One random thing happens.
    fn step(&mut self, plan: &Plan) {
        self.now += Duration::from_millis(self.rng.gen_range(0..20));
        if self.taken < self.delivered && self.rng.gen_bool(0.3) {
            self.held.insert(self.taken);
            self.taken += 1;
            let delivery = DeliveryIndex::at(self.taken - 1);
            self.state.handle(self.now, Event::Taken { delivery });
            return;
        }
        if !self.hoards
            && self.rng.gen_bool(0.3)
            && let Some(delivery) = self.held.pop_first()
        {
            self.used -= self.sizes[delivery].0;
            let delivery = DeliveryIndex::at(delivery);
            self.state.handle(self.now, Event::Released { delivery });
            return;
        }
        let mut ids: Vec<_> = self.running.keys().copied().collect();
        if !ids.is_empty() {
            let first = self.rng.gen_range(0..ids.len());
            ids.rotate_left(first);
        }
        if ids.into_iter().any(|id| self.progress(id, plan)) {
            return;
        }
        // Nothing moves by itself: time does.
        if let Some(deadline) = self.state.deadline() {
            self.now = self.now.max(deadline);
        }
        self.state.handle(self.now, Event::Tick);
    }

    /// False if this fetch has nothing to do.
    fn progress(&mut self, id: FetchId, plan: &Plan) -> bool {
        let fetch = self.running.get_mut(&id).unwrap();
        if fetch.cancelled {
            self.end(id, None);
            return true;
        }
        let nature = self.natures[fetch.mirror.get()];
        if nature == Nature::Dead {
            self.end(id, Some(self.dead));
            return true;
        }
        if !std::mem::replace(&mut fetch.answered, true) {
            self.state.handle(self.now, Event::Answered { fetch: id });
            return true;
        }
        if fetch.at == fetch.chunks.len() {
            self.end(id, None);
            return true;
        }
        if fetch.at == fetch.granted || (fetch.silent && fetch.at > 0) {
            return false;
        }
        if nature == Nature::Flaky && self.rng.gen_bool(0.2) {
            self.end(id, Some(Failure::Transient(None)));
            return true;
        }
        let chunk = fetch.chunks[fetch.at];
        fetch.at += 1;
        self.owner.remove(&chunk);
        let bad = nature == Nature::Liar && self.rng.gen_bool(0.5);
        self.state.handle(self.now, Event::Bytes { fetch: id, count: 10 });
        if bad {
            self.state.handle(self.now, Event::Bad { fetch: id, chunk });
        } else {
            assert!(self.done.insert(chunk), "verified twice");
            let delivery = plan.chunks[chunk.get()].delivery.get();
            self.missing[delivery] -= 1;
            if self.missing[delivery] == 0 {
                // All is decoded, and nothing waits any more.
                self.used -= self.sizes[delivery].1;
            }
            self.state.handle(self.now, Event::Verified { fetch: id, chunk });
        }
        true
    }
}

fn nature() -> impl Strategy<Value = Nature> {
    use Nature::*;
    prop_oneof![4 => Just(Good), 1 => Just(Liar), 1 => Just(Flaky), 1 => Just(Silent), 1 => Just(Dead)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, a load ends: with everything, in order, or with an error that someone
    /// deserves. No chunk has two owners, and memory stays within the budget.
    #[test]
    fn every_load_ends(
        deliveries in prop::collection::vec(0_u32..9, 0..14),
        per_fetch in 1_usize..12,
        natures in prop::collection::vec(nature(), 1..4),
        (connections, more, budget, seed) in (1_usize..5, 1_usize..5, 1_u64..200, any::<u64>()),
        (hoards, hedges, bases, tolerant) in
            (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let plan = plan(&deliveries, per_fetch, seed, bases);
        let limits = Limits {
            budget,
            most_budget: budget,
            connections,
            most_connections: connections * more,
            as_planned: connections,
            least_fetch: 20,
            mirrors: natures.len(),
            seed,
            hedge_after: hedges.then_some(Duration::from_millis(50)),
            tolerant,
            ..Limits::default()
        };
        let sizes = plan.deliveries.iter().map(|d| (d.len(), d.linked_bytes)).collect();
        let mut world = World {
            state: Scheduler::new(&plan, limits.clone()),
            limits,
            sizes,
            missing: deliveries.clone(),
            natures: natures.clone(),
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            running: BTreeMap::new(),
            owner: HashMap::new(),
            done: BTreeSet::new(),
            admitted: 0,
            delivered: 0,
            taken: 0,
            held: BTreeSet::new(),
            used: 0,
            hoards,
            failed: None,
            lost: BTreeSet::new(),
            dead: if tolerant { Failure::Absent } else { Failure::Permanent },
        };
        let mut steps = 0;
        loop {
            world.act(&plan);
            if world.failed.is_some() || world.state.is_complete() {
                break;
            }
            steps += 1;
            prop_assert!(steps < 100_000, "no end: {:?}", world.state);
            world.step(&plan);
        }
        let all_good = natures.iter().all(|&nature| nature == Nature::Good);
        let one_good = natures.contains(&Nature::Good);
        if let Some(why) = world.failed {
            prop_assert!(!all_good, "failed without a fault: {:?}", why);
            // A good mirror saves the load from dead, silent and flaky ones; a liar may still
            // be asked three times for one chunk only if nobody else is left.
            prop_assert!(!one_good, "failed beside a good mirror: {:?} of {:?}", why, natures);
        } else {
            prop_assert_eq!(world.delivered, deliveries.len());
            prop_assert_eq!(world.done.len() + world.lost.len(), plan.chunks.len());
            // Only what no mirror has right is lost.
            prop_assert!(world.lost.is_empty() || !one_good, "lost beside a good mirror");
        }
        if all_good && !hedges && more == 1 && plan.fetches.len() == plan.chunks.len().div_ceil(per_fetch) {
            let stats = world.state.stats();
            prop_assert_eq!((stats.retries, stats.refetched_chunks, stats.dropped_mirrors), (0, 0, 0));
            if budget >= 200 * 10 || plan.fetches.len() <= 1 {
                prop_assert_eq!(stats.requests, plan.fetches.len() as u64);
            }
        }
    }
}

/// What waits for its bases counts until it is decoded, and no longer.
#[test]
fn decoded_deliveries_make_room_for_the_next() {
    let plan = plan(&[3, 3], 3, 1, true);
    assert_eq!(plan.deliveries[0].linked_bytes, 20);
    // Each has 20 bytes of its own: both fit once nothing of the first waits.
    let mut state = Scheduler::new(&plan, Limits { budget: 60, ..Limits::default() });
    let mut admitted = 0;
    let mut fetches = HashMap::new();
    let mut act = |state: &mut Scheduler| {
        while let Some(action) = state.poll_action() {
            match action {
                Action::Admit { .. } => admitted += 1,
                Action::Start { fetch, chunks, .. } => {
                    fetches.extend(chunks.into_iter().map(|chunk| (chunk, fetch)));
                }
                _ => {}
            }
        }
        (admitted, fetches.clone())
    };
    for chunk in (0..3).map(ChunkIndex::at) {
        let (admitted, fetches) = act(&mut state);
        assert_eq!(admitted, 1, "before {chunk:?}");
        let fetch = fetches[&chunk];
        state.handle(Duration::ZERO, Event::Verified { fetch, chunk });
    }
    assert_eq!(act(&mut state).0, 2, "though nobody took the first");
}

/// The pauses between failures grow and are never shorter than the server's wish.
#[test]
fn failures_back_off_and_then_end_the_load() {
    let plan = plan(&[1], 1, 1, false);
    let mut state = Scheduler::new(&plan, Limits::default());
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    let wish = Duration::from_millis(1234);
    let gave_up = loop {
        match state.poll_action() {
            Some(Action::Start { fetch, .. }) => {
                let wish = (pauses.len() == 2).then_some(wish);
                let failure = Some(Failure::Transient(wish));
                state.handle(now, Event::Ended { fetch, failure });
                if let Some(deadline) = state.deadline() {
                    pauses.push(deadline - now);
                }
            }
            Some(Action::Fail(why)) => break why,
            Some(_) => {}
            None => {
                now = state.deadline().unwrap();
                state.handle(now, Event::Tick);
            }
        }
    };
    assert_eq!(gave_up, GaveUp::Fetch { chunk: ChunkIndex::FIRST, mirror: MirrorIndex::FIRST });
    assert_eq!(pauses.len(), 5, "five failures are waited out, the sixth ends it");
    for (n, pause) in pauses.iter().enumerate() {
        let full = Duration::from_millis(100 << n);
        assert!(*pause == wish || (*pause >= full / 2 && *pause <= full), "{n}: {pause:?}");
    }
    assert_eq!(pauses[2], wish);
}

/// A request at an origin with a pace.
struct Paced {
    chunks: Vec<ChunkIndex>,
    granted: usize,
    at: usize,
    ready: Duration,
    answered: bool,
    came: f64,
    /// Bytes that the state was told of.
    told: u64,
    cancelled: bool,
}

/// An origin that gives each connection so many MB a second, and all of them so many, each answer so much later.
struct Origin {
    each: f64,
    all: f64,
    delay: Duration,
    now: Duration,
    running: BTreeMap<(usize, FetchId), Paced>,
}

impl Origin {
    fn new(each: f64, all: f64, delay: Duration) -> Self {
        Self { each, all, delay, now: Duration::ZERO, running: BTreeMap::new() }
    }

    /// Does what a load wants done, which began at `began`.
    fn act(&mut self, load: usize, state: &mut Scheduler, began: Duration) {
        while let Some(action) = state.poll_action() {
            match action {
                Action::Start { fetch, chunks, .. } => {
                    let paced = Paced {
                        chunks,
                        granted: 0,
                        at: 0,
                        ready: self.now + self.delay,
                        answered: false,
                        came: 0.0,
                        told: 0,
                        cancelled: false,
                    };
                    self.running.insert((load, fetch), paced);
                }
                Action::Grant { fetch, count } => {
                    self.running.get_mut(&(load, fetch)).unwrap().granted += count;
                }
                Action::Cancel { fetch } => {
                    self.running.get_mut(&(load, fetch)).unwrap().cancelled = true;
                }
                Action::Deliver { delivery } => {
                    state.handle(self.now - began, Event::Taken { delivery });
                    state.handle(self.now - began, Event::Released { delivery });
                }
                Action::Fail(why) => panic!("{why:?}"),
                _ => {}
            }
        }
    }

    /// A thousandth of a second passes.
    fn step(&mut self, loads: &mut BTreeMap<usize, (Scheduler, Duration)>) {
        let step = Duration::from_millis(1);
        self.now += step;
        let now = self.now;
        let open = |paced: &Paced| paced.ready <= now && paced.at < paced.granted;
        let busy = self.running.values().filter(|paced| open(paced)).count();
        let own = self.each.min(self.all / busy.max(1) as f64) * PER_MB * step.as_secs_f64();
        for key in self.running.keys().copied().collect::<Vec<_>>() {
            let (paced, id) = (self.running.get_mut(&key).unwrap(), key.1);
            let Some((state, began)) = loads.get_mut(&key.0) else { continue };
            let now = now - *began;
            if paced.ready <= self.now && !std::mem::replace(&mut paced.answered, true) {
                state.handle(now, Event::Answered { fetch: id });
            }
            if open(paced) {
                paced.came += own;
            }
            let bytes = (paced.came * f64::from(LEN)) as u64;
            state.handle(now, Event::Bytes { fetch: id, count: bytes - paced.told });
            paced.told = bytes;
            while paced.came >= (paced.at + 1) as f64
                && paced.at < paced.granted
                && !paced.cancelled
            {
                paced.at += 1;
                let chunk = paced.chunks[paced.at - 1];
                state.handle(now, Event::Verified { fetch: id, chunk });
            }
            if paced.cancelled || paced.at == paced.chunks.len() {
                self.running.remove(&key);
                state.handle(now, Event::Ended { fetch: id, failure: None });
            }
        }
        for (state, began) in loads.values_mut() {
            if state.deadline().is_some_and(|at| at <= now - *began) {
                state.handle(now - *began, Event::Tick);
            }
        }
    }
}

/// `packs` of so many chunks in deliveries of `delivery`, each chunk of [`LEN`] bytes.
fn large(packs: usize, chunks: usize, delivery: u32) -> Plan {
    let mut plan = plan(&vec![delivery; packs * chunks / delivery as usize], chunks, 1, false);
    plan.fetches.iter_mut().for_each(|fetch| fetch.whole = true);
    plan.chunks.iter_mut().for_each(|chunk| chunk.len = LEN);
    plan.deliveries.iter_mut().for_each(|delivery| delivery.range.end *= u64::from(LEN) / 10);
    plan
}

/// What is known before of an origin whose answers take so long.
fn way(delay: Duration) -> Way {
    let mut way = Way::default();
    way.took(0, delay);
    way
}

fn paced_limits(delay: Duration) -> Limits {
    Limits {
        budget: 64_000_000,
        most_budget: 160_000_000,
        connections: way(delay).requests().unwrap_or(4),
        most_connections: 128,
        least_fetch: 1_000_000,
        on_the_way: way(delay).on_the_way(),
        ..Limits::default()
    }
}

/// A load of 1,024 MB, 64 to a pack. How long it takes, and how many requests go on at a time, on average.
fn paced(each: f64, all: f64, delay: Duration) -> (Duration, usize) {
    let state = Scheduler::new(&large(16, 128, 16), paced_limits(delay));
    let mut origin = Origin::new(each, all, delay);
    let mut loads = BTreeMap::from([(0, (state, Duration::ZERO))]);
    let (mut sum, mut steps) = (0, 0);
    loop {
        let (state, began) = loads.get_mut(&0).unwrap();
        origin.act(0, state, *began);
        if state.is_complete() {
            return (origin.now, sum / steps);
        }
        origin.step(&mut loads);
        (sum, steps) = (sum + origin.running.len(), steps + 1);
    }
}

/// 128 loads of 8 MB, of which `wanted` are wanted at a time, at one level. How long they take, and the most
/// requests that went on.
fn shared(wanted: usize, each: f64, all: f64, delay: Duration) -> (Duration, usize) {
    let first = paced_limits(delay).connections;
    let level = SharedLevel::new(first, 128, u64::MAX, 1, || {}).expecting(way(delay).on_the_way());
    let (plan, mut origin) = (large(1, 16, 2), Origin::new(each, all, delay));
    let mut loads = BTreeMap::new();
    let (mut next, mut most) = (0, 0);
    loop {
        while next < 128
            && loads.len() < wanted
            && let Some(place) = level.join(origin.now)
        {
            let state = Scheduler::sharing(&plan, paced_limits(delay), place);
            loads.insert(next, (state, origin.now));
            next += 1;
            let (state, began) = loads.get_mut(&(next - 1)).unwrap();
            origin.act(next - 1, state, *began);
        }
        if loads.is_empty() && next == 128 {
            return (origin.now, most);
        }
        most = most.max(origin.running.len());
        origin.step(&mut loads);
        loads.retain(|&load, (state, began)| {
            origin.act(load, state, *began);
            !state.is_complete()
        });
    }
}

/// What is little is asked for at once, in parts of which each comes soon.
#[test]
fn a_short_load_from_afar_takes_one_round() {
    let delay = Duration::from_millis(150);
    let state = Scheduler::new(&large(1, 128, 16), paced_limits(delay));
    let mut origin = Origin::new(20.0, 1500.0, delay);
    let mut loads = BTreeMap::from([(0, (state, Duration::ZERO))]);
    while !loads[&0].0.is_complete() {
        let (state, began) = loads.get_mut(&0).unwrap();
        origin.act(0, state, *began);
        origin.step(&mut loads);
    }
    let took = origin.now;
    // 1 MB each, on 64 connections.
    assert!(took < delay + Duration::from_millis(60), "{took:?}");
}

/// Many short loads are as fast as one long one, and have no more connections than one may have.
#[test]
fn loads_that_share_a_level_take_what_one_would() {
    for (wanted, each, all, delay, part) in [
        (128, 20.0, 1500.0, 0, 0.85),
        (16, 20.0, 1500.0, 0, 0.85),
        (128, 20.0, 1500.0, 50, 0.7),
        (128, 80.0, 1500.0, 0, 0.8),
        (128, 5.0, 1500.0, 10, 1.0),
        (16, 1500.0, 1500.0, 0, 0.9),
        (128, 20.0, 100.0, 10, 0.9),
    ] {
        let (took, most) = shared(wanted, each, all, Duration::from_millis(delay));
        let counted = 1024.0 / (64.0 * each).min(all) + delay as f64 / 1e3;
        let what = format!("{wanted}: {each} {all} {delay} ms: {took:?} of {counted:.3} s, {most}");
        assert!(most <= 128 + 8, "{what}");
        assert!(counted / took.as_secs_f64() >= part, "{what}");
    }
}

/// Where each connection is slow, there are many of them; where one takes all there is, there are few. Times are told as
/// parts of what 64 connections take, and the first answer.
#[test]
fn a_load_takes_as_many_connections_as_make_it_faster() {
    for (each, all, delay, least, most, part) in [
        (20.0, 1500.0, 0, 40, 128, 1.0),
        (20.0, 1500.0, 10, 40, 128, 1.0),
        (20.0, 1500.0, 50, 40, 128, 0.95),
        (20.0, 1500.0, 150, 40, 128, 0.82),
        (80.0, 1500.0, 0, 4, 128, 0.9),
        (80.0, 1500.0, 50, 4, 128, 0.92),
        (80.0, 1500.0, 150, 4, 128, 0.84),
        (5.0, 1500.0, 10, 60, 128, 1.5),
        (5.0, 1500.0, 150, 60, 128, 1.0),
        (1500.0, 1500.0, 0, 1, 20, 0.95),
        (1500.0, 1500.0, 50, 4, 128, 0.92),
        (20.0, 100.0, 10, 4, 45, 0.9),
    ] {
        let (took, connections) = paced(each, all, Duration::from_millis(delay));
        let counted = 1024.0 / (64.0 * each).min(all) + delay as f64 / 1e3;
        let what = format!("{each} {all} {delay} ms: {took:?} of {counted:.3} s, {connections}");
        assert!((least..=most).contains(&connections), "{what}");
        assert!(counted / took.as_secs_f64() >= part, "{what}");
    }
}
