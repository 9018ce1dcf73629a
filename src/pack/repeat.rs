//! Chunks that were placed before, and come again: written again, or linked. Pure.
//!
//! A link to another place parts what is read together: a load of it asks once more there and once more
//! behind. So chunks are linked only where many bytes of them come again in a row, in the order of their
//! places, and a shorter repetition is written again.

use crate::format::id::PackId;

/// Repetitions are linked from this many bytes on. A round trip of 10 to 30 ms costs a connection of 20 MB/s
/// as many, and faster ones more; what a model repeats again and again (scalars, masks, tables of angles) has
/// fewer.
pub(crate) const MIN_LINK: u64 = 256 << 10;

/// A pack that chunks were placed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    /// One that is being written: these have no name before they are full.
    New(u32),
    /// One of the store.
    Old(PackId),
}

/// Where a chunk was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) pack: Pack,
    pub(crate) offset: u32,
}

/// What becomes of a chunk that comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is written again.
    Write,
    /// It is linked, and so are those before it, the last that were written: here is where they were placed.
    Link(Vec<Spot>),
}

/// The repetition that is going on.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    run: Option<Run>,
    /// Where those of its chunks were placed that were written again and may be taken back.
    written: Vec<Spot>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// Where the next chunk of it was placed.
    next: Spot,
    bytes: u64,
}

impl Run {
    /// A pack that is full goes on in another.
    fn goes_on(&self, at: Spot) -> bool {
        let another = match (self.next.pack, at.pack) {
            (Pack::Old(this), Pack::Old(next)) => this != next,
            (Pack::New(this), Pack::New(next)) => this.checked_add(1) == Some(next),
            _ => false,
        };
        self.next == at || (another && at.offset == 0)
    }
}

impl Repeats {
    /// A chunk of `len` bytes comes again, which was placed at `at`.
    pub(crate) fn again(&mut self, at: Spot, len: u32) -> Verdict {
        let before = self.run.filter(|run| run.goes_on(at));
        if before.is_none() {
            self.written.clear();
        }
        let bytes = before.map_or(0, |run| run.bytes) + u64::from(len);
        let next = Spot { offset: at.offset.saturating_add(len), ..at };
        self.run = Some(Run { next, bytes });
        if bytes < MIN_LINK {
            self.written.push(at);
            return Verdict::Write;
        }
        Verdict::Link(std::mem::take(&mut self.written))
    }

    /// A chunk is linked however short it is; what goes on behind it is linked too.
    pub(crate) fn link(&mut self, at: Spot, len: u32) {
        let next = Spot { offset: at.offset.saturating_add(len), ..at };
        self.run = Some(Run { next, bytes: MIN_LINK });
        self.written.clear();
    }

    /// Another chunk comes: the repetition is over.
    pub(crate) fn end(&mut self) {
        self.run = None;
    }

    /// What was written cannot be taken back any more.
    pub(crate) fn seal(&mut self) {
        self.written.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;

    fn spot(offset: u32) -> Spot {
        Spot { pack: Pack::New(0), offset }
    }

    #[test]
    fn scalars_are_written_again_however_many_come() {
        let mut repeats = Repeats::default();
        // Two in turn, as scales lie beside each other, each placed somewhere.
        for n in 0..200_000_u32 {
            assert_eq!(repeats.again(spot(n % 7 * 100), 4), Verdict::Write);
            if n % 2 == 0 {
                repeats.end();
            }
        }
    }

    #[test]
    fn a_long_repetition_is_linked_from_its_start() {
        let mut repeats = Repeats::default();
        let at = |n: u32| spot(n * 100 * KIB);
        let again = |repeats: &mut Repeats, n: u32| repeats.again(at(n), 100 * KIB);
        assert_eq!(again(&mut repeats, 0), Verdict::Write);
        assert_eq!(again(&mut repeats, 1), Verdict::Write);
        assert_eq!(again(&mut repeats, 2), Verdict::Link(vec![at(0), at(1)]));
        assert_eq!(again(&mut repeats, 3), Verdict::Link(vec![]));
        // At another place begins another one.
        assert_eq!(again(&mut repeats, 9), Verdict::Write);
        repeats.seal();
        assert_eq!(again(&mut repeats, 10), Verdict::Write);
        let linked = Verdict::Link(vec![at(10)]);
        assert_eq!(again(&mut repeats, 11), linked, "what lies in a full pack stays");
        repeats.end();
        assert_eq!(again(&mut repeats, 12), Verdict::Write);
    }

    #[test]
    fn what_lies_behind_a_link_is_linked() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.again(spot(0), KIB), Verdict::Write);
        repeats.link(spot(KIB), KIB);
        assert_eq!(
            repeats.again(spot(2 * KIB), 4),
            Verdict::Link(vec![]),
            "what was written stays"
        );
        assert_eq!(repeats.again(spot(9 * KIB), 4), Verdict::Write);
    }

    #[test]
    fn a_large_chunk_is_linked_alone() {
        assert_eq!(Repeats::default().again(spot(7), 256 * KIB), Verdict::Link(vec![]));
        assert_eq!(Repeats::default().again(spot(7), 256 * KIB - 1), Verdict::Write);
    }

    #[test]
    fn a_repetition_goes_on_in_the_next_pack() {
        let next = |pack| Spot { pack, offset: 0 };
        let old = |name: &[u8]| Pack::Old(PackId::of(name));
        for (pack, other, goes_on) in [
            (Pack::New(0), Pack::New(1), true),
            (Pack::New(0), Pack::New(2), false),
            (old(b"a"), old(b"b"), true),
            (old(b"a"), Pack::New(0), false),
        ] {
            let mut repeats = Repeats::default();
            let first = Spot { pack, offset: 50 };
            assert_eq!(repeats.again(first, 200 * KIB), Verdict::Write);
            let verdict = repeats.again(next(other), 200 * KIB);
            let linked = Verdict::Link(vec![first]);
            assert_eq!(verdict, if goes_on { linked } else { Verdict::Write }, "{pack:?}");
            let middle = Spot { pack: other, offset: 8 };
            assert_eq!(repeats.again(middle, 200 * KIB), Verdict::Write);
        }
    }
}
