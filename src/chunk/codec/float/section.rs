//! A plane that is entropy-coded: its codes, which code and how many bytes each stream has, the
//! streams.

#![expect(
    clippy::indexing_slicing,
    reason = "the codes of streams were checked when they were read"
)]

use super::cluster::{self, Counts};
use super::huffman::{self, Lengths, Table};
use super::streams::{self, Buffer, STREAM};
use crate::chunk::codec::error::Malformed;
use crate::chunk::simd::{Simd, for_each_simd};

/// Streams that are decoded at a time, to fill what one would wait for.
pub(super) const LANES: usize = 4;
/// What [`LANES`] streams decode to.
pub(super) type Buffers = [Buffer; LANES];

/// Streams that are encoded at a time.
const PAIR: usize = 2;
/// The least that several codes must save, as a part of the plane: each costs a table.
const WORTHWHILE_CODES: usize = 512;
/// Codes of a section at most.
const MAX_CODES: u8 = 8;
/// Bits of a stream's length; those above are the number of its code.
const LENGTH_BITS: u32 = 13;

/// A section that was parsed: its codes are complete, its streams lie inside the stored bytes.
pub(super) struct Section<'a> {
    tables: Vec<Table>,
    /// From the first stream to the end of the chunk: what follows the last stream may be read,
    /// and is ignored.
    data: &'a [u8],
    streams: Vec<Stream>,
    symbols: usize,
}

/// What a section says before its streams, checked: codes are complete, streams lie inside.
pub(super) struct Heads<'a> {
    pub(super) codes: Vec<Lengths>,
    pub(super) streams: Vec<Stream>,
    /// From the first stream to the end of the chunk.
    data: &'a [u8],
    /// What follows the last stream.
    pub(super) rest: &'a [u8],
}

/// Where a stream lies, counted from the first, and its code.
#[derive(Clone, Copy, Default)]
pub(super) struct Stream {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) code: usize,
}

