//! Who reads on, and what is read ahead of them. Pure.
//!
//! The kernel asks for what a reader touches and has not got, and for nothing else. Whoever asks for the bytes
//! right behind those asked for before reads on: from there, runs are planned in the order of its tensors, as far
//! ahead as its window, which doubles whenever the reader comes to what was planned. Whoever reads here and there
//! has nothing read ahead. The plan leaves out a page now and then, so that the kernel asks and the reader's place
//! is known.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;

use super::order::Orders;

/// Bytes that are read ahead at first, of whoever reads on.
const FIRST: u64 = 1 << 20;
/// Which part of the window lies between two pages that are left out.
const PROBES: u64 = 4;
/// Readers that are followed at a time; one more takes the place of the one who was heard of longest ago.
const READERS: usize = 32;
/// Ends of reads that are remembered.
const ENDS: usize = 1024;
/// Chunks of which it is remembered that something was read.
const TOUCHED: usize = 4096;
/// Runs in one page that may each be the one a reader goes to.
const SMALL_RUNS: u32 = 8;

/// Names a reader.
pub(crate) type ReaderId = u64;

/// A run of a file that is read ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) file: u32,
    pub(crate) bytes: Range<u64>,
    /// Whether its first page is left for the kernel to ask for.
    pub(crate) probe: bool,
    /// Which plan of the reader it belongs to.
    plan: u64,
}

impl Ahead {
    /// A run that belongs to no plan.
    pub(crate) fn alone(file: u32, bytes: Range<u64>) -> Self {
        Self { file, bytes, probe: false, plan: 0 }
    }
}

/// What follows from a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Nothing,
    /// Somebody reads on, for whom nobody works at the moment: begin to read ahead.
    Begin(ReaderId),
    /// Somebody reads on; whoever works for it goes on.
    Goes(ReaderId),
    /// The chunk was read from before: hand over the rest of it.
    Chunk,
}

/// The readers of an artifact.
#[derive(Debug)]
pub(crate) struct Follow {
    orders: Orders,
    readers: Vec<Reader>,
    /// Where reads ended: the file and the byte.
    ends: VecDeque<(u32, u64)>,
    touched: LruCache<(u32, u64), ()>,
    names: ReaderId,
    clock: u64,
}

#[derive(Debug)]
struct Reader {
    id: ReaderId,
    order: usize,
    /// The run in which it was seen last.
    seen: u32,
    /// What is planned next: a run, and a byte of its file.
    run: Option<u32>,
    at: u64,
    /// What was planned and, as far as is known, not read.
    planned: VecDeque<Planned>,
    ahead: u64,
    /// Counts the plans: a reader that goes elsewhere has a new one.
    plan: u64,
    window: u64,
    /// Bytes planned since a page was left out.
    unprobed: u64,
    heard: u64,
    /// Whether somebody works for it.
    is_served: bool,
}

/// A run of a file that was planned.
#[derive(Debug)]
struct Planned {
    file: u32,
    bytes: Range<u64>,
    /// Up to where it is in the kernel's pages.
    stored: u64,
}

impl Planned {
    fn meets(&self, file: u32, bytes: &Range<u64>) -> bool {
        self.file == file && self.bytes.start < bytes.end && bytes.start < self.bytes.end
    }
}

impl Follow {
    pub(crate) fn new(orders: Orders) -> Self {
        let touched = LruCache::new(NonZeroUsize::new(TOUCHED).unwrap_or(NonZeroUsize::MIN));
        let (readers, ends) = (Vec::new(), VecDeque::new());
        Self { orders, readers, ends, touched, names: 0, clock: 0 }
    }

