//! Which streams of a plane share a code: rows of a matrix differ in scale, so their exponents do.
//!
//! Integers alone, so that every machine finds the same.

#![expect(clippy::indexing_slicing, reason = "streams and codes are numbered by their place")]

use crate::chunk::simd::for_each_simd;

/// Codes of a plane at most.
pub(super) const MAX_CODES: usize = 4;
/// How often streams choose anew.
const ROUNDS: usize = 2;
/// Streams for each code at least.
const MIN_STREAMS: usize = 4;
/// Costs are in parts of a bit.
const PART: u32 = 6;

/// How often each symbol comes in a stream.
pub(super) type Counts = [u16; 256];

#[inline(always)]
fn assign_any(streams: &[Counts]) -> Vec<u8> {
    let codes = MAX_CODES.min(streams.len() / MIN_STREAMS).max(1);
    let mut of = vec![0_u8; streams.len()];
    if codes == 1 {
        return of;
    }
    // At first by mean symbol.
    let mut order = Vec::with_capacity(streams.len());
    for (stream, counts) in streams.iter().enumerate() {
        let mut sum = 0;
        for (&n, symbol) in counts.iter().zip(0_u32..) {
            sum += u32::from(n) * symbol;
        }
        order.push((sum, stream));
    }
    order.sort_unstable();
    for (rank, (_, stream)) in order.into_iter().enumerate() {
        of[stream] = (rank * codes / streams.len()) as u8;
    }
    let mut table = [[0_u16; 256]; MAX_CODES];
    for _ in 0..ROUNDS {
        for (code, out) in (0..).zip(table.iter_mut().take(codes)) {
            costs(streams, &of, code, out);
        }
        for (counts, of) in streams.iter().zip(&mut of) {
            let mut best = u32::MAX;
            for (code, costs) in (0..).zip(table.iter().take(codes)) {
                let mut sum = 0;
                for (&n, &cost) in counts.iter().zip(costs) {
                    sum += u32::from(n) * u32::from(cost);
                }
                if sum < best {
                    (best, *of) = (sum, code);
                }
            }
        }
    }
    // Codes that nobody chose are taken out.
    let mut number = [None; MAX_CODES];
    let mut next = 0;
    for of in &mut of {
        *of = *number[usize::from(*of)].get_or_insert_with(|| {
            next += 1;
            next - 1
        });
    }
    of
}

for_each_simd! {
    /// A code for each stream, numbered from 0 without a gap.
    pub(super) fn assign(streams: &[Counts]) -> Vec<u8> = assign_any
}

/// What each symbol costs under the code of those that chose it.
#[inline(always)]
fn costs(streams: &[Counts], of: &[u8], code: u8, out: &mut [u16; 256]) {
    // A little of everything, so that no symbol is out of reach.
    let mut sums = [1_u32; 256];
    for (counts, _) in streams.iter().zip(of).filter(|(_, of)| **of == code) {
        for (sum, &n) in sums.iter_mut().zip(counts) {
            *sum += 16 * u32::from(n);
        }
    }
    let all = log2(sums.iter().sum());
    for (cost, sum) in out.iter_mut().zip(sums) {
        // At most 32 bits.
        *cost = (all - log2(sum)) as u16;
    }
}

/// The binary logarithm of a number that is not 0, in parts of a bit, to a hundredth of one.
#[inline(always)]
fn log2(x: u32) -> u32 {
    let whole = 31 - x.leading_zeros();
    let part = (x << (31 - whole) & 0x7fff_ffff) >> 16;
    // log2(1 + p) is about p + 0.344 p (1 - p).
    let bend = (((part * (0x8000 - part)) >> 15) * 11_272) >> 15;
    (whole << 15 | (part + bend).min(0x7fff)) >> (15 - PART)
}