impl<'a> Heads<'a> {
    /// Reads the heads of a section of `symbols` symbols that `stored` begins with.
    pub(super) fn parse(stored: &'a [u8], symbols: usize) -> Result<Self, Malformed> {
        let (&count, mut rest) = stored.split_first().ok_or(Malformed::SectionShort)?;
        if !(1..=MAX_CODES).contains(&count) {
            return Err(Malformed::SectionCodes);
        }
        let mut codes = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (lengths, behind) = parse_code(rest)?;
            codes.push(lengths);
            rest = behind;
        }
        let count = symbols.div_ceil(STREAM);
        let (heads, data) = rest.split_at_checked(2 * count).ok_or(Malformed::SectionShort)?;
        let mut streams = Vec::with_capacity(count);
        let mut start = 0;
        for head in heads.as_chunks().0 {
            let head = u16::from_le_bytes(*head);
            let end = start + usize::from(head & ((1 << LENGTH_BITS) - 1));
            let code = usize::from(head >> LENGTH_BITS);
            if code >= codes.len() {
                return Err(Malformed::NoCode);
            }
            streams.push(Stream { start, end, code });
            start = end;
        }
        let rest = data.get(start..).ok_or(Malformed::StreamOverruns)?;
        Ok(Self { codes, streams, data, rest })
    }

    /// Bytes from the first stream to the end of the chunk.
    pub(super) fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl<'a> Section<'a> {
    /// Reads the section of `symbols` symbols that `stored` begins with; what follows it.
    pub(super) fn parse(stored: &'a [u8], symbols: usize) -> Result<(Self, &'a [u8]), Malformed> {
        let Heads { codes, streams, data, rest } = Heads::parse(stored, symbols)?;
        let tables = codes.iter().map(Table::new).collect();
        Ok((Self { tables, data, streams, symbols }, rest))
    }

    /// Every stream, those of one code after another: its table then stays in the cache.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.streams.len()).collect();
        // The last may be shorter; it stays where it is.
        let full = self.symbols / STREAM;
        let (full, _) = order.split_at_mut(full.min(self.streams.len()));
        full.sort_by_key(|&stream| self.streams.get(stream).map(|stream| stream.code));
        order
    }

    /// Decodes these streams, at most [`LANES`].
    #[inline(always)]
    pub(super) fn decode(&self, which: &[usize], out: &mut Buffers) -> Result<(), Malformed> {
        let at = |stream: usize| self.streams.get(stream).copied().ok_or(Malformed::StreamMissing);
        let len = |stream: usize| STREAM.min(self.symbols - stream * STREAM);
        if let Ok(which) = <&[usize; LANES]>::try_from(which)
            && which.iter().all(|&stream| len(stream) == STREAM)
        {
            let mut lanes = [Stream::default(); LANES];
            for (lane, &stream) in lanes.iter_mut().zip(which) {
                *lane = at(stream)?;
            }
            return self.decode_lanes(&lanes, STREAM, out);
        }
        for (&stream, out) in which.iter().zip(out.chunks_mut(1)) {
            if let Ok(out) = out.try_into() {
                self.decode_lanes(&[at(stream)?], len(stream), out)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn decode_lanes<const N: usize>(
        &self,
        lanes: &[Stream; N],
        len: usize,
        out: &mut [Buffer; N],
    ) -> Result<(), Malformed> {
        let tables = lanes.map(|lane| &self.tables[lane.code]);
        let starts = lanes.map(|lane| lane.start);
        let ends = streams::decode(tables, self.data, starts, len, out);
        for (lane, end) in lanes.iter().zip(ends) {
            if end.div_ceil(8) != lane.end {
                return Err(Malformed::StreamLength);
            }
            let last = self.data.get(end / 8).filter(|_| end % 8 > 0);
            if last.is_some_and(|last| last >> (end % 8) != 0) {
                return Err(Malformed::StreamPadding);
            }
        }
        Ok(())
    }
}

/// Reads the code that `stored` begins with; what follows it.
fn parse_code(stored: &[u8]) -> Result<(Lengths, &[u8]), Malformed> {
    let ([first, more], rest) = stored.split_first_chunk().ok_or(Malformed::SectionShort)?;
    let count = usize::from(*more) + 1;
    let (nibbles, rest) =
        rest.split_at_checked(count.div_ceil(2)).ok_or(Malformed::SectionShort)?;
    let nibbles: Vec<u8> = nibbles.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
    let (coded, padding) = nibbles.split_at_checked(count).ok_or(Malformed::SectionShort)?;
    let mut lengths: Lengths = [0; 256];
    let slots = lengths.iter_mut().skip(usize::from(*first));
    if slots.len() < count {
        return Err(Malformed::WideCode);
    }
    slots.zip(coded).for_each(|(slot, &length)| *slot = length);
    if coded.first() == Some(&0) || coded.last() == Some(&0) || padding.iter().any(|&n| n != 0) {
        return Err(Malformed::CodeSpelling);
    }
    if !huffman::is_complete(&lengths) {
        return Err(Malformed::IncompleteCode);
    }
    Ok((lengths, rest))
}

/// How a plane would be coded, and how long that is.
#[derive(Clone)]
pub(super) struct Coding {
    codes: Vec<Lengths>,
    /// The code of each stream.
    of: Vec<u8>,
    /// Bytes of the section, or a few more.
    pub(super) len: usize,
}

impl Coding {
    /// For a plane of streams with these counts, in which there are two symbols at least.
    pub(super) fn new(simd: Simd, streams: &[Counts]) -> Self {
        let one = Self::with(streams, vec![0; streams.len()]);
        let many = Self::with(streams, cluster::assign(simd, streams));
        if many.len + one.len / WORTHWHILE_CODES < one.len { many } else { one }
    }

    fn with(streams: &[Counts], of: Vec<u8>) -> Self {
        let codes = of.iter().max().map_or(0, |&most| usize::from(most) + 1);
        let mut sums = vec![[0_u32; 256]; codes];
        for (counts, &of) in streams.iter().zip(&of) {
            let sums = &mut sums[usize::from(of)];
            sums.iter_mut().zip(counts).for_each(|(sum, &n)| *sum += u32::from(n));
        }
        let mut len = 1 + 3 * streams.len();
        let codes = sums.iter_mut().map(|counts| {
            two_at_least(counts);
            let lengths = huffman::lengths(counts);
            let bits: u64 =
                counts.iter().zip(lengths).map(|(&n, l)| u64::from(n) * u64::from(l)).sum();
            let (first, last) = span(&lengths);
            len += (bits / 8) as usize + 2 + (last - first + 1).div_ceil(2);
            lengths
        });
        Self { codes: codes.collect(), of, len }
    }
}

/// A complete code has two symbols, whether the second is used or not.
fn two_at_least(counts: &mut [u32; 256]) {
    let mut used = (0..counts.len()).filter(|&symbol| counts[symbol] > 0);
    if let (Some(only), None) = (used.next(), used.next()) {
        counts[only ^ 1] = 1;
    }
}

/// The first and the last symbol that have a code.
fn span(lengths: &Lengths) -> (usize, usize) {
    let coded = |length: &u8| *length > 0;
    (lengths.iter().position(coded).unwrap_or(0), lengths.iter().rposition(coded).unwrap_or(0))
}

#[inline(always)]
fn write_any(coding: &Coding, plane: &[u8], out: &mut Vec<u8>) {
    // At most 8.
    out.push(coding.codes.len() as u8);
    for lengths in &coding.codes {
        let (first, last) = span(lengths);
        let coded = lengths.get(first..=last).unwrap_or_default();
        // Both are below 256.
        out.extend_from_slice(&[first as u8, (last - first) as u8]);
        out.extend(coded.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4));
    }
    let mut head = out.len();
    out.resize(head + 2 * coding.of.len(), 0);
    let codes: Vec<_> = coding.codes.iter().map(streams::pack).collect();
    let code = |of: u8| &codes[usize::from(of)];
    let mut push = |of: u8, stream: &[u8], out: &mut Vec<u8>| {
        // A stream is below 2^13 bytes.
        let value = u16::from(of) << LENGTH_BITS | stream.len() as u16;
        out[head..head + 2].copy_from_slice(&value.to_le_bytes());
        head += 2;
        out.extend_from_slice(stream);
    };
    let mut buffers = Box::new([[0; _]; PAIR]);
    let mut one = Box::new([[0; _]; 1]);
    for (symbols, of) in plane.chunks(PAIR * STREAM).zip(coding.of.chunks(PAIR)) {
        if let (&[a, b], (symbols, rest)) = (of, symbols.as_chunks::<STREAM>())
            && let (&[first, second], []) = (&symbols, rest)
        {
            let symbols: [&[u8]; PAIR] = [first, second];
            let [first, second] = streams::encode([code(a), code(b)], symbols, &mut buffers);
            push(a, first, out);
            push(b, second, out);
            continue;
        }
        for (symbols, &of) in symbols.chunks(STREAM).zip(of) {
            let [stream] = streams::encode([code(of)], [symbols], &mut one);
            push(of, stream, out);
        }
    }
}

for_each_simd! {
    /// Appends the section of `plane`.
    pub(super) fn write(coding: &Coding, plane: &[u8], out: &mut Vec<u8>) = write_any
}
