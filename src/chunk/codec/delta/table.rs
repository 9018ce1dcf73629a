//! Frequencies of the symbols of a context: how they are stored, and the table that decodes them.
//!
//! A table is right for every slot, so that decoding has no error inside a stream.

use super::form::{BESIDE, Form, SYMBOL_BITS};
use crate::chunk::codec::error::Malformed;

/// What frequencies sum to.
pub(super) const SLOTS: usize = 1 << SYMBOL_BITS;
/// Symbols without, and as many with, a change of sign.
const HALF: usize = 128;
/// The symbol of what no other symbol stands for.
pub(super) const ESCAPE: usize = 0;
/// Symbols of a context.
pub(super) const SYMBOLS: usize = 2 * HALF;

/// What a slot decodes to: bits 0 to 10 the symbol's frequency, 11 to 20 the slot's place within
/// the symbol, 21 to 23 how many raw bits lie beside it, 24 whether the sign changes, 25 to 31 the
/// quotient as a signed number; of an escape, `ESCAPE_QUOTIENT`.
pub(super) type Entry = u32;

pub(super) const FREQUENCY_MASK: u32 = 0x7ff;
pub(super) const PLACE: u32 = 11;
pub(super) const PLACE_MASK: u32 = 0x3ff;
pub(super) const RAW_BITS: u32 = 21;
pub(super) const RAW_BITS_MASK: u32 = 7;
pub(super) const FLIP: u32 = 24;
pub(super) const QUOTIENT: u32 = 25;
/// The byte of quotient and sign that an escape has.
pub(super) const ESCAPE_BYTE: u8 = 0x80;

/// The symbol of a quotient, if there is one.
#[inline(always)]
pub(super) fn symbol(quotient: i32, flips: bool) -> usize {
    let folded = (quotient << 1 ^ quotient >> 31) as usize;
    match flips {
        false if folded < HALF - 1 => folded + 1,
        true if folded < HALF => folded + HALF,
        _ => ESCAPE,
    }
}

/// Quotient and sign of a symbol, as the highest byte of an entry.
fn meaning(symbol: usize) -> u8 {
    let flips = symbol >= HALF;
    let folded = match symbol {
        ESCAPE => return ESCAPE_BYTE,
        _ if flips => symbol - HALF,
        _ => symbol - 1,
    } as i32;
    let quotient = folded >> 1 ^ -(folded & 1);
    (quotient << 1 | i32::from(flips)) as u8
}

/// The frequencies of a context, and how many raw bits its differences have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frequencies {
    pub(super) raw_bits: u32,
    pub(super) of: [u16; SYMBOLS],
}

impl Frequencies {
    /// Of a context in which everything is escaped.
    pub(super) fn escapes() -> Self {
        let mut of = [0; SYMBOLS];
        of[ESCAPE] = SLOTS as u16;
        Self { raw_bits: 0, of }
    }

    /// Reads what `stored` begins with; what follows it.
    pub(super) fn parse(form: Form, stored: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (&[raw_bits, plain, flipped], mut rest) =
            stored.split_first_chunk().ok_or(Malformed::TableShort)?;
        let raw_bits = u32::from(raw_bits);
        if raw_bits > form.most_raw_bits() {
            return Err(Malformed::TableRawBits);
        }
        let (plain, flipped) = (usize::from(plain), usize::from(flipped));
        if plain > HALF || flipped > HALF || (flipped > 0 && form.sign() == 0) {
            return Err(Malformed::TableSymbols);
        }
        let mut of = [0; SYMBOLS];
        let mut sum = 0;
        for (half, listed) in of.chunks_mut(HALF).zip([plain, flipped]) {
            for slot in half.iter_mut().take(listed) {
                (*slot, rest) = parse_frequency(rest)?;
                sum += usize::from(*slot);
            }
            if listed > 0 && half.get(listed - 1) == Some(&0) {
                return Err(Malformed::TableRest);
            }
        }
        if plain + flipped == 0 {
            return Ok((Self { raw_bits, ..Self::escapes() }, rest));
        }
        if sum != SLOTS {
            return Err(Malformed::TableSum);
        }
        Ok((Self { raw_bits, of }, rest))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let halves = self.of.chunks(HALF);
        let listed =
            halves.map(|half| half.iter().rposition(|&f| f > 0).map_or(0, |last| last + 1));
        let listed: Vec<usize> =
            if usize::from(self.of[ESCAPE]) == SLOTS { vec![0, 0] } else { listed.collect() };
        // At most 22 and 128.
        out.push(self.raw_bits as u8);
        out.extend(listed.iter().map(|&listed| listed as u8));
        for (half, listed) in self.of.chunks(HALF).zip(listed) {
            for &frequency in half.iter().take(listed) {
                if frequency < 0x80 {
                    out.push(frequency as u8);
                } else {
                    out.extend_from_slice(&[0x80 | frequency as u8, (frequency >> 7) as u8]);
                }
            }
        }
    }

