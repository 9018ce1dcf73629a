//! Who reads on, and what is read ahead of them. Pure.
//!
//! The kernel asks for what a reader touches and has not got, and for nothing else. Whoever asks for the bytes
//! right behind those asked for before, or behind those that the kernel has, reads on: from there, runs are planned in
//! the order of its tensors, as far ahead as its window, which doubles whenever the reader comes to what was planned;
//! what the kernel has is not planned again. Whoever reads here and there has nothing read ahead. Whoever goes from
//! tensor to tensor and leaves out their ends, as those do who look at each before they read it, has the beginnings
//! of tensors read ahead. The plan leaves out a page now and then, so that the kernel asks and the reader's place is
//! known.

use std::collections::VecDeque;
use std::ops::Range;

use super::held::Held;
use super::order::{Orders, Spot};

/// Bytes that are read ahead at first, of whoever reads on.
const FIRST: u64 = 1 << 20;
/// Which part of the window lies between two pages that are left out.
const PROBES: u64 = 4;
/// Readers that are followed at a time; one more takes the place of the one who was heard of longest ago.
const READERS: usize = 32;
/// Ends of reads that are remembered.
const ENDS: usize = 1024;
/// Tensors begin within pages.
const PAGE: u64 = 4096;
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
}

/// The readers of an artifact.
#[derive(Debug)]
pub(crate) struct Follow {
    orders: Orders,
    readers: Vec<Reader>,
    /// Where reads ended: the file and the byte.
    ends: VecDeque<(u32, u64)>,
    names: ReaderId,
    clock: u64,
}

#[derive(Debug)]
struct Reader {
    id: ReaderId,
    order: usize,
    /// The run in which it was seen last, and how far in it: the end of what it asked for there.
    seen: u32,
    far: u64,
    /// How much of each run is planned, if it leaves out their ends.
    reach: Option<u64>,
    /// What is planned next: a run, and a byte of its file.
    run: Option<u32>,
    at: u64,
    /// What was planned and, as far as is known, not read.
    planned: VecDeque<Planned>,
    ahead: u64,
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
}

impl Planned {
    fn meets(&self, file: u32, bytes: &Range<u64>) -> bool {
        self.file == file && self.bytes.start < bytes.end && bytes.start < self.bytes.end
    }
}

impl Follow {
    pub(crate) fn new(orders: Orders) -> Self {
        Self { orders, readers: Vec::new(), ends: VecDeque::new(), names: 0, clock: 0 }
    }

    /// The kernel asks for these bytes of a file, and has what is `held`.
    pub(crate) fn asked(&mut self, file: u32, bytes: &Range<u64>, most: u64, held: &Held) -> Next {
        self.clock += 1;
        if bytes.is_empty() {
            return Next::Nothing;
        }
        if let Some(place) = self.readers.iter().position(|reader| reader.is_at(file, bytes)) {
            let mut reader = self.readers.swap_remove(place);
            reader.consume(file, bytes, most);
            reader.heard = self.clock;
            if let Some(run) = self.orders.at(file, bytes.end - 1) {
                reader.see(&self.orders, run, file, bytes, held);
            }
            // Two who come to the same place are one from there on.
            self.readers.retain(|other| !other.is_at(file, bytes));
            let next = reader.go();
            self.readers.push(reader);
            return next;
        }
        if let Some(next) = self.jumped(file, bytes, held) {
            return next;
        }
        let before = bytes.start.saturating_sub(1)..bytes.start;
        let place = self.ends.iter().position(|end| *end == (file, bytes.start));
        if let Some(place) = place {
            self.ends.remove(place);
        }
        if place.is_some() || (!before.is_empty() && held.gap(file, &before).is_none()) {
            return self.begin(file, bytes.end);
        }
        if self.ends.len() >= ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((file, bytes.end));
        Next::Nothing
    }

    /// A reader that is followed went on with another run.
    fn jumped(&mut self, file: u32, bytes: &Range<u64>, held: &Held) -> Option<Next> {
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
                    (reader.order, reader.heard) = (order, self.clock);
                    reader.see(&self.orders, *run, file, bytes, held);
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
            far: at,
            reach: None,
            run: None,
            at: 0,
            planned: VecDeque::new(),
            ahead: 0,
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

    /// The next run to be read ahead, within the window and `most` bytes, of what is not `held`. `run` says where what is
    /// fetched with a byte begins, and where what is put together at once with it ends.
    pub(crate) fn take(
        &mut self,
        id: ReaderId,
        most: u64,
        held: &Held,
        run: impl Fn(u32, u64) -> Range<u64>,
    ) -> Option<Ahead> {
        let reader = self.readers.iter_mut().find(|reader| reader.id == id)?;
        reader.take(&self.orders, most, held, run)
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
    }

    /// It asks for bytes of a run, up to their end. Where it came to the run's beginning from another one whose end it
    /// cannot have read, since the kernel has not got that, it leaves out what follows as much.
    fn see(&mut self, orders: &Orders, run: u32, file: u32, bytes: &Range<u64>, held: &Held) {
        if run == self.seen {
            self.far = self.far.max(bytes.end);
            return;
        }
        let is_begun = orders.spot(run).is_some_and(|spot| bytes.contains(&spot.bytes.start));
        if let Some(Spot { file: own, bytes: left }) = orders.spot(self.seen)
            && is_begun
        {
            // The page that is asked for may begin with the last of them.
            let ends_here = *own == file && (left.start..left.end).contains(&bytes.start);
            let end = if ends_here { bytes.start } else { left.end };
            let reach = self.far.saturating_sub(left.start).max(1);
            // What is as short says nothing.
            if left.end - left.start > self.reach.unwrap_or(0) {
                let rest = self.far.clamp(left.start, end)..end;
                self.reach = held.gap(*own, &rest).map(|_| reach);
            }
        }
        (self.seen, self.far) = (run, bytes.end);
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
        held: &Held,
        bounds: impl Fn(u32, u64) -> Range<u64>,
    ) -> Option<Ahead> {
        let window = self.limit(most);
        if self.ahead >= window {
            return None;
        }
        loop {
            let run = self.run?;
            let spot = orders.spot(run)?;
            let reach = spot.bytes.start.saturating_add(self.reach.unwrap_or(u64::MAX));
            let wanted = self.at..reach.min(spot.bytes.end).max(self.at);
            let Some(gap) = held.gap(spot.file, &wanted) else {
                self.run = orders.next(self.order, run);
                let next = orders.spot(self.run?)?;
                self.at = next.bytes.start;
                let page = self.at / PAGE * PAGE;
                // What is asked for is a whole page; the plan has left out what its first bytes are fetched with.
                if self.reach.is_some() && held.gap(next.file, &(page..self.at)).is_some() {
                    self.at = bounds(next.file, page).start;
                }
                continue;
            };
            let end = bounds(spot.file, gap.start).end.clamp(gap.start + 1, spot.bytes.end);
            let bytes = gap.start..end;
            self.at = end;
            let len = end - bytes.start;
            self.ahead += len;
            self.unprobed += len;
            let probe = self.unprobed >= window / PROBES;
            if probe {
                self.unprobed = 0;
            }
            match self.planned.back_mut() {
                Some(last) if last.file == spot.file && last.bytes.end == bytes.start => {
                    last.bytes.end = end;
                }
                _ => self.planned.push_back(Planned { file: spot.file, bytes: bytes.clone() }),
            }
            return Some(Ahead { file: spot.file, bytes, probe });
        }
    }
}

#[cfg(test)]
mod tests;
