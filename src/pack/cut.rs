//! Reading files in the units that are packed: whole tensors by their grid, everything else cut
//! by content.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use fastcdc::v2020::StreamCDC;
use memmap2::MmapOptions;

use super::buffer::Buffers;
use crate::format::grid::{Grid, Rect};
use crate::id::{ContentDigest, DecodedDigest};

/// Content chunks: small enough that an edit costs little, large enough that records stay few.
const MIN: usize = 64 << 10;
const AVERAGE: usize = 256 << 10;
const MAX: usize = 1 << 20;
/// An extent of content ends after a chunk whose digest begins with that many zero bits, so that
/// extents too are found again after an edit: some 8 MiB.
const EXTENT_BITS: u32 = 5;
/// Longest extent, in chunks.
const EXTENT_MAX: usize = 1024;
/// How much is read at a time for hashing: stays in the second-level cache.
const STEP: usize = 256 << 10;

/// How a unit is cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// A tensor.
    Grid(Grid),
    /// Content: the chunks' lengths.
    Lengths(Vec<u32>),
}

impl Cut {
    /// The place of each chunk in the unit, in chunk order.
    pub(super) fn rects(&self) -> Vec<Rect> {
        match self {
            Self::Grid(grid) => grid.rects().collect(),
            Self::Lengths(lengths) => lengths
                .iter()
                .scan(0, |at, &len| {
                    let len = u64::from(len);
                    *at += len;
                    Some(Rect { start: *at - len, rows: 1, width: len, stride: len })
                })
                .collect(),
        }
    }
}

/// A run of content that is looked for in the store as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentExtent {
    /// Where it begins in the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) digest: ContentDigest,
    pub(super) lengths: Vec<u32>,
}

/// The digest of `len` bytes at `offset`.
pub(super) fn digest(
    file: &File,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<ContentDigest> {
    let mut hasher = blake3::Hasher::new();
    for_each(file, offset, len, buffer, |bytes| {
        hasher.update(bytes);
    })?;
    Ok(ContentDigest::from_hash(hasher.finalize()))
}

/// Hands `len` bytes at `offset` to `each`, piece by piece.
pub(super) fn for_each(
    file: &File,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    buffer.resize(STEP, 0);
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
        file.read_exact_at(&mut buffer[..step], offset + at)?;
        each(&buffer[..step]);
        at += step as u64;
    }
    Ok(())
}

struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = out.len().min(rest);
        let read = self.file.read_at(&mut out[..len], self.at)?;
        if read == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// Cuts `len` bytes at `offset` by content.
pub(super) fn content(file: &File, offset: u64, len: u64) -> io::Result<Vec<ContentExtent>> {
    let section = Section { file, at: offset, end: offset + len };
    let mut extents = Vec::new();
    let (mut start, mut lengths, mut hasher) = (offset, Vec::new(), blake3::Hasher::new());
    let mut close = |lengths: &mut Vec<u32>, hasher: &mut blake3::Hasher| {
        let lengths = std::mem::take(lengths);
        let len = lengths.iter().map(|&len| u64::from(len)).sum();
        let digest = ContentDigest::from_hash(hasher.finalize());
        hasher.reset();
        extents.push(ContentExtent { offset: start, len, digest, lengths });
        start += len;
    };
    for chunk in StreamCDC::new(section, MIN, AVERAGE, MAX) {
        let chunk = chunk.map_err(io::Error::from)?;
        // At most MAX.
        lengths.push(chunk.data.len() as u32);
        hasher.update(&chunk.data);
        let digest = DecodedDigest::of(&chunk.data);
        let ends = digest.as_bytes()[0].leading_zeros() >= EXTENT_BITS;
        if ends || lengths.len() == EXTENT_MAX {
            close(&mut lengths, &mut hasher);
        }
    }
    if !lengths.is_empty() {
        close(&mut lengths, &mut hasher);
    }
    Ok(extents)
}

/// One chunk's decoded bytes, owned, so that what is hashed is what is stored.
pub(super) fn chunk(file: &File, unit: u64, rect: Rect, buffers: &Buffers) -> io::Result<Bytes> {
    // A chunk is at most 4 MiB.
    let len = rect.len() as usize;
    if rect.is_contiguous() {
        let mut bytes = buffers.take();
        bytes.resize(len, 0);
        file.read_exact_at(&mut bytes, unit + rect.start)?;
        return Ok(buffers.share(bytes));
    }
    // Many short runs: a mapping reads each without a system call.
    let span = usize::try_from(rect.end() - rect.start).map_err(io::Error::other)?;
    // SAFETY: the mapping lives within this function, and its bytes are copied out once, before
    // they are hashed. A file that shrinks meanwhile ends the process with SIGBUS; the store stays
    // as it was.
    let map = unsafe { MmapOptions::new().offset(unit + rect.start).len(span).map(file) }?;
    let mut bytes = buffers.take();
    bytes.reserve(len);
    for row in map.chunks(rect.stride as usize) {
        bytes.extend_from_slice(row.get(..rect.width as usize).unwrap_or(row));
    }
    Ok(buffers.share(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    fn file(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, data).unwrap();
        file
    }

    fn random(len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        StdRng::seed_from_u64(7).fill_bytes(&mut data);
        data
    }

    #[test]
    fn extents_cover_the_content_and_survive_an_edit() {
        let data = random(40 << 20);
        let extents = content(&file(&data), 0, data.len() as u64).unwrap();
        assert!(extents.len() > 2);
        let mut at = 0;
        for extent in &extents {
            assert_eq!(extent.offset, at);
            let bytes = &data[at as usize..(at + extent.len) as usize];
            assert_eq!(ContentDigest::of(bytes), extent.digest);
            assert_eq!(extent.lengths.iter().map(|&l| u64::from(l)).sum::<u64>(), extent.len);
            at += extent.len;
        }
        assert_eq!(at, data.len() as u64);
        let mut edited = data.clone();
        edited.splice(100..100, *b"inserted");
        let after = content(&file(&edited), 0, edited.len() as u64).unwrap();
        let same = after.iter().filter(|a| extents.iter().any(|b| a.digest == b.digest)).count();
        assert!(same + 2 >= extents.len(), "{same} of {} extents are found again", extents.len());
    }

    #[test]
    fn content_boundaries_are_pinned() {
        let data = random(4 << 20);
        let extents = content(&file(&data), 0, data.len() as u64).unwrap();
        let lengths: Vec<_> = extents.into_iter().flat_map(|e| e.lengths).collect();
        assert_eq!(lengths[..4], PINNED, "stores rely on these boundaries: {lengths:?}");
    }
    const PINNED: [u32; 4] = [298_643, 81_103, 176_943, 286_129];

    #[test]
    fn chunks_of_bands_are_gathered_row_by_row() {
        let data = random(3 * 64 * 96);
        let file = file(&[&[9; 5][..], &data].concat());
        let grid = Grid { leading: 3, rows: 64, row_bytes: 96, block_rows: 10, band_bytes: 40 };
        grid.validate(data.len() as u64, Dtype::F32).unwrap();
        let buffers = Buffers::new(100, 1);
        for rect in grid.rects() {
            let naive: Vec<u8> = (0..rect.rows)
                .flat_map(|row| {
                    let at = (rect.start + row * rect.stride) as usize;
                    data[at..at + rect.width as usize].to_vec()
                })
                .collect();
            assert_eq!(chunk(&file, 5, rect, &buffers).unwrap(), naive);
        }
        let beyond = Rect { start: 0, rows: 1, width: 20_000, stride: 20_000 };
        assert!(chunk(&file, 5, beyond, &buffers).is_err());
    }
}