    /// The kernel asks for these bytes of a file, whose chunk begins at `chunk`.
    pub(crate) fn asked(&mut self, file: u32, bytes: &Range<u64>, chunk: u64, most: u64) -> Next {
        self.clock += 1;
        if bytes.is_empty() {
            return Next::Nothing;
        }
        let clock = self.clock;
        if let Some(place) = self.readers.iter().position(|reader| reader.is_at(file, bytes)) {
            let mut reader = self.readers.swap_remove(place);
            reader.consume(file, bytes, most);
            reader.heard = clock;
            if let Some(run) = self.orders.at(file, bytes.start) {
                reader.seen = run;
            }
            // Two who come to the same place are one from there on.
            self.readers.retain(|other| !other.is_at(file, bytes));
            let next = reader.go();
            self.readers.push(reader);
            return next;
        }
        if let Some(next) = self.jumped(file, bytes) {
            return next;
        }
        if let Some(place) = self.ends.iter().position(|end| *end == (file, bytes.start)) {
            self.ends.remove(place);
            return self.begin(file, bytes.end);
        }
        if self.ends.len() >= ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((file, bytes.end));
        match self.touched.put((file, chunk), ()) {
            Some(()) => Next::Chunk,
            None => Next::Nothing,
        }
    }

    /// A reader that is followed went on with another run.
    fn jumped(&mut self, file: u32, bytes: &Range<u64>) -> Option<Next> {
        let first = self.orders.at(file, bytes.start)?;
        let last = self.orders.at(file, bytes.end - 1).unwrap_or(first);
        let last = last.min(first.saturating_add(SMALL_RUNS));
        let begins = |run: &u32| {
            self.orders.spot(*run).is_some_and(|spot| bytes.contains(&spot.bytes.start))
        };
        let begun: Vec<u32> = (first..=last).filter(begins).collect();
        let mut newest: Vec<usize> = (0..self.readers.len()).collect();
        newest.sort_by_key(|at| std::cmp::Reverse(self.readers.get(*at).map(|r| r.heard)));
        for at in newest {
            let Some(reader) = self.readers.get_mut(at) else { continue };
            for run in &begun {
                // What lies behind in the file is no jump, nor is a plan that it was far from.
                let found = self.orders.that_leads(reader.order, reader.seen, *run);
                if let Some(order) = found {
                    (reader.order, reader.seen, reader.heard) = (order, *run, self.clock);
                    reader.begin(*run, bytes.end);
                    return Some(reader.go());
                }
            }
        }
        None
    }

    /// Somebody reads on from here.
    fn begin(&mut self, file: u32, at: u64) -> Next {
        let Some(run) = self.orders.at(file, at) else { return Next::Nothing };
        self.names += 1;
        let mut reader = Reader {
            id: self.names,
            order: 0,
            seen: run,
            run: None,
            at: 0,
            planned: VecDeque::new(),
            ahead: 0,
            plan: 0,
            window: FIRST,
            unprobed: 0,
            heard: self.clock,
            is_served: false,
        };
        reader.begin(run, at);
        let next = reader.go();
        if self.readers.len() >= READERS
            && let Some(oldest) = (0..self.readers.len()).min_by_key(|at| self.readers[*at].heard)
        {
            self.readers.swap_remove(oldest);
        }
        self.readers.push(reader);
        next
    }

    /// The next run to be read ahead, within the window and `most` bytes. `run_end` says where what is put together
    /// at once ends.
    pub(crate) fn take(
        &mut self,
        id: ReaderId,
        most: u64,
        run_end: impl Fn(u32, u64) -> u64,
    ) -> Option<Ahead> {
        let reader = self.readers.iter_mut().find(|reader| reader.id == id)?;
        reader.take(&self.orders, most, run_end)
    }

    /// What of a planned run is to be put into the kernel's pages: the reader may have gone past, or elsewhere.
    pub(crate) fn still_ahead(&self, id: ReaderId, ahead: &Ahead) -> Option<Range<u64>> {
        let reader =
            self.readers.iter().find(|reader| reader.id == id && reader.plan == ahead.plan)?;
        let own = reader.planned.iter().find(|planned| planned.meets(ahead.file, &ahead.bytes))?;
        let start = own.bytes.start.max(own.stored).max(ahead.bytes.start);
        let end = own.bytes.end.min(ahead.bytes.end);
        (start < end).then_some(start..end)
    }

