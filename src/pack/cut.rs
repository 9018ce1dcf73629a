//! Reading files in the units that are packed: whole tensors by their grid, everything else cut
//! by content.

use std::io::{self, Read};
use std::ops::Range;

use bytes::Bytes;
use fastcdc::v2020::StreamCDC;

use super::held::Held;
use crate::format::grid::{Grid, Rect};
use crate::format::id::{ContentDigest, DecodedDigest};
use crate::memory::buffers::Buffers;
use crate::memory::slot::Slot;

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
/// A group of chunks is at least so long, unless the unit ends.
const GROUP: u64 = 2 << 20;
/// The longest group: a matrix in bands is one.
const MAX_GROUP: u64 = 32 << 20;

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
    /// Where it begins in the part.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) digest: ContentDigest,
    pub(super) lengths: Vec<u32>,
}

/// The digest of the first `len` bytes.
pub(super) fn digest(held: &Held, len: u64, buffer: &mut Vec<u8>) -> io::Result<ContentDigest> {
    let mut hasher = blake3::Hasher::new();
    for_each(held, len, buffer, |bytes| {
        hasher.update(bytes);
    })?;
    Ok(ContentDigest::from_hash(hasher.finalize()))
}

/// Hands the first `len` bytes to `each`, piece by piece.
pub(super) fn for_each(
    held: &Held,
    len: u64,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    buffer.resize(STEP, 0);
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
        held.read_exact_at(&mut buffer[..step], at)?;
        each(&buffer[..step]);
        at += step as u64;
    }
    Ok(())
}

struct Section<'a> {
    held: &'a Held,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = out.len().min(rest);
        let read = self.held.read_at(&mut out[..len], self.at)?;
        if read == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// Cuts the first `len` bytes by content.
pub(super) fn content(held: &Held, len: u64) -> io::Result<Vec<ContentExtent>> {
    let section = Section { held, at: 0, end: len };
    let mut extents = Vec::new();
    let (mut start, mut lengths, mut hasher) = (0, Vec::new(), blake3::Hasher::new());
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

/// Chunks that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Their places, in chunk order.
    pub(super) rects: Vec<Rect>,
    /// The run of the unit's bytes that they tile; `None` for a chunk that lies alone in strips.
    pub(super) run: Option<Range<u64>>,
}

impl Group {
    /// One chunk.
    pub(super) fn alone(rect: Rect) -> Self {
        let run = rect.is_contiguous().then(|| rect.start..rect.end());
        Self { rects: vec![rect], run }
    }

    /// Bytes of the chunks.
    pub(super) fn len(&self) -> u64 {
        self.rects.iter().map(Rect::len).sum()
    }
}

/// Gathers chunks into groups that tile one run after the other, so that each byte of the unit is
/// read once. `None` if a run would be too long to be held: bands of a large matrix.
pub(super) fn groups(rects: &[Rect]) -> Option<Vec<Group>> {
    let mut groups = Vec::new();
    let (mut start, mut end, mut sum, mut own) = (0, 0, 0, Vec::new());
    for &rect in rects {
        end = rect.end().max(end);
        sum += rect.len();
        own.push(rect);
        if end - start > MAX_GROUP {
            return None;
        }
        if sum == end - start && (sum >= GROUP || rect == rects[rects.len() - 1]) {
            groups.push(Group { rects: std::mem::take(&mut own), run: Some(start..end) });
            (start, sum) = (end, 0);
        }
    }
    own.is_empty().then_some(groups)
}

/// Reads a group of the unit, each chunk into the first bytes of its
/// room: owned, so that what is hashed is what is stored. Returns the run that bands were cut from;
/// without one, the chunks are the run.
pub(super) fn read(
    unit: &Held,
    group: &Group,
    rooms: &mut [Slot],
    buffers: &Buffers,
) -> io::Result<Option<Bytes>> {
    // A chunk is at most 4 MiB.
    let rooms = rooms.iter_mut().zip(&group.rects).map(|(room, rect)| {
        let len = rect.len() as usize;
        room.get_mut(..len).map(|room| (room, *rect)).ok_or(io::ErrorKind::InvalidInput.into())
    });
    let rooms = rooms.collect::<io::Result<Vec<_>>>()?;
    let run = match &group.run {
        Some(run) if !group.rects.iter().all(Rect::is_contiguous) => run,
        _ => {
            for (room, rect) in rooms {
                match rect.is_contiguous() {
                    true => unit.read_exact_at(room, rect.start)?,
                    false => gather(unit, rect, room)?,
                }
            }
            return Ok(None);
        }
    };
    let len = usize::try_from(run.end - run.start).map_err(io::Error::other)?;
    let mut whole = buffers.take(len);
    unit.read_exact_at(&mut whole, run.start)?;
    for (room, rect) in rooms {
        let at = usize::try_from(rect.start - run.start).map_err(io::Error::other)?;
        strips(&whole[at..], rect, room);
    }
    Ok(Some(whole.into()))
}

/// One chunk that lies in strips.
fn gather(unit: &Held, rect: Rect, room: &mut [u8]) -> io::Result<()> {
    let span = usize::try_from(rect.end() - rect.start).map_err(io::Error::other)?;
    strips(&unit.view(rect.start, span)?, rect, room);
    Ok(())
}

