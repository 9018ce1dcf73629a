//! A run of symbols as streams of 4096, each of which decodes alone.

#![expect(
    clippy::indexing_slicing,
    reason = "tables have an entry for every look, and what is made goes round in a ring"
)]

use super::huffman::{self, Lengths, MAX_AT_ONCE, MAX_BITS, TABLE, Table};

/// Symbols of a stream; the last of a run may have fewer.
pub(super) const STREAM: usize = 4096;
/// Looks at the table between two reads of 8 bytes, of which 57 bits at least are new.
const LOOKS: usize = 5;
const _: () = assert!(LOOKS * TABLE.ilog2() as usize <= 57);
/// A stream's symbols, with room for what a last look writes too far.
pub(super) type Buffer = [u8; STREAM + 8];

/// The longest that a stream can be, in bytes.
const LONGEST: usize = STREAM * MAX_BITS as usize / 8;
const _: () = assert!(LONGEST < 1 << 13, "its length has 13 bits");

/// A code as the encoder wants it: each symbol's code above a byte with the length of it.
pub(super) type Packed = [u32; 256];

pub(super) fn pack(lengths: &Lengths) -> Packed {
    let mut packed = huffman::codes(lengths).map(|code| u32::from(code) << 8);
    packed.iter_mut().zip(lengths).for_each(|(packed, &length)| *packed |= u32::from(length));
    packed
}

/// Bits to be written, and their number in the lowest byte of the other.
#[derive(Clone, Copy)]
struct Bits(u64, u32);

impl Bits {
    #[inline(always)]
    fn of(packed: u32) -> Self {
        Self(u64::from(packed >> 8), packed)
    }

    /// These, then those: 63 in all at most.
    #[inline(always)]
    fn then(self, after: Self) -> Self {
        // Shifts look at the lowest six bits.
        Self(self.0 | after.0.wrapping_shl(self.1), self.1.wrapping_add(after.1))
    }
}

/// Bits that are not yet written, and where they will be.
struct Writer<'a> {
    buffer: &'a mut [u8; LONGEST + 16],
    at: usize,
    held: Bits,
}

impl<'a> Writer<'a> {
    fn new(buffer: &'a mut [u8; LONGEST + 16]) -> Self {
        Self { buffer, at: 0, held: Bits(0, 0) }
    }

    #[inline(always)]
    fn put(&mut self, bits: Bits) {
        let Bits(bits, n) = self.held.then(bits);
        self.buffer[self.at..self.at + 8].copy_from_slice(&bits.to_le_bytes());
        self.at += (n & 0xff) as usize / 8;
        // Never the whole word: four codes and 7 bits are 63 at most.
        self.held = Bits(bits >> (n & 0x38), n & 7);
    }

    fn finish(self) -> &'a [u8] {
        let Self { buffer, at, held } = self;
        buffer.get(..at + usize::from(held.1 > 0)).unwrap_or_default()
    }
}

/// What N streams are written to.
pub(super) type Written<const N: usize> = [[u8; LONGEST + 16]; N];

/// Encodes N streams of equal length, at most [`STREAM`] symbols, all of which have codes.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the streams go in step")]
pub(super) fn encode<'a, const N: usize>(
    codes: [&Packed; N],
    symbols: [&[u8]; N],
    buffers: &'a mut Written<N>,
) -> [&'a [u8]; N] {
    let mut writers = buffers.each_mut().map(Writer::new);
    let fours = symbols.map(|symbols| symbols.as_chunks::<4>().0);
    let count = fours.iter().map(|fours| fours.len()).min().unwrap_or(0);
    let fours = fours.map(|fours| &fours[..count]);
    for i in 0..count {
        for k in 0..N {
            let [a, b, c, d] = fours[k][i].map(|symbol| Bits::of(codes[k][usize::from(symbol)]));
            writers[k].put(a.then(b).then(c.then(d)));
        }
    }
    for k in 0..N {
        for &symbol in symbols[k].iter().skip(4 * count) {
            writers[k].put(Bits::of(codes[k][usize::from(symbol)]));
        }
    }
    writers.map(Writer::finish)
}

/// Decodes N full streams, which begin at `starts` in `data`; the first bits behind them.
///
/// Whatever `data` holds, nothing outside it is read: beyond its end are zero bits.
#[inline(always)]
pub(super) fn decode<const N: usize>(
    tables: [&Table; N],
    data: &[u8],
    starts: [usize; N],
    len: usize,
    out: &mut [Buffer; N],
) -> [usize; N] {
    let entries: [&[u64; TABLE]; N] = tables.map(Table::entries);
    let mut bit = starts.map(|start| 8 * start);
    let mut made = [0_usize; N];
    // Every look of a round has room.
    let full = len.saturating_sub(LOOKS * MAX_AT_ONCE);
    'rounds: while made.iter().all(|&made| made < full) {
        let mut word = [0_u64; N];
        for k in 0..N {
            let at = bit[k] / 8;
            let Some(bytes) = data.get(at..at + 8) else { break 'rounds };
            word[k] = u64::from_le_bytes(bytes.try_into().unwrap_or_default()) >> (bit[k] % 8);
        }
        // Symbols so far above bits so far, as in an entry.
        let (mut sum, mut last) = ([0_u32; N], [0_u64; N]);
        for _ in 0..LOOKS {
            for k in 0..N {
                let entry = entries[k][word[k] as usize % TABLE];
                // In bounds always, by the mask; within the stream, by the bound on `made`.
                let at = (made[k] + (sum[k] >> 8) as usize) % STREAM;
                out[k][at..at + 8].copy_from_slice(&(entry >> 16).to_le_bytes());
                word[k] >>= entry & 63;
                sum[k] += entry as u32 & 0xffff;
                last[k] = entry;
            }
        }
        for k in 0..N {
            bit[k] += (sum[k] & 0xff) as usize;
            made[k] += (sum[k] >> 8) as usize;
        }
        for k in 0..N {
            // A code longer than a look held this stream up.
            if last[k] == 0 {
                one(tables[k], data, &mut bit[k], &mut made[k], &mut out[k]);
            }
        }
    }
    for k in 0..N {
        while made[k] + MAX_AT_ONCE <= len {
            let entry = entries[k][bits_at(data, bit[k]) as usize % TABLE];
            if entry == 0 {
                one(tables[k], data, &mut bit[k], &mut made[k], &mut out[k]);
                continue;
            }
            let at = made[k] % STREAM;
            out[k][at..at + 8].copy_from_slice(&(entry >> 16).to_le_bytes());
            bit[k] += (entry & 0xff) as usize;
            made[k] += (entry >> 8 & 0xff) as usize;
        }
        while made[k] < len {
            one(tables[k], data, &mut bit[k], &mut made[k], &mut out[k]);
        }
    }
    bit
}

/// Decodes one symbol.
fn one(table: &Table, data: &[u8], bit: &mut usize, made: &mut usize, out: &mut Buffer) {
    let (symbol, length) = table.first(bits_at(data, *bit));
    out[*made % STREAM] = symbol;
    *bit += length;
    *made += 1;
}

/// At least 57 bits from this one on.
fn bits_at(data: &[u8], bit: usize) -> u64 {
    let rest = data.get(bit / 8..).unwrap_or_default();
    let word = match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    word >> (bit % 8)
}
