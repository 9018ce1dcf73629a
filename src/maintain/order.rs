//! In which order an artifact's chunks make up its files: pure geometry over its table.
//!
//! Load order is file order, and within a file the order of the extents. A tensor whose columns
//! are cut into bands is read in strips, so that its bytes come out row by row in bounded memory.

use std::collections::HashSet;
use std::ops::Range;

use crate::format::grid::Grid;
use crate::format::id::ContentDigest;
use crate::format::page::Extent;
use crate::pack::repeat::MIN_LINK;
use crate::store::{ArtifactGraph, Placed};

/// Decoded bytes that plain runs of chunks are read by.
const STEP: u64 = 8 << 20;
/// The widest strip that is held at once; a wider one is read in several passes.
const STRIP: u64 = 64 << 20;
/// The rows held at once of a strip that is read in several passes, in bytes.
const SLAB: u64 = 32 << 20;

/// A tensor or content extent, as a part of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The tensor's place in load order; `None` for content.
    pub tensor: Option<usize>,
    /// Its chunks, as places in [`ArtifactGraph::chunks`].
    pub chunks: Range<usize>,
    /// Bytes.
    pub len: u64,
    /// The digest of its bytes, row-major.
    pub digest: ContentDigest,
    /// How it is cut, if it is a tensor.
    pub grid: Option<Grid>,
}

/// The units of each file, in file order.
pub fn units(whole: &ArtifactGraph) -> Vec<Vec<Unit>> {
    let of_file = |(file, first): &(crate::format::page::FileEntry, usize)| {
        let mut at = *first;
        let unit = |extent: &Extent| match *extent {
            Extent::Content { len, digest, chunks } => {
                let chunks = at..at.saturating_add(chunks as usize);
                at = chunks.end;
                Some(Unit { tensor: None, chunks, len, digest, grid: None })
            }
            Extent::Tensor { ordinal } => {
                let (tensor, first) = whole.tensors.get(ordinal as usize)?;
                let count = usize::try_from(tensor.grid.chunks()).unwrap_or(usize::MAX);
                Some(Unit {
                    tensor: Some(ordinal as usize),
                    chunks: *first..first.saturating_add(count),
                    len: tensor.byte_len(),
                    digest: tensor.digest,
                    grid: Some(tensor.grid),
                })
            }
        };
        file.extents.iter().filter_map(unit).collect()
    };
    whole.files.iter().map(of_file).collect()
}

/// Every chunk of the artifact in load order, as places in [`ArtifactGraph::chunks`]; and how many of them files
/// hold: the others come last, in the order in which they are needed as bases.
pub fn load_order(whole: &ArtifactGraph) -> (Vec<usize>, usize) {
    let mut seen = vec![false; whole.chunks.len()];
    let mut order = Vec::with_capacity(seen.len());
    let units = units(whole);
    let claimed = || units.iter().flatten().flat_map(|unit| unit.chunks.clone());
    let mut add = |chunks: &mut dyn Iterator<Item = usize>| {
        for chunk in chunks {
            if let Some(seen) = seen.get_mut(chunk)
                && !std::mem::replace(seen, true)
            {
                order.push(chunk);
            }
        }
        order.len()
    };
    let held = add(&mut claimed());
    add(&mut claimed().flat_map(|chunk| whole.bases_of(chunk)).chain(0..whole.chunks.len()));
    (order, held)
}

/// The distinct chunks that no file holds: others are stored against them.
pub fn only_bases(whole: &ArtifactGraph) -> Vec<Placed> {
    if !whole.has_bases() {
        return Vec::new();
    }
    let units = units(whole);
    let claimed = units.iter().flatten().filter_map(|unit| whole.chunks.get(unit.chunks.clone()));
    let mut seen: HashSet<_> = claimed.flatten().map(|chunk| chunk.record.stored).collect();
    whole.chunks.iter().filter(|chunk| seen.insert(chunk.record.stored)).copied().collect()
}

/// Chunks in load order as they are read: of those from `bases` on, none that came before.
pub fn ordered(chunks: &[Placed], bases: usize) -> impl Iterator<Item = &Placed> {
    let (held, bases) = chunks.split_at(bases.min(chunks.len()));
    let mut seen = HashSet::new();
    if !bases.is_empty() {
        seen.extend(held.iter().map(|chunk| chunk.record.stored));
    }
    held.iter().chain(bases.iter().filter(move |chunk| seen.insert(chunk.record.stored)))
}

/// In how many runs of neighbours these chunks lie, which come in load order; each further run costs a load a
/// request. From anywhere to the start of another pack is no break: whole packs are requests anyway. A long
/// chunk that comes again is linked, which is what is wanted; a short one is to be written again.
pub fn runs<'a>(chunks: impl IntoIterator<Item = &'a Placed>) -> u64 {
    let (mut runs, mut last) = (0, None::<&Placed>);
    let mut seen = HashSet::new();
    for chunk in chunks {
        let again = !seen.insert(chunk.record.stored);
        let follows = last.is_some_and(|last| {
            let end = u64::from(last.place.offset) + u64::from(last.record.stored_len);
            match last.place.pack == chunk.place.pack {
                true => u64::from(chunk.place.offset) == end,
                false => chunk.place.offset == 0,
            }
        });
        if again && !follows && u64::from(chunk.record.stored_len) >= MIN_LINK {
            continue;
        }
        runs += u64::from(!follows);
        last = Some(chunk);
    }
    runs
}