    /// These bytes are in the kernel's pages now. False if they were before, or nobody reads on there.
    pub(crate) fn stored(&mut self, id: ReaderId, file: u32, bytes: &Range<u64>) -> bool {
        let Some(reader) = self.readers.iter_mut().find(|reader| reader.id == id) else {
            return false;
        };
        if reader.planned.is_empty() && reader.at == bytes.start {
            // Nothing is planned yet: it goes on behind them.
            reader.at = bytes.end;
            return true;
        }
        let own = reader.planned.iter_mut().find(|planned| planned.meets(file, bytes));
        match own {
            Some(planned) if planned.stored < bytes.end => {
                let is_new = planned.stored <= bytes.start;
                planned.stored = bytes.end;
                is_new
            }
            _ => false,
        }
    }

    /// Whoever works for the reader ends, unless there is more to be taken.
    pub(crate) fn rest(&mut self, id: ReaderId, most: u64) -> bool {
        let Some(reader) = self.readers.iter_mut().find(|reader| reader.id == id) else {
            return true;
        };
        reader.is_served = reader.ahead < reader.limit(most) && reader.run.is_some();
        !reader.is_served
    }

    /// Nobody works for the reader any more, and nothing more is read ahead of it.
    pub(crate) fn drop_reader(&mut self, id: ReaderId) {
        self.readers.retain(|reader| reader.id != id);
    }
}

impl Reader {
    fn begin(&mut self, run: u32, at: u64) {
        (self.run, self.at) = (Some(run), at);
        self.planned.clear();
        (self.ahead, self.unprobed) = (0, 0);
        self.plan += 1;
    }

    fn limit(&self, most: u64) -> u64 {
        self.window.min(most.max(FIRST))
    }

    fn go(&mut self) -> Next {
        match std::mem::replace(&mut self.is_served, true) {
            true => Next::Goes(self.id),
            false => Next::Begin(self.id),
        }
    }

    /// Whether it may be the one who asks: what is asked for was planned, or is planned next.
    fn is_at(&self, file: u32, bytes: &Range<u64>) -> bool {
        self.planned.iter().any(|planned| planned.meets(file, bytes))
    }

    /// What was planned up to here was read.
    fn consume(&mut self, file: u32, bytes: &Range<u64>, most: u64) {
        self.window = (self.window * 2).min(most.max(FIRST));
        while let Some(planned) = self.planned.front_mut() {
            let len = planned.bytes.end - planned.bytes.start;
            let is_here = planned.meets(file, bytes);
            if is_here && bytes.end < planned.bytes.end {
                let read = bytes.end.saturating_sub(planned.bytes.start);
                planned.bytes.start += read;
                self.ahead -= read;
                return;
            }
            self.ahead -= len;
            self.planned.pop_front();
            if is_here {
                return;
            }
        }
    }

