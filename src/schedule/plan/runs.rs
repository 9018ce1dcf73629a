//! Which chunks are asked for together. Pure.
//!
//! Chunks come in the order of need. A request takes those that rise in one pack, over gaps that cost less
//! than a round trip, and leaves alone what other packs hold in between.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::index::{ChunkIndex, List};
use super::parts::{PlanOptions, PlannedChunk, PlannedFetch};
use crate::format::id::PackId;

/// Runs of one pack that may be continued at a time.
const OPEN: usize = 8;

pub(super) type Chunks = List<ChunkIndex, PlannedChunk>;
pub(super) type Packs = List<ChunkIndex, PackId>;

/// The bytes of a pack from the first of these chunks to the last.
pub(super) fn span(chunks: &Chunks, of: &[ChunkIndex]) -> Range<u64> {
    let range = |index: Option<&ChunkIndex>| index.map_or(0..0, |&index| bytes(chunks, index));
    range(of.first()).start..range(of.last()).end
}

fn bytes(chunks: &Chunks, index: ChunkIndex) -> Range<u64> {
    let range = |c: &PlannedChunk| u64::from(c.offset)..u64::from(c.offset) + u64::from(c.len);
    chunks.get(index).map_or(0..0, range)
}

/// A wanted part of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) chunk: ChunkIndex,
    pub(super) pack: PackId,
    pub(super) bytes: Range<u64>,
}

/// A run that may go on.
struct Open {
    chunks: Vec<ChunkIndex>,
    /// Where its last chunk ends in the pack.
    end: u64,
    /// Bytes that were wanted up to there, of all packs.
    at: u64,
}

/// Gathers what is wanted into runs. Each rises in one pack, without overlap, and has no gap above `gap`
/// between two chunks. Between two chunks of a run at most `reach` bytes of other runs are wanted: nobody
/// keeps a connection waiting for longer. Of several runs that a chunk could continue it takes the one that
/// ends nearest, and of those the latest. Runs come in the order of their first chunks.
pub(super) fn merge(
    wanted: impl Iterator<Item = Wanted>,
    gap: u64,
    reach: u64,
) -> Vec<(PackId, Vec<ChunkIndex>)> {
    let mut open = HashMap::<PackId, Vec<Open>>::new();
    let mut runs = Vec::new();
    let mut at = 0;
    for Wanted { chunk, pack, bytes } in wanted {
        let own = open.entry(pack).or_default();
        let is_late = |run: &mut Open| at - run.at > reach;
        runs.extend(own.extract_if(.., is_late).map(|run| (pack, run.chunks)));
        let near = |run: &&mut Open| run.end <= bytes.start && bytes.start - run.end <= gap;
        at += bytes.end - bytes.start;
        match own.iter_mut().filter(near).max_by_key(|run| (run.end, run.at)) {
            Some(run) => {
                run.chunks.push(chunk);
                (run.end, run.at) = (bytes.end, at);
            }
            None => {
                if own.len() == OPEN {
                    let oldest = own.iter().enumerate().min_by_key(|(_, run)| run.at);
                    let oldest = oldest.map(|(index, _)| index);
                    runs.extend(oldest.map(|index| (pack, own.swap_remove(index).chunks)));
                }
                own.push(Open { chunks: vec![chunk], end: bytes.end, at });
            }
        }
    }
    let rest = open.into_iter().flat_map(|(pack, own)| own.into_iter().map(move |o| (pack, o)));
    runs.extend(rest.map(|(pack, run)| (pack, run.chunks)));
    runs.sort_by_key(|(_, chunks)| chunks.first().copied());
    runs
}

/// The requests for all chunks.
pub(super) fn fetches(chunks: &Chunks, packs: &Packs, options: &PlanOptions) -> Vec<PlannedFetch> {
    let whole = whole_packs(chunks, packs, options);
    let mut started = HashSet::new();
    let mut fetches: Vec<PlannedFetch> = Vec::new();
    let wanted = chunks.pairs().zip(packs.iter()).filter_map(|((chunk, _), &pack)| {
        if let Some(all) = whole.get(&pack)
            && all.binary_search(&chunk).is_ok()
        {
            if started.insert(pack) {
                fetches.push(PlannedFetch { pack, whole: true, chunks: all.clone() });
            }
            return None;
        }
        Some(Wanted { chunk, pack, bytes: bytes(chunks, chunk) })
    });
    for (pack, run) in merge(wanted, options.gap, options.segment) {
        divide(chunks, pack, &run, options.segment, &mut fetches);
    }
    fetches.sort_by_key(|fetch| fetch.chunks.first().copied());
    fetches
}

/// The chunks of each pack that is worth asking for whole, by offset.
fn whole_packs(
    chunks: &Chunks,
    packs: &Packs,
    options: &PlanOptions,
) -> HashMap<PackId, Vec<ChunkIndex>> {
    let mut by_pack: HashMap<PackId, Vec<ChunkIndex>> = HashMap::new();
    if options.pack_ends.is_empty() {
        return by_pack;
    }
    for (index, pack) in packs.pairs() {
        by_pack.entry(*pack).or_default().push(index);
    }
    by_pack.retain(|pack, own| {
        let (mut at, mut wanted) = (0, 0);
        // What does not rise in the order of need (a chunk that an earlier tensor shares, mostly)
        // is asked for apart.
        own.retain(|&index| {
            let range = bytes(chunks, index);
            if range.start < at {
                return false;
            }
            at = range.end;
            wanted += range.end - range.start;
            true
        });
        options.pack_ends.get(pack).is_some_and(|&end| wanted * 10 >= end * 9)
    });
    by_pack
}

