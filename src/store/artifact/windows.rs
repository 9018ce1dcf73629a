//! Loads of any size in bounded memory: what is selected, cut into windows whose chunks and tensors are few
//! enough to be known at one time.
//!
//! A small artifact is one window, for which nothing is read. Of a large one the pages are read twice:
//! once to learn which tensors come when, without records and places, and again window by window.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::{Artifact, Gathered, SelectedTensors, Selection};
use crate::format::FormatError;
use crate::format::manifest::PageRef;
use crate::format::page::{Page, TensorEntry};
use crate::format::record::ChunkRecord;
use crate::format::store;
use crate::schedule::plan::TensorRequest;
use crate::schedule::shard::Shard;
use crate::store::StoreError;

/// The weight of a window. It takes some 20 MB while it is loaded: 300 bytes for each chunk, and 1,200 more for each
/// tensor.
const MOST: u64 = 8 << 20;
/// So many windows of pages are read at a time to learn which tensors there are: no tensor is in memory then.
const READ: u64 = 4;
/// Bytes that the table has for a tensor beside its name and its chunks, about.
const ENTRY: u64 = 100;

/// What is to be known of so many chunks, and of tensors that the table lists in so many bytes beside them.
fn weight(chunks: u64, listed: u64) -> u64 {
    let records = chunks.saturating_mul(ChunkRecord::LEN as u64);
    records.saturating_add(listed.saturating_mul(3))
}

fn page_weight(page: &PageRef) -> u64 {
    let records = page.chunks.saturating_mul(ChunkRecord::LEN as u64);
    weight(page.chunks, page.length.saturating_sub(records))
}

/// A part of what is selected.
#[derive(Debug)]
pub struct Window {
    /// The pages that list it.
    pages: BTreeSet<usize>,
    /// Its tensors, by their place in load order; `None`: all that are selected.
    tensors: Option<Ordinals>,
}

/// Places in load order, which mostly follow each other.
#[derive(Debug, Default)]
struct Ordinals(Vec<RangeInclusive<u32>>);

impl Ordinals {
    fn push(&mut self, ordinal: u32) {
        match self.0.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(ordinal) => {
                *last = *last.start()..=ordinal;
            }
            _ => self.0.push(ordinal..=ordinal),
        }
    }

    /// Makes them ready to be asked.
    fn finish(&mut self) {
        self.0.sort_by_key(|range| *range.start());
    }

    fn contains(&self, ordinal: u32) -> bool {
        let before = self.0.partition_point(|range| *range.start() <= ordinal);
        before.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|r| r.contains(&ordinal))
    }
}

/// All of what is selected, in the order in which it is delivered.
#[derive(Debug)]
pub struct Windows {
    /// The parts.
    pub windows: Vec<Window>,
    /// Bytes that are delivered in all; `None` if there is one window, which tells itself.
    pub bytes: Option<u64>,
}

/// A tensor, as far as the order needs it.
struct Planned {
    rank: usize,
    ordinal: u32,
    page: usize,
    weight: u64,
}

impl Artifact {
    /// Cuts what is selected into windows of at most 65,536 chunks, fewer where there are many tensors.
    ///
    /// # Errors
    /// If a pattern selects nothing, or the table or the layout cannot be read.
    pub async fn windows(
        &self,
        selection: &Selection,
        shard: Option<Shard>,
    ) -> Result<Windows, StoreError> {
        self.windows_of(selection, shard, MOST).await
    }