/// A piece of work with a unit: its output is, for each row of `slab`, that row of every chunk in
/// turn. With one row, that is the chunks back to back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Places in [`ArtifactGraph::chunks`].
    pub chunks: Vec<usize>,
    /// Rows of each chunk.
    pub rows: u64,
    /// The rows that are wanted.
    pub slab: Range<u64>,
}

impl Step {
    /// The part of a chunk of `len` bytes that holds the wanted rows.
    pub fn part(&self, len: usize) -> Range<usize> {
        let width = self.width(len);
        let at =
            |row: u64| usize::try_from(row).unwrap_or(usize::MAX).saturating_mul(width).min(len);
        at(self.slab.start)..at(self.slab.end)
    }

    /// Bytes of one row of a chunk of `len` bytes.
    pub fn width(&self, len: usize) -> usize {
        len / usize::try_from(self.rows.max(1)).unwrap_or(usize::MAX)
    }
}

/// The steps whose outputs, one after another, are the unit's bytes row by row. `len` tells the
/// decoded length of a chunk.
pub fn steps(unit: &Unit, len: impl Fn(usize) -> u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let grid = match unit.grid {
        Some(grid) if grid.bands() > 1 && grid.rows > 1 => grid,
        _ => {
            straight(unit.chunks.clone(), &len, 1, 0..1, STEP, &mut steps);
            return steps;
        }
    };
    let (bands, blocks) = (grid.bands(), grid.blocks());
    // All below the number of the unit's chunks, which is a usize.
    let index = |n: u64| unit.chunks.start.saturating_add(usize::try_from(n).unwrap_or(usize::MAX));
    for matrix in 0..grid.leading {
        for block in 0..blocks {
            let first = matrix * bands * blocks + block;
            let strip = (0..bands).map(|band| index(first + band * blocks));
            let rows = grid.block_rows.min(grid.rows - block * grid.block_rows);
            if rows.saturating_mul(grid.row_bytes) <= STRIP {
                steps.push(Step { chunks: strip.collect(), rows, slab: 0..rows });
                continue;
            }
            let slab = (SLAB / grid.row_bytes).max(1);
            let mut row = 0;
            while row < rows {
                let wanted = row..(row + slab).min(rows);
                straight(strip.clone(), |c| len(c) / rows * slab, rows, wanted, SLAB, &mut steps);
                row += slab;
            }
        }
    }
    steps
}

fn straight(
    chunks: impl Iterator<Item = usize>,
    len: impl Fn(usize) -> u64,
    rows: u64,
    slab: Range<u64>,
    limit: u64,
    steps: &mut Vec<Step>,
) {
    let (mut group, mut sum) = (Vec::new(), 0);
    for chunk in chunks {
        let len = len(chunk);
        if sum + len > limit && !group.is_empty() {
            let chunks = std::mem::take(&mut group);
            steps.push(Step { chunks, rows, slab: slab.clone() });
            sum = 0;
        }
        group.push(chunk);
        sum += len;
    }
    if !group.is_empty() {
        steps.push(Step { chunks: group, rows, slab });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(grid: Grid) {
        let len = grid.leading * grid.rows * grid.row_bytes;
        let rects: Vec<_> = grid.rects().collect();
        let digest = ContentDigest::of(b"");
        let unit = Unit { tensor: Some(0), chunks: 0..rects.len(), len, digest, grid: Some(grid) };
        let mut next = 0;
        for step in steps(&unit, |c| rects[c].len()) {
            for row in step.slab.clone() {
                for &chunk in &step.chunks {
                    let rect = rects[chunk];
                    assert_eq!(rect.start + row * rect.stride, next, "{grid:?} {step:?}");
                    // A single row stands for the whole chunk.
                    assert!(step.rows == rect.rows || rect.is_contiguous());
                    let chunk_len = rect.len() as usize;
                    let own = Step { slab: row..row + 1, ..step.clone() }.part(chunk_len);
                    assert_eq!(own.len(), step.width(chunk_len));
                    next += own.len() as u64;
                }
            }
        }
        assert_eq!(next, len);
    }

    #[test]
    fn strips_that_are_too_wide_are_read_in_passes() {
        let wide = |rows, row_bytes, block_rows, band_bytes| Grid {
            leading: 2,
            rows,
            row_bytes,
            block_rows,
            band_bytes,
        };
        check(wide(100, 2 << 20, 64, 64 << 10));
        check(wide(3, 80 << 20, 2, 2 << 20));
        check(wide(3, 80 << 20, 1, 4 << 20));
    }

    proptest! {
        #[test]
        fn outputs_are_row_major(leading in 1_u64..4, rows in 1_u64..50, row_bytes in 1_u64..60, block in 1_u64..50, band in 1_u64..60) {
            check(Grid { leading, rows, row_bytes, block_rows: block.min(rows), band_bytes: band.min(row_bytes) });
        }
    }
}
