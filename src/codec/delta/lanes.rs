//! One segment, element by element: what every processor can do, and the rest of what a faster one
//! has begun.
//!
//! Whatever is stored, nothing outside it is read: beyond its end are zeros.

use super::layout::{Code, ENTRIES, LANES, LOWEST, Segment};
use super::table::{
    ESCAPE_BYTE, FLIP, FREQUENCY_MASK, PLACE, PLACE_MASK, QUOTIENT, RAW_BITS, RAW_BITS_MASK, SLOTS,
    SYMBOL_BITS,
};

/// A segment that is being decoded.
pub(super) struct Run<'a> {
    pub(super) code: &'a Code,
    pub(super) states: [u32; LANES],
    pub(super) words: &'a [u8],
    /// Bytes of them that were taken.
    pub(super) at: usize,
    pub(super) escapes: &'a [u8],
    /// Bytes of the segment's own words.
    end: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new(code: &'a Code, segment: &Segment<'a>) -> Self {
        let &Segment { states, words, end, escapes } = segment;
        Self { code, states, words, at: 0, escapes, end }
    }

    /// Decodes elements against `base`, which is as long as `out`.
    #[inline(always)]
    pub(super) fn steps<const W: usize>(
        &mut self,
        base: &[u8],
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (base, out) = (base.as_chunks().0, out.as_chunks_mut().0);
        for (base, out) in base.chunks(LANES).zip(out.chunks_mut(LANES)) {
            self.step::<W>(base, out)?;
        }
        Ok(())
    }

    /// Decodes one element per lane, from the first lane on.
    #[inline(always)]
    fn step<const W: usize>(
        &mut self,
        base: &[[u8; W]],
        out: &mut [[u8; W]],
    ) -> Result<(), &'static str> {
        let &Code { form, contexts, ref entries, ref high } = self.code;
        let (magnitude, sign) = (form.magnitude(), form.sign());
        let mut words = Words::new(self.words, self.at);
        let mut parts = [(0, 0, 0, 0); LANES];
        for ((state, base), part) in self.states.iter_mut().zip(base).zip(&mut parts) {
            let base = number(base);
            let context = contexts.of(form, base & magnitude);
            let entry = entries[(context * SLOTS + *state as usize % SLOTS) % ENTRIES];
            let place = entry >> PLACE & PLACE_MASK;
            let next = (*state >> SYMBOL_BITS).wrapping_mul(entry & FREQUENCY_MASK) + place;
            let beside = entry >> RAW_BITS & RAW_BITS_MASK;
            *state = words.refill(next >> beside);
            *part = (base, entry, next & ((1 << beside) - 1), beside);
        }
        if W == 4 {
            for (state, (base, _, raw, bits)) in
                self.states.iter_mut().zip(&mut parts).take(base.len())
            {
                let high = high[contexts.of(form, *base & magnitude)];
                *raw |= (*state & ((1 << high) - 1)) << *bits;
                *bits += high;
                *state = words.refill(*state >> high);
            }
        }
        self.at += 2 * words.taken;
        for (&(base, entry, raw, bits), out) in parts.iter().zip(out) {
            if (entry >> FLIP) as u8 == ESCAPE_BYTE {
                *out = self.escape()?;
                continue;
            }
            let difference = ((entry as i32 >> QUOTIENT) << bits) as u32;
            let difference = difference.wrapping_add(raw).wrapping_sub(1 << bits >> 1);
            let flip = if entry >> FLIP & 1 == 1 { sign } else { 0 };
            let sum = (base & magnitude).wrapping_add(difference) & magnitude;
            let element = sum | (base & sign) ^ flip;
            out.copy_from_slice(&element.to_le_bytes()[..W]);
        }
        Ok(())
    }

    /// The next element that is stored whole.
    pub(super) fn escape<const W: usize>(&mut self) -> Result<[u8; W], &'static str> {
        let (element, rest) =
            self.escapes.split_first_chunk().ok_or("an escaped element is missing")?;
        self.escapes = rest;
        Ok(*element)
    }

    /// Whether the segment ends as it must.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        if self.at != self.end {
            return Err("a segment has not as many words as its elements");
        }
        if self.states != [LOWEST; LANES] {
            return Err("a state does not end where it began");
        }
        if !self.escapes.is_empty() {
            return Err("there are more escapes than escaped elements");
        }
        Ok(())
    }
}

/// The words that a step may take: two per lane at most.
struct Words {
    next: [[u8; 2]; 2 * LANES],
    taken: usize,
}

impl Words {
    #[inline(always)]
    fn new(words: &[u8], at: usize) -> Self {
        let rest = words.get(at..).unwrap_or_default().as_chunks().0;
        let next = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut next = [[0; 2]; 2 * LANES];
            next.iter_mut().zip(rest).for_each(|(next, word)| *next = *word);
            next
        });
        Self { next, taken: 0 }
    }

    /// The state, or, if it is too low, with the next word.
    #[inline(always)]
    fn refill(&mut self, state: u32) -> u32 {
        let word = u32::from(u16::from_le_bytes(self.next[self.taken % (2 * LANES)]));
        // No branch: which states are low is anybody's guess.
        let low = u32::from(state < LOWEST);
        self.taken += low as usize;
        state << (16 * low) | word & low.wrapping_neg()
    }
}

/// An element as a number.
#[inline(always)]
pub(super) fn number<const W: usize>(element: &[u8; W]) -> u32 {
    element.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
