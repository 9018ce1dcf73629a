//! How the bytes of a file lie in chunks. Pure.
//!
//! A file is parts: tensors, each with its grid, and chunks of whatever else it holds. A part is units, each
//! the smallest run of its bytes that some chunks hold and no others.

use std::iter::once;
use std::ops::Range;

use bytes::Bytes;

use crate::chunk::codec::DecodeError;
use crate::format::grid::{Grid, Rect};
use crate::format::page::Extent;
use crate::memory::buffers::Buffers;
use crate::schedule::shard::ShardSlice;
use crate::store::ArtifactGraph;

/// Rows whose bands lie in different chunks are put together at once up to this many bytes, and beyond it
/// piece by piece.
const BLOCK: u64 = 32 << 20;
const PIECE: u64 = 1 << 20;

/// A tensor in a file, or one chunk of whatever else it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Where it begins in the file.
    pub(crate) start: u64,
    grid: Grid,
    /// Its first chunk in the artifact.
    first: usize,
}

/// A run of a part's bytes that some chunks hold and no others: one chunk, or the bands of a block of rows.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Where each of its chunks lies in the part; and, in the artifact, the chunk with those that it is stored
    /// against, the lowest first.
    pub(crate) chunks: Vec<(Rect, Vec<usize>)>,
    /// The wanted bytes of the part, and how many that has.
    pub(crate) wanted: Range<u64>,
    len: u64,
}

impl Part {
    /// A part whose first byte and chunk are these.
    #[cfg(test)]
    pub(crate) fn of(start: u64, grid: Grid, first: usize) -> Self {
        Self { start, grid, first }
    }

    /// The parts of a file that hold some of the bytes `wanted`.
    pub(crate) fn all(whole: &ArtifactGraph, file: usize, wanted: &Range<u64>) -> Vec<Self> {
        let Some((file, first)) = whole.files.get(file) else { return Vec::new() };
        let (mut parts, mut chunk, mut start) = (Vec::new(), *first, 0);
        let mut push = |grid: Grid, first: usize| {
            let part = Self { start, grid, first };
            start += part.len();
            if part.start < wanted.end && start > wanted.start {
                parts.push(part);
            }
        };
        for extent in &file.extents {
            match *extent {
                Extent::Tensor { ordinal } => {
                    if let Some((tensor, first)) = whole.tensors.get(ordinal as usize) {
                        push(tensor.grid, *first);
                    }
                }
                Extent::Content { chunks, .. } => {
                    for index in chunk..chunk + chunks as usize {
                        let len = whole.chunks.get(index).map_or(0, |c| c.record.decoded_len);
                        push(Grid::run(len.into(), len.into()), index);
                    }
                    chunk += chunks as usize;
                }
            }
        }
        parts
    }

    pub(crate) fn len(&self) -> u64 {
        self.grid.leading * self.grid.rows * self.grid.row_bytes
    }

    /// How many chunks hold parts of the same rows.
    pub(crate) fn bands(&self) -> u64 {
        if self.grid.rows > 1 { self.grid.bands() } else { 1 }
    }

    pub(crate) fn units(&self) -> u64 {
        self.grid.chunks().checked_div(self.bands()).unwrap_or(0)
    }

    /// The unit that holds byte `at` of the part, which must lie in it.
    pub(crate) fn unit_at(&self, at: u64) -> u64 {
        let grid = &self.grid;
        let matrix = grid.rows * grid.row_bytes;
        let (number, within) = (at / matrix.max(1), at % matrix.max(1));
        match grid.rows {
            // One row: its chunks lie one behind the other.
            1 => number * grid.bands() + within / grid.band_bytes.max(1),
            _ => number * grid.blocks() + within / grid.row_bytes.max(1) / grid.block_rows.max(1),
        }
    }