    /// The same with windows of at most this weight, 128 for each chunk, or one tensor.
    ///
    /// # Errors
    /// As for [`windows`](Self::windows).
    pub async fn windows_of(
        &self,
        selection: &Selection,
        shard: Option<Shard>,
        most: u64,
    ) -> Result<Windows, StoreError> {
        let indexes = self.pages_of(selection);
        let pages = &self.manifest.table().pages;
        let weights = indexes.iter().filter_map(|&i| pages.get(i)).map(page_weight);
        if weights.fold(0, u64::saturating_add) <= most {
            let window = Window { pages: indexes, tensors: None };
            return Ok(Windows { windows: vec![window], bytes: None });
        }
        let mut bytes = 0;
        let mut planned = Vec::new();
        let mut matched = BTreeSet::new();
        for batch in self.batches(&indexes, most.saturating_mul(READ)) {
            for (index, entries) in batch.iter().zip(self.skim(&batch).await?) {
                let own: u64 = entries.iter().map(|entry| entry.grid.chunks()).sum();
                let all = pages.get(*index).map_or(own, |page| page.chunks);
                let mut gathered = Gathered::new(selection, shard);
                for entry in entries {
                    let Some(rank) = gathered.rank(&entry.name) else { continue };
                    let (ordinal, listed) = (entry.ordinal, entry.name.len() as u64 + ENTRY);
                    // What chunks are stored against counts with them.
                    let chunks = u128::from(entry.grid.chunks()) * u128::from(all);
                    let chunks = u64::try_from(chunks / u128::from(own.max(1))).unwrap_or(all);
                    let weight = weight(chunks, listed);
                    planned.push(Planned { rank, ordinal, page: *index, weight });
                    let request = TensorRequest::new(entry, Vec::new(), Vec::new(), shard);
                    bytes += request.cut.len();
                }
                matched.extend(gathered.matched);
            }
        }
        self.check_matched(&Gathered { matched, ..Gathered::new(selection, shard) })?;
        planned.sort_by_key(|tensor| (tensor.rank, tensor.ordinal));
        let mut windows: Vec<Window> = Vec::new();
        let mut full = most;
        for tensor in planned {
            if full + tensor.weight > most || windows.is_empty() {
                windows.push(Window { pages: BTreeSet::new(), tensors: Some(Ordinals::default()) });
                full = 0;
            }
            full += tensor.weight;
            if let Some(window) = windows.last_mut() {
                window.pages.insert(tensor.page);
                window.tensors.get_or_insert_default().push(tensor.ordinal);
            }
        }
        windows.iter_mut().filter_map(|window| window.tensors.as_mut()).for_each(Ordinals::finish);
        Ok(Windows { windows, bytes: Some(bytes) })
    }

    /// The tensors of a window, as [`Self::select`] gives all of them.
    ///
    /// # Errors
    /// If the table or the layout cannot be read.
    pub async fn want_window(
        &self,
        window: &Window,
        selection: &Selection,
        shard: Option<Shard>,
    ) -> Result<SelectedTensors, StoreError> {
        let Some(tensors) = &window.tensors else { return self.select(selection, shard).await };
        let mut gathered = Gathered::new(selection, shard);
        for (page, places) in self.pages(&window.pages).await? {
            self.gather(page, &places, |t| tensors.contains(t.ordinal), &mut gathered)?;
        }
        Ok(SelectedTensors { tensors: gathered.in_order(), ..SelectedTensors::default() })
    }

    /// Reads of these pages what they list.
    async fn skim(&self, indexes: &BTreeSet<usize>) -> Result<Vec<Vec<TensorEntry>>, StoreError> {
        let (table, chosen) = (self.manifest.table(), self.chosen(indexes));
        let ranges: Vec<_> = chosen.iter().map(|place| place.bytes.clone()).collect();
        let skim = |n: usize, bytes: Bytes| {
            let Some(place) = chosen.get(n) else {
                return Err(FormatError::invalid("table page", "not asked for"));
            };
            let mut entries = Vec::new();
            Page::skim(&bytes, place.page.blake3, |entry| entries.push(entry))?;
            Ok(entries)
        };
        let read = self.store.parts(store::table(table.table), table.length, &ranges, skim).await;
        read.map_err(|error| error.named_by(format!("manifest {}", self.id())))
    }

    /// Pages that are read at a time: of at most this weight together, or one.
    fn batches(&self, indexes: &BTreeSet<usize>, most: u64) -> Vec<BTreeSet<usize>> {
        let pages = &self.manifest.table().pages;
        let mut batches: Vec<BTreeSet<usize>> = Vec::new();
        let mut full = most;
        for &index in indexes {
            let own = pages.get(index).map_or(0, page_weight);
            if own.saturating_add(full) > most || batches.is_empty() {
                batches.push(BTreeSet::new());
                full = 0;
            }
            full = own.saturating_add(full);
            if let Some(batch) = batches.last_mut() {
                batch.insert(index);
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Oracle: a set.
        #[test]
        fn ordinals_are_a_set(mut runs in prop::collection::vec((0_u32..200, 1_u32..9), 0..20), last in any::<bool>()) {
            runs.extend(last.then_some((u32::MAX, 1)));
            let (mut own, mut oracle) = (Ordinals::default(), HashSet::new());
            for (first, count) in runs {
                for ordinal in (0..count).map(|n| first.saturating_add(n)) {
                    if oracle.insert(ordinal) {
                        own.push(ordinal);
                    }
                }
            }
            own.finish();
            for ordinal in (0..220).chain([u32::MAX - 1, u32::MAX]) {
                prop_assert_eq!(own.contains(ordinal), oracle.contains(&ordinal), "{}", ordinal);
            }
        }
    }
}
