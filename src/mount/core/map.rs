//! Which chunks hold a byte of a file, found without walking over the file. Pure.

use std::ops::Range;

use crate::edge::cache::parts::{Part, Unit};
use crate::store::ArtifactGraph;

/// A file as runs of bytes, each of which some chunks hold and no others.
#[derive(Debug)]
pub(crate) struct FileMap {
    parts: Vec<Part>,
    size: u64,
}

impl FileMap {
    /// The map of file `file` of an artifact.
    pub(crate) fn new(whole: &ArtifactGraph, file: usize) -> Self {
        let size = whole.files.get(file).map_or(0, |(file, _)| file.size);
        let parts = match size {
            0 => Vec::new(),
            _ => Part::all(whole, file, &(0..size)),
        };
        Self { parts, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn part_at(&self, at: u64) -> Option<&Part> {
        let index = self.parts.partition_point(|part| part.start + part.len() <= at);
        self.parts.get(index).filter(|part| part.start <= at)
    }

    /// What the bytes `wanted` are put together from, in their order.
    pub(crate) fn units(&self, whole: &ArtifactGraph, wanted: &Range<u64>) -> Vec<Unit> {
        let end = wanted.end.min(self.size);
        let (mut units, mut at) = (Vec::new(), wanted.start);
        while at < end
            && let Some(part) = self.part_at(at)
        {
            let unit = part.unit_at(at - part.start);
            let run = part.range(unit);
            let to = run.end.min(end - part.start);
            units.push(part.unit(whole, unit, at - part.start..to));
            at = part.start + to;
        }
        units
    }

    /// Where the run ends that holds byte `at`, as far as it is put together at once.
    pub(crate) fn run_end(&self, at: u64) -> u64 {
        let Some(part) = self.part_at(at) else { return self.size };
        let unit = part.unit_at(at - part.start);
        let end = part.pieces(unit, &(at..u64::MAX)).next();
        end.map_or(self.size, |piece| part.start + piece.end)
    }

    /// The bytes that are decoded whenever byte `at` is: those of its chunk, or of a block of rows.
    pub(crate) fn run(&self, at: u64) -> Option<Range<u64>> {
        let part = self.part_at(at)?;
        let run = part.range(part.unit_at(at - part.start));
        Some(part.start + run.start..part.start + run.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::grid::Grid;
    use proptest::prelude::*;

    fn grid() -> impl Strategy<Value = Grid> {
        (1..4_u64, 1..20_u64, 1..40_u64, 1..8_u64, 1..16_u64).prop_map(
            |(leading, rows, row_bytes, block_rows, band_bytes)| {
                let (block_rows, band_bytes) = (block_rows.min(rows), band_bytes.min(row_bytes));
                Grid { leading, rows, row_bytes, block_rows, band_bytes }
            },
        )
    }

    proptest! {
        /// A unit found by arithmetic is the one found by looking at all of them.
        #[test]
        fn a_byte_lies_in_the_unit_that_is_found(grids in prop::collection::vec(grid(), 1..5)) {
            let (mut parts, mut start, mut first) = (Vec::new(), 0, 0);
            for grid in grids {
                let part = Part::of(start, grid, first);
                start += part.len();
                first += grid.chunks() as usize;
                parts.push(part);
            }
            let map = FileMap { parts, size: start };
            for at in 0..start {
                let part = map.part_at(at).unwrap();
                let slow = map.parts.iter().find(|p| p.start <= at && at < p.start + p.len()).unwrap();
                prop_assert_eq!(part.start, slow.start);
                let unit = part.unit_at(at - part.start);
                let found = (0..part.units()).find(|unit| part.range(*unit).contains(&(at - part.start)));
                prop_assert_eq!(Some(unit), found);
                prop_assert_eq!(map.run_end(at), part.start + part.range(unit).end);
            }
            prop_assert!(map.part_at(start).is_none());
        }
    }
}
