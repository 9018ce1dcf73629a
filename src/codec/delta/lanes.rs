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
        let (form, contexts) = (self.code.form, self.code.contexts);
        let mut entries = [(0, 0, 0); LANES];
        for (lane, base) in base.iter().enumerate().take(LANES) {
            let context = contexts.of(form, number(base) & form.magnitude());
            let state = self.states[lane];
            let entry =
                self.code.entries[(context << SYMBOL_BITS | state as usize % SLOTS) % ENTRIES];
            let place = entry >> PLACE & PLACE_MASK;
            let state = (state >> SYMBOL_BITS).wrapping_mul(entry & FREQUENCY_MASK) + place;
            let beside = entry >> RAW_BITS & RAW_BITS_MASK;
            entries[lane] = (entry, state & ((1 << beside) - 1), self.code.high[context]);
            self.refill(lane, state >> beside);
        }
        for (lane, (base, out)) in base.iter().zip(out).enumerate().take(LANES) {
            let (entry, mut raw, high) = entries[lane];
            let beside = entry >> RAW_BITS & RAW_BITS_MASK;
            if W == 4 {
                let state = self.states[lane];
                raw |= (state & ((1 << high) - 1)) << beside;
                self.refill(lane, state >> high);
            }
            if (entry >> FLIP) as u8 == ESCAPE_BYTE {
                *out = self.escape()?;
                continue;
            }
            let bits = beside + high;
            let difference = ((entry as i32 >> QUOTIENT) << bits) as u32;
            let difference = difference.wrapping_add(raw).wrapping_sub(1 << bits >> 1);
            let base = number(base);
            let flip = if entry >> FLIP & 1 == 1 { form.sign() } else { 0 };
            let magnitude = (base & form.magnitude()).wrapping_add(difference) & form.magnitude();
            let element = magnitude | (base & form.sign()) ^ flip;
            out.copy_from_slice(&element.to_le_bytes()[..W]);
        }
        Ok(())
    }

    /// Gives the lane this state, and the next word if it is too low.
    #[inline(always)]
    fn refill(&mut self, lane: usize, state: u32) {
        let word = self.words.get(self.at..).and_then(|rest| rest.first_chunk());
        let word = u32::from(word.map_or(0, |word| u16::from_le_bytes(*word)));
        let low = state < LOWEST;
        self.states[lane] = if low { state << 16 | word } else { state };
        self.at += if low { 2 } else { 0 };
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

/// An element as a number.
#[inline(always)]
pub(super) fn number<const W: usize>(element: &[u8; W]) -> u32 {
    element.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
