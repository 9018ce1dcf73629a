//! Which of several sources to ask: the one with the least to do, never one that was given up.

/// How many mirrors one load can use: their sets are bits of a word.
pub const MAX_MIRRORS: usize = 64;
/// Damaged chunks from one mirror after which it is given up.
const LIES: u32 = 3;
/// Failures in a row after which it is given up.
const FAILURES: u32 = 4;

/// One of the sources of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorIndex(u8);

impl MirrorIndex {
    /// The first choice.
    pub const FIRST: Self = Self(0);

    /// Its place in the list of sources.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn bit(self) -> u64 {
        1 << self.0
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Mirror {
    lies: u32,
    failures: u32,
    dropped: bool,
}

#[derive(Debug)]
pub(super) struct Mirrors(Vec<Mirror>);

impl Mirrors {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![Mirror::default(); count.clamp(1, MAX_MIRRORS)])
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.iter().filter(|mirror| mirror.dropped).count() as u64
    }

    pub(super) fn worked(&mut self, mirror: MirrorIndex) {
        if let Some(mirror) = self.0.get_mut(mirror.get()) {
            mirror.failures = 0;
        }
    }

    pub(super) fn failed(&mut self, mirror: MirrorIndex) {
        if let Some(state) = self.0.get_mut(mirror.get()) {
            state.failures += 1;
            if state.failures >= FAILURES {
                self.drop(mirror);
            }
        }
    }

    pub(super) fn lied(&mut self, mirror: MirrorIndex) {
        if let Some(state) = self.0.get_mut(mirror.get()) {
            state.lies += 1;
            if state.lies >= LIES {
                self.drop(mirror);
            }
        }
    }

    /// Gives a mirror up, unless it is the last.
    fn drop(&mut self, mirror: MirrorIndex) {
        if self.usable(mirror.bit()) != 0
            && let Some(state) = self.0.get_mut(mirror.get())
        {
            state.dropped = true;
        }
    }

    /// The mirrors in use, without `excluded`, as bits.
    pub(super) fn usable(&self, excluded: u64) -> u64 {
        let all = self.all().filter(|(_, state)| !state.dropped);
        all.fold(0, |bits, (mirror, _)| bits | mirror.bit()) & !excluded
    }

    fn all(&self) -> impl Iterator<Item = (MirrorIndex, &Mirror)> {
        (0..).map(MirrorIndex).zip(&self.0)
    }

    /// The least loaded mirror outside `avoid`, or inside it if there is no other; never one of
    /// `excluded`, except that a given-up mirror beats none at all.
    pub(super) fn choose(
        &self,
        avoid: u64,
        excluded: u64,
        load: impl Fn(MirrorIndex) -> usize,
    ) -> Option<MirrorIndex> {
        let usable = self.usable(excluded);
        let all = self.all().fold(0, |bits, (mirror, _)| bits | mirror.bit()) & !excluded;
        let set = [usable & !avoid, usable, all].into_iter().find(|&set| set != 0)?;
        let members = self.all().map(|(mirror, _)| mirror).filter(|m| set & m.bit() != 0);
        members.min_by_key(|&mirror| (load(mirror), mirror))
    }
}