    fn take(
        &mut self,
        orders: &Orders,
        most: u64,
        run_end: impl Fn(u32, u64) -> u64,
    ) -> Option<Ahead> {
        let window = self.limit(most);
        if self.ahead >= window {
            return None;
        }
        loop {
            let run = self.run?;
            let spot = orders.spot(run)?;
            if self.at >= spot.bytes.end {
                self.run = orders.next(self.order, run);
                self.at = self.run.and_then(|run| orders.spot(run)).map_or(0, |s| s.bytes.start);
                continue;
            }
            let end = run_end(spot.file, self.at).clamp(self.at + 1, spot.bytes.end);
            let bytes = self.at..end;
            self.at = end;
            let len = end - bytes.start;
            self.ahead += len;
            self.unprobed += len;
            let probe = self.unprobed >= window / PROBES;
            if probe {
                self.unprobed = 0;
            }
            match self.planned.back_mut() {
                Some((file, last)) if *file == spot.file && last.end == bytes.start => {
                    last.end = end
                }
                _ => self.planned.push_back((spot.file, bytes.clone())),
            }
            return Some(Ahead { file: spot.file, bytes, probe, plan: self.plan });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;
    const CHUNK: u64 = 512 << 10;
    const MOST: u64 = 32 << 20;

    fn run_end(_: u32, at: u64) -> u64 {
        at / CHUNK * CHUNK + CHUNK
    }

    /// Files of runs of so many bytes, each named.
    fn follow(files: &[&[(u64, &str)]]) -> Follow {
        let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(*name))));
        Follow::new(Orders::new(runs))
    }

    fn ask(follow: &mut Follow, file: u32, page: u64) -> Next {
        let at = page * PAGE;
        follow.asked(file, &(at..at + PAGE), at / CHUNK * CHUNK, MOST)
    }

    fn take_all(follow: &mut Follow, id: ReaderId) -> Vec<Ahead> {
        let all = std::iter::from_fn(|| follow.take(id, MOST, run_end)).collect();
        assert!(follow.rest(id, MOST));
        all
    }

    fn bytes(ahead: &[Ahead]) -> u64 {
        ahead.iter().map(|ahead| ahead.bytes.end - ahead.bytes.start).sum()
    }

    #[test]
    fn whoever_reads_on_is_read_ahead_of_and_further_each_time() {
        let mut follow = follow(&[&[(1 << 30, "w")]]);
        assert_eq!(ask(&mut follow, 0, 0), Next::Nothing);
        assert_eq!(ask(&mut follow, 0, 1), Next::Begin(1));
        let first = take_all(&mut follow, 1);
        assert_eq!(
            (first[0].bytes.start, first.last().unwrap().bytes.end),
            (2 * PAGE, FIRST + CHUNK)
        );
        // It comes to a page that was left out; nobody worked for it any more.
        let probe = first.iter().find(|ahead| ahead.probe).unwrap().bytes.start;
        assert_eq!(ask(&mut follow, 0, probe / PAGE), Next::Begin(1));
        let second = take_all(&mut follow, 1);
        assert_eq!(second[0].bytes.start, FIRST + CHUNK, "it goes on where it was");
        assert!(bytes(&second) > FIRST / 2);
        let mut at = second.last().unwrap().bytes.end;
        for _ in 0..10 {
            assert!(matches!(ask(&mut follow, 0, at / PAGE - 1), Next::Begin(1)));
            at = take_all(&mut follow, 1).last().unwrap().bytes.end;
        }
        let window = bytes(&{
            ask(&mut follow, 0, at / PAGE - 1);
            take_all(&mut follow, 1)
        });
        assert!((MOST..MOST + CHUNK).contains(&window), "{window}");
    }

    #[test]
    fn whoever_reads_here_and_there_is_not_followed() {
        let mut follow = follow(&[&[(1 << 30, "w")]]);
        for page in (0..200_000).step_by(257) {
            assert_eq!(ask(&mut follow, 0, page), Next::Nothing);
        }
        // A second page of a chunk brings the rest of the chunk, and no more.
        assert_eq!(ask(&mut follow, 0, 257 * 777 + 2), Next::Chunk);
        assert!(follow.readers.is_empty());
    }

    #[test]
    fn the_order_of_tensors_is_followed() {
        // By number: 0, 1, 2, 10; as they lie: 0, 1, 10, 2.
        let tensor = 2 * CHUNK;
        let mut follow = follow(&[
            &[(4 * CHUNK, ""), (tensor, "l.0"), (tensor, "l.1"), (tensor, "l.10"), (tensor, "l.2")],
            &[(tensor, "l.11")],
        ]);
        let start = |number: u64| (4 * CHUNK + number * tensor) / PAGE;
        ask(&mut follow, 0, start(1));
        assert_eq!(ask(&mut follow, 0, start(1) + 1), Next::Begin(1));
        let ahead = take_all(&mut follow, 1);
        assert!(ahead.iter().any(|a| a.bytes.start == start(2) * PAGE), "as they lie");
        // It goes to l.2 instead.
        assert_eq!(ask(&mut follow, 0, start(3)), Next::Begin(1));
        let ahead = take_all(&mut follow, 1);
        assert_eq!(ahead[0].bytes.start, start(3) * PAGE + PAGE);
        assert!(ahead.iter().any(|a| a.bytes.start == start(2) * PAGE), "l.10 follows l.2");
        assert!(ahead.iter().all(|a| a.file == 0));
        // Then what comes next, in the next file.
        assert!(matches!(ask(&mut follow, 0, start(2) + 3), Next::Begin(1)));
        let ahead = take_all(&mut follow, 1);
        assert!(ahead.iter().any(|a| a.file == 1), "{ahead:?}");
    }

    #[test]
    fn what_the_reader_went_past_is_not_ahead_of_it() {
        let mut follow = follow(&[&[(1 << 30, "a"), (1 << 30, "b"), (1 << 30, "c")]]);
        (ask(&mut follow, 0, 0), ask(&mut follow, 0, 1));
        let ahead = take_all(&mut follow, 1);
        assert_eq!(follow.still_ahead(1, &ahead[0]), Some(2 * PAGE..CHUNK));
        ask(&mut follow, 0, 9);
        assert_eq!(follow.still_ahead(1, &ahead[0]), Some(10 * PAGE..CHUNK));
        ask(&mut follow, 0, CHUNK / PAGE);
        assert_eq!(follow.still_ahead(1, &ahead[0]), None);
        assert_eq!(follow.still_ahead(1, &ahead[1]), Some(CHUNK + PAGE..2 * CHUNK));
        // What is there is not put there again.
        assert!(follow.stored(1, 0, &(CHUNK + PAGE..CHUNK + 9 * PAGE)));
        assert!(!follow.stored(1, 0, &(CHUNK + PAGE..CHUNK + 9 * PAGE)));
        assert_eq!(follow.still_ahead(1, &ahead[1]), Some(CHUNK + 9 * PAGE..2 * CHUNK));
        // It goes on with the next tensor: what was planned in this one is of no use.
        ask(&mut follow, 0, (1 << 30) / PAGE);
        assert_eq!(follow.still_ahead(1, &ahead[1]), None);
        // Two who come to the same place are one.
        let begun = 5 * CHUNK / PAGE;
        (ask(&mut follow, 0, begun), ask(&mut follow, 0, begun + 1));
        take_all(&mut follow, 2);
        let bytes = (begun + 2) * PAGE..6 * CHUNK;
        follow.readers[0].ahead += bytes.end - bytes.start;
        follow.readers[0].planned.push_back(Planned { file: 0, stored: bytes.start, bytes });
        ask(&mut follow, 0, begun + 2);
        assert_eq!(follow.readers.len(), 1);
    }

    #[test]
    fn each_of_many_readers_is_followed_and_their_number_is_bounded() {
        let mut follow = follow(&[&[(1 << 40, "w")]]);
        let (gap, many) = ((1 << 32) / PAGE, 100);
        for reader in 0..many {
            ask(&mut follow, 0, reader * gap);
        }
        for reader in 0..many {
            assert_eq!(ask(&mut follow, 0, reader * gap + 1), Next::Begin(reader + 1));
        }
        assert_eq!(follow.readers.len(), READERS);
        assert!(follow.take(1, MOST, run_end).is_none(), "it was forgotten");
        assert!(follow.take(many, MOST, run_end).is_some());
    }

    proptest! {
        /// Whatever is asked, what lies ahead of a reader is counted right, bounded, and planned once.
        #[test]
        fn counts_hold(
            files in prop::collection::vec(prop::collection::vec((1..4_000_000_u64, "[a-c][0-9]{1,2}"), 1..6), 1..3),
            steps in prop::collection::vec((0..3_u32, 0..3000_u64, 0..3_u8), 1..200),
        ) {
            let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(name.as_str()))));
            let mut follow = Follow::new(Orders::new(runs));
            let (mut file, mut page) = (0, 0);
            for (other, jump, kind) in steps {
                match kind {
                    0 => (file, page) = (other, jump),
                    _ => page += 1,
                }
                if let Next::Begin(id) | Next::Goes(id) = ask(&mut follow, file, page) {
                    let ahead = take_all(&mut follow, id);
                    for one in ahead {
                        prop_assert!(one.bytes.start < one.bytes.end);
                        prop_assert!(follow.orders.at(one.file, one.bytes.end - 1).is_some());
                    }
                }
                for reader in &follow.readers {
                    let sum: u64 = reader.planned.iter().map(|p| p.bytes.end - p.bytes.start).sum();
                    prop_assert_eq!(sum, reader.ahead);
                    prop_assert!(reader.ahead <= reader.window.max(FIRST) + CHUNK);
                }
            }
        }
    }
}