/// Copies the strips of `rect`, whose first begins `from`, behind each other.
fn strips(from: &[u8], rect: Rect, to: &mut [u8]) {
    let (stride, width) = (rect.stride as usize, rect.width as usize);
    for (row, strip) in from.chunks(stride).zip(to.chunks_mut(width)) {
        strip.copy_from_slice(&row[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    /// The bytes in a file and in memory, behind five others.
    fn held(data: &[u8]) -> [Held; 2] {
        let data = [&[9; 5][..], data].concat();
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), &data).unwrap();
        let file =
            crate::pack::model::SourceFile::open("x".into(), named.path().to_owned()).unwrap();
        [Held::File { file: file.into(), offset: 0 }, Held::Memory(data.into())].map(|h| h.from(5))
    }

    fn random(len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        StdRng::seed_from_u64(7).fill_bytes(&mut data);
        data
    }

    #[test]
    fn extents_cover_the_content_and_survive_an_edit() {
        let data = random(40 << 20);
        let [file, memory] = held(&data);
        let extents = content(&file, data.len() as u64).unwrap();
        assert_eq!(content(&memory, data.len() as u64).unwrap(), extents);
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
        let [file, _] = held(&edited);
        let after = content(&file, edited.len() as u64).unwrap();
        let same = after.iter().filter(|a| extents.iter().any(|b| a.digest == b.digest)).count();
        assert!(same + 2 >= extents.len(), "{same} of {} extents are found again", extents.len());
    }

    #[test]
    fn content_boundaries_are_pinned() {
        let data = random(4 << 20);
        let [file, memory] = held(&data);
        let extents = content(&file, data.len() as u64).unwrap();
        assert_eq!(content(&memory, data.len() as u64).unwrap(), extents);
        let lengths: Vec<_> = extents.into_iter().flat_map(|e| e.lengths).collect();
        assert_eq!(lengths[..4], PINNED, "stores rely on these boundaries: {lengths:?}");
    }
    const PINNED: [u32; 4] = [298_643, 81_103, 176_943, 286_129];

    #[test]
    fn chunks_of_bands_are_gathered_row_by_row() {
        let data = random(3 * 64 * 96);
        let held = held(&data);
        let grid = Grid { leading: 3, rows: 64, row_bytes: 96, block_rows: 10, band_bytes: 40 };
        grid.validate(data.len() as u64, Dtype::F32).unwrap();
        let buffers = Buffers::new(1 << 20);
        let naive = |rect: Rect| -> Vec<u8> {
            let row = |row| (rect.start + row * rect.stride) as usize;
            (0..rect.rows)
                .flat_map(|r| &data[row(r)..row(r) + rect.width as usize])
                .copied()
                .collect()
        };
        let rects: Vec<_> = grid.rects().collect();
        let together = groups(&rects).unwrap();
        assert_eq!(together.len(), 1, "smaller than a group");
        let alone = rects.iter().map(|&rect| Group::alone(rect));
        let rooms = |group: &Group| -> Vec<_> {
            group.rects.iter().map(|rect| buffers.take(rect.len() as usize)).collect()
        };
        let all: Vec<_> = alone.chain(together).collect();
        for (held, group) in held.iter().flat_map(|held| all.iter().map(move |group| (held, group)))
        {
            let mut rooms = rooms(group);
            let run = read(held, group, &mut rooms, &buffers).unwrap();
            assert_eq!(run.as_deref(), (group.rects.len() > 1).then_some(&data[..]));
            for (room, rect) in rooms.iter().zip(&group.rects) {
                assert_eq!(room[..rect.len() as usize], naive(*rect));
            }
        }
        let beyond = Group::alone(Rect { start: 0, rows: 1, width: 20_000, stride: 20_000 });
        for held in held {
            assert!(read(&held, &beyond, &mut rooms(&beyond), &buffers).is_err());
            assert!(read(&held, &beyond, &mut [Slot::default()], &buffers).is_err(), "no room");
        }
    }

    #[test]
    fn groups_tile_the_unit_in_order() {
        let mib = 1 << 20;
        let plain =
            Grid { leading: 1, rows: 9 * mib, row_bytes: 1, block_rows: mib, band_bytes: 1 };
        let banded = |leading, rows, row_bytes, band_bytes| Grid {
            leading,
            rows,
            row_bytes,
            block_rows: rows.min(mib / band_bytes),
            band_bytes,
        };
        let spans = |grid: Grid| {
            let rects: Vec<_> = grid.rects().collect();
            let groups = groups(&rects)?;
            assert!(groups.iter().flat_map(|g| &g.rects).eq(&rects), "in chunk order");
            let runs = groups.into_iter().map(|group| group.run.unwrap());
            Some(runs.map(|run| run.end - run.start).collect::<Vec<_>>())
        };
        assert_eq!(spans(plain).unwrap(), [2 * mib, 2 * mib, 2 * mib, 2 * mib, mib]);
        assert_eq!(spans(banded(1, 2048, 4096, 512)).unwrap(), [8 * mib], "all bands at once");
        assert_eq!(spans(banded(3, 1024, 4096, 512)).unwrap(), [4 * mib; 3]);
        assert_eq!(spans(banded(1, 16384, 4096, 512)), None, "too long to be held");
        assert_eq!(spans(Grid::EMPTY).unwrap(), [0; 0]);
    }
}
