//! Which bytes of a file the kernel has in its pages, as far as is known. Pure.
//!
//! What it was given is taken to be there until it asks for it again: it may let pages go whenever it likes, and then
//! those near them are likely gone, too. So nothing is fetched again for pages that are there, and nothing that is
//! not there is left out for long.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Bytes behind one that the kernel let go of which it is not known any more that they are there.
const LOST: u64 = 64 << 20;

/// What the kernel has of an artifact's files.
#[derive(Debug, Default)]
pub(crate) struct Held(HashMap<u32, Pages>);

/// Whether a run and bytes have some in common.
fn meets(run: &Range<u64>, bytes: &Range<u64>) -> bool {
    run.start < bytes.end && bytes.start < run.end
}

#[derive(Debug, Default)]
struct Pages {
    /// Where each run begins and ends; no two meet.
    there: BTreeMap<u64, u64>,
    /// What is on its way.
    coming: Vec<Range<u64>>,
    /// What somebody has planned to fetch or decode, since it was not there.
    wanted: Vec<Range<u64>>,
}

impl Held {
    /// The first of these bytes that are neither there nor on their way.
    pub(crate) fn gap(&self, file: u32, bytes: &Range<u64>) -> Option<Range<u64>> {
        match self.0.get(&file) {
            Some(pages) => pages.gap(bytes),
            None => (!bytes.is_empty()).then(|| bytes.clone()),
        }
    }

    /// Whether all of `pages` are there, and nobody wants any of `bytes`, which they hold: what lies beside those in the
    /// first and the last page is fetched with others.
    pub(crate) fn is_done(&self, file: u32, pages: &Range<u64>, bytes: &Range<u64>) -> bool {
        let Some(own) = self.0.get(&file) else { return false };
        let run = own.run_behind(pages.start);
        let has = run.is_some_and(|run| run.start <= pages.start && pages.end <= run.end);
        has && !own.wanted.iter().any(|wanted| meets(wanted, bytes))
    }

    /// Somebody wants these bytes.
    pub(crate) fn want(&mut self, file: u32, bytes: &Range<u64>) {
        self.0.entry(file).or_default().wanted.push(bytes.clone());
    }

    /// They are wanted no longer.
    pub(crate) fn unwant(&mut self, file: u32, bytes: &Range<u64>) {
        let wanted = &mut self.0.entry(file).or_default().wanted;
        if let Some(at) = wanted.iter().position(|own| own == bytes) {
            wanted.swap_remove(at);
        }
    }

    /// The same bytes, which whoever is given them puts there, and says then what became of it.
    pub(crate) fn claim(&mut self, file: u32, bytes: &Range<u64>) -> Option<Range<u64>> {
        let gap = self.gap(file, bytes)?;
        self.0.entry(file).or_default().coming.push(gap.clone());
        Some(gap)
    }

    /// Claimed bytes are there, or could not be put there.
    pub(crate) fn settle(&mut self, file: u32, claimed: &Range<u64>, is_there: bool) {
        let pages = self.0.entry(file).or_default();
        if let Some(at) = pages.coming.iter().position(|coming| coming == claimed) {
            pages.coming.swap_remove(at);
        }
        if is_there {
            pages.add(claimed);
        }
    }

    /// The kernel asks for these bytes: what it was given of them it has let go.
    pub(crate) fn asked(&mut self, file: u32, bytes: &Range<u64>) {
        let Some(pages) = self.0.get_mut(&file) else { return };
        let there = pages.run_behind(bytes.start);
        if let Some(there) = there.filter(|run| run.start.max(bytes.start) < bytes.end) {
            let first = there.start.max(bytes.start);
            pages.remove(&(first..first.saturating_add(LOST).min(there.end)));
        }
    }

    /// The kernel is answered with these bytes.
    pub(crate) fn answered(&mut self, file: u32, bytes: &Range<u64>) {
        self.0.entry(file).or_default().add(bytes);
    }
}

impl Pages {
    /// The first run that ends behind `at`.
    fn run_behind(&self, at: u64) -> Option<Range<u64>> {
        let before = self.there.range(..=at).next_back().filter(|(_, end)| **end > at);
        before.or_else(|| self.there.range(at..).next()).map(|(start, end)| *start..*end)
    }