    /// Chunk `band` of a unit.
    fn chunk(&self, unit: u64, band: u64) -> u64 {
        match self.bands() {
            1 => unit,
            bands => {
                let blocks = self.grid.blocks();
                (unit / blocks * bands + band) * blocks + unit % blocks
            }
        }
    }

    /// The bytes of a unit.
    pub(crate) fn range(&self, unit: u64) -> Range<u64> {
        let first = self.grid.rect(self.chunk(unit, 0));
        let row = if self.bands() > 1 { first.stride } else { first.width };
        first.start..first.start + first.rows * row
    }

    /// The parts of a unit that are put together at once, as far as they are `wanted`.
    pub(crate) fn pieces(
        self,
        unit: u64,
        wanted: &Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + use<> {
        let all = self.range(unit);
        let size = if all.end - all.start > BLOCK { PIECE } else { BLOCK };
        let within = |at: u64| at.saturating_sub(self.start).clamp(all.start, all.end);
        let (from, to) = (within(wanted.start), within(wanted.end));
        let starts = std::iter::successors(Some(from), move |at| Some(at + size));
        starts.take_while(move |at| *at < to).map(move |at| at..to.min(at + size))
    }

    pub(crate) fn unit(&self, whole: &ArtifactGraph, unit: u64, wanted: Range<u64>) -> Unit {
        let len = self.len();
        let cut = ShardSlice::part(wanted.clone(), len);
        let chunks = (0..self.bands()).filter_map(|band| {
            let chunk = self.chunk(unit, band);
            let rect = self.grid.rect(chunk);
            let index = self.first.saturating_add(usize::try_from(chunk).ok()?);
            let mut chain: Vec<_> = once(index).chain(whole.bases_of(index)).collect();
            chain.reverse();
            (!cut.span(&rect).is_empty()).then_some((rect, chain))
        });
        Unit { chunks: chunks.collect(), wanted, len }
    }
}

impl Unit {
    /// Its chunks and what they are stored against, in the order in which they are decoded.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = usize> {
        self.chunks.iter().flat_map(|(_, chain)| chain.iter().copied())
    }

    /// Its one chunk, if that is one run of the part's bytes.
    pub(crate) fn run(&self) -> Option<&Rect> {
        match self.chunks.as_slice() {
            [(rect, _)] if rect.is_contiguous() => Some(rect),
            _ => None,
        }
    }

    /// What is wanted of a chunk that is one run of the part's bytes.
    pub(crate) fn of(&self, rect: &Rect, decoded: &Bytes) -> Bytes {
        // Both are at most a chunk's bytes.
        let at = |byte: u64| (byte.saturating_sub(rect.start) as usize).min(decoded.len());
        decoded.slice(at(self.wanted.start)..at(self.wanted.end))
    }

    /// Puts its bytes together from its chunks, which `next` gives in their order, decoded.
    pub(crate) fn assemble(
        &self,
        buffers: &Buffers,
        mut next: impl FnMut(&[usize]) -> Result<Bytes, DecodeError>,
    ) -> Result<Bytes, DecodeError> {
        if let ([(_, chain)], Some(rect)) = (self.chunks.as_slice(), self.run()) {
            return Ok(self.of(rect, &next(chain)?));
        }
        // At most a block.
        let mut out = buffers.take((self.wanted.end - self.wanted.start) as usize);
        let cut = ShardSlice::part(self.wanted.clone(), self.len);
        for (rect, chain) in &self.chunks {
            let decoded = next(chain)?;
            for run in cut.copies(*rect) {
                let (from, to, len) = (run.from as usize, run.to as usize, run.len as usize);
                let (Some(from), Some(to)) =
                    (decoded.get(from..from + len), out.get_mut(to..to + len))
                else {
                    let need = u32::try_from(rect.len()).unwrap_or(u32::MAX);
                    let (codec, have) = ("a chunk", decoded.len());
                    return Err(DecodeError::Length { codec, need, have });
                };
                to.copy_from_slice(from);
            }
        }
        Ok(out.into())
    }
}