/// Cuts a run into equal segments at chunk borders.
fn divide(
    chunks: &Chunks,
    pack: PackId,
    run: &[ChunkIndex],
    segment: u64,
    fetches: &mut Vec<PlannedFetch>,
) {
    let whole = span(chunks, run);
    let len = whole.end - whole.start;
    let parts = len.div_ceil(segment.max(1)).max(1);
    let mut rest = run;
    for part in 1..=parts {
        // Up to the chunk that crosses this part's share of the run.
        let border = whole.start + (u128::from(len) * u128::from(part) / u128::from(parts)) as u64;
        let take = if part == parts {
            rest.len()
        } else {
            rest.partition_point(|&index| bytes(chunks, index).end <= border)
        };
        let (own, more) = rest.split_at(take);
        rest = more;
        if !own.is_empty() {
            fetches.push(PlannedFetch { pack, whole: false, chunks: own.to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::plan::ListIndex;
    use proptest::prelude::*;

    fn wanted(parts: &[(u8, u64, u64)]) -> Vec<Wanted> {
        let part = |(index, &(pack, start, len)): (usize, &(u8, u64, u64))| Wanted {
            chunk: ChunkIndex::at(index),
            pack: PackId::of(&[pack]),
            bytes: start..start + len,
        };
        parts.iter().enumerate().map(part).collect()
    }

    /// The same by looking back over all runs for each chunk: slow and plain.
    fn oracle(wanted: &[Wanted], gap: u64, reach: u64) -> Vec<(PackId, Vec<ChunkIndex>)> {
        let mut runs: Vec<Vec<usize>> = Vec::new();
        let mut closed = HashSet::new();
        let before =
            |n: usize| wanted[..n].iter().map(|w| w.bytes.end - w.bytes.start).sum::<u64>();
        for (n, next) in wanted.iter().enumerate() {
            let last = |run: &Vec<usize>| *run.last().unwrap();
            for (id, run) in runs.iter().enumerate() {
                let last = last(run);
                if wanted[last].pack == next.pack && before(n) - before(last + 1) > reach {
                    closed.insert(id);
                }
            }
            let is_open =
                |id: &usize| wanted[last(&runs[*id])].pack == next.pack && !closed.contains(id);
            let mut best: Option<usize> = None;
            for id in (0..runs.len()).filter(is_open) {
                let key = |id: usize| (wanted[last(&runs[id])].bytes.end, last(&runs[id]));
                let (end, _) = key(id);
                let fits = end <= next.bytes.start && next.bytes.start - end <= gap;
                if fits && best.is_none_or(|best| key(best) < key(id)) {
                    best = Some(id);
                }
            }
            match best {
                Some(id) => runs[id].push(n),
                None => {
                    let own: Vec<usize> = (0..runs.len()).filter(is_open).collect();
                    if own.len() == OPEN {
                        closed.insert(*own.iter().min_by_key(|&&id| last(&runs[id])).unwrap());
                    }
                    runs.push(vec![n]);
                }
            }
        }
        let run =
            |run: Vec<usize>| (wanted[run[0]].pack, run.into_iter().map(ChunkIndex::at).collect());
        runs.into_iter().map(run).collect()
    }

    proptest! {
        #[test]
        fn runs_are_those_of_the_oracle(
            parts in prop::collection::vec((0_u8..3, 0_u64..400, 1_u64..20), 0..60),
            gap in 0_u64..60,
            reach in 0_u64..200,
        ) {
            let wanted = wanted(&parts);
            let runs = merge(wanted.iter().cloned(), gap, reach);
            let ends = |run: &[ChunkIndex]| {
                run.iter().map(|c| wanted[c.get()].bytes.clone()).collect::<Vec<_>>()
            };
            let mut all: Vec<_> = runs.iter().flat_map(|(_, run)| run).copied().collect();
            all.sort();
            prop_assert!(all.iter().map(|c| c.get()).eq(0..wanted.len()), "each chunk once");
            for (pack, run) in &runs {
                prop_assert!(run.is_sorted() && run.iter().all(|c| wanted[c.get()].pack == *pack));
                for pair in ends(run).windows(2) {
                    prop_assert!(pair[0].end <= pair[1].start && pair[1].start - pair[0].end <= gap);
                }
            }
            let count = oracle(&wanted, gap, reach).len();
            prop_assert_eq!(runs.len(), count);
        }
    }

    #[test]
    fn a_run_goes_on_behind_what_other_packs_hold() {
        let parts = [(0, 0, 10), (1, 0, 10), (0, 15, 10), (1, 10, 10), (0, 100, 10)];
        let count = |gap, reach| merge(wanted(&parts).into_iter(), gap, reach).len();
        assert_eq!(count(75, 10), 2);
        assert_eq!(count(5, 10), 3, "the last lies too far");
        assert_eq!(count(75, 9), 5, "too much lies between");
        assert_eq!(count(4, 10), 4);
    }

    /// What is linked to a place far behind does not cut the run that it stands in.
    #[test]
    fn a_step_aside_does_not_cut_the_run() {
        let parts = [(0, 1000, 10), (0, 4, 4), (0, 1010, 10), (0, 0, 4), (0, 1020, 10)];
        let runs = merge(wanted(&parts).into_iter(), 0, 100);
        let of = |n: usize| runs[n].1.iter().map(|c| c.get()).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(2)), (vec![0, 2, 4], vec![1], vec![3]));
    }
}