    /// What each slot decodes to.
    pub(super) fn fill(&self, entries: &mut [Entry; SLOTS]) {
        let beside = self.raw_bits.min(BESIDE);
        let mut slots = entries.iter_mut();
        for (symbol, &frequency) in self.of.iter().enumerate().filter(|(_, f)| **f > 0) {
            let entry =
                u32::from(meaning(symbol)) << FLIP | beside << RAW_BITS | u32::from(frequency);
            for (place, slot) in (0..u32::from(frequency)).zip(&mut slots) {
                *slot = place << PLACE | entry;
            }
        }
    }

    /// Where each symbol's slots begin.
    pub(super) fn starts(&self) -> [u16; SYMBOLS] {
        let mut next = 0;
        self.of.map(|frequency| {
            let start = next;
            next += frequency;
            start
        })
    }
}

/// One frequency, in one byte below 128 and in two from there on; what follows it.
fn parse_frequency(stored: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (&low, rest) = stored.split_first().ok_or(Malformed::TableShort)?;
    if low < 0x80 {
        return Ok((u16::from(low), rest));
    }
    let (&high, rest) = rest.split_first().ok_or(Malformed::TableShort)?;
    if !(1..=SLOTS >> 7).contains(&usize::from(high)) {
        return Err(Malformed::FrequencySpelling);
    }
    Ok((u16::from(high) << 7 | u16::from(low & 0x7f), rest))
}

/// Frequencies in the proportion of `counts`, of which one at least is not 0: 1 at least for each
/// symbol that occurs. Integers alone, so that every machine finds the same.
#[expect(clippy::indexing_slicing, reason = "indexes are symbols")]
pub(super) fn normalise(counts: &[u32; SYMBOLS]) -> [u16; SYMBOLS] {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let mut of = counts.map(|count| {
        let exact = (u64::from(count) * 2 * SLOTS as u64 / total).div_ceil(2);
        if count == 0 { 0 } else { exact.max(1) }
    });
    let mut sum: u64 = of.iter().sum();
    // A bit less for c times a symbol of frequency f costs about c / (f - 1/2), a bit more saves
    // about c / (f + 1/2).
    while sum > SLOTS as u64 {
        let can = (0..SYMBOLS).filter(|&s| of[s] > 1);
        let least = can.min_by(|&a, &b| {
            let (a, b) =
                ((u64::from(counts[a]), 2 * of[a] - 1), (u64::from(counts[b]), 2 * of[b] - 1));
            (a.0 * b.1).cmp(&(b.0 * a.1))
        });
        let Some(least) = least else { break };
        of[least] -= 1;
        sum -= 1;
    }
    while sum < SLOTS as u64 {
        let can = (0..SYMBOLS).filter(|&s| of[s] > 0);
        let most = can.max_by(|&a, &b| {
            let (a, b) =
                ((u64::from(counts[a]), 2 * of[a] + 1), (u64::from(counts[b]), 2 * of[b] + 1));
            (a.0 * b.1).cmp(&(b.0 * a.1))
        });
        let Some(most) = most else { break };
        of[most] += 1;
        sum += 1;
    }
    // At most 1024 each.
    of.map(|frequency| frequency as u16)
}