    fn gap(&self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let mut at = bytes.start;
        loop {
            let there = self.run_behind(at).filter(|run| run.start <= at);
            let coming = || self.coming.iter().find(|run| run.contains(&at)).cloned();
            match there.or_else(coming) {
                Some(run) => at = run.end,
                None => break,
            }
        }
        let there = self.run_behind(at).map_or(u64::MAX, |run| run.start);
        let coming = self.coming.iter().map(|run| run.start).filter(|start| *start > at).min();
        let end = bytes.end.min(there).min(coming.unwrap_or(u64::MAX));
        (at < end).then_some(at..end)
    }

    fn add(&mut self, bytes: &Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        let mut joined = bytes.clone();
        while let Some((start, end)) = self.there.range(..=joined.end).next_back()
            && *end >= joined.start
        {
            let (start, end) = (*start, *end);
            joined = joined.start.min(start)..joined.end.max(end);
            self.there.remove(&start);
        }
        self.there.insert(joined.start, joined.end);
    }

    fn remove(&mut self, bytes: &Range<u64>) {
        while let Some(run) = self.run_behind(bytes.start).filter(|run| run.start < bytes.end) {
            self.there.remove(&run.start);
            if run.start < bytes.start {
                self.there.insert(run.start, bytes.start);
            }
            if run.end > bytes.end {
                self.there.insert(bytes.end, run.end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: u64 = 300;

    #[test]
    fn what_is_asked_for_again_is_gone_and_what_lies_behind_it() {
        let mut held = Held::default();
        held.answered(0, &(0..3 * LOST));
        held.asked(0, &(LOST..LOST + 1));
        assert_eq!(held.gap(0, &(0..4 * LOST)), Some(LOST..2 * LOST));
        assert_eq!(held.gap(0, &(2 * LOST..4 * LOST)), Some(3 * LOST..4 * LOST));
        assert_eq!(held.gap(1, &(5..7)), Some(5..7));
        // What is on its way was not there yet.
        assert_eq!(held.claim(2, &(0..10)), Some(0..10));
        held.asked(2, &(0..1));
        assert_eq!(held.claim(2, &(0..10)), None);
        held.settle(2, &(0..10), false);
        assert_eq!(held.claim(2, &(0..10)), Some(0..10));
    }

    proptest! {
        /// The same as byte by byte.
        #[test]
        fn it_is_what_each_byte_is(steps in prop::collection::vec((0..5_u8, 0..END, 0..END), 1..60)) {
            let (mut held, mut slow, mut claims) = (Held::default(), [0_u8; END as usize], Vec::new());
            for (kind, from, to) in steps {
                let range = from.min(to)..from.max(to);
                let at = |range: &Range<u64>| range.start as usize..range.end as usize;
                let first = |slow: &[u8]| {
                    let own = at(&range);
                    let from = own.clone().find(|at| slow[*at] == 0)?;
                    let to = (from..own.end).find(|at| slow[*at] != 0).unwrap_or(own.end);
                    Some(from as u64..to as u64)
                };
                match kind {
                    0 => {
                        held.answered(7, &range);
                        slow[at(&range)].iter_mut().for_each(|byte| *byte |= 1);
                    }
                    1 => {
                        let claimed = held.claim(7, &range);
                        prop_assert_eq!(&claimed, &first(&slow));
                        if let Some(claimed) = claimed {
                            slow[at(&claimed)].iter_mut().for_each(|byte| *byte |= 2);
                            claims.push(claimed);
                        }
                    }
                    2 => if let Some(claimed) = claims.pop() {
                        held.settle(7, &claimed, from % 2 == 0);
                        let new = u8::from(from % 2 == 0);
                        slow[at(&claimed)].iter_mut().for_each(|byte| *byte = *byte & !2 | new);
                    },
                    3 => {
                        held.asked(7, &range);
                        // Up to the end of the run that holds the first of them.
                        let lost = at(&range).find(|at| slow[*at] & 1 == 1);
                        for byte in slow.iter_mut().skip(lost.unwrap_or(END as usize)) {
                            if *byte & 1 == 0 { break; }
                            *byte &= !1;
                        }
                    }
                    _ => {
                        prop_assert_eq!(held.gap(7, &range), first(&slow));
                        let all = slow[at(&range)].iter().all(|byte| byte & 1 == 1);
                        prop_assert!(range.is_empty() || held.is_done(7, &range, &range) == all);
                        held.want(7, &range);
                        prop_assert!(range.is_empty() || !held.is_done(7, &range, &range));
                        held.unwant(7, &range);
                    }
                }
                let runs: Vec<_> = held.0.get(&7).map(|p| p.there.clone()).unwrap_or_default().into_iter().collect();
                prop_assert!(runs.iter().all(|(start, end)| start < end));
                prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }
}
