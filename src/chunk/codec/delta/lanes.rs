//! One segment, element by element: what every processor can do, and the rest of what a faster one
//! has begun.
//!
//! Whatever is stored, nothing outside it is read: beyond its end are zeros.

#![expect(clippy::indexing_slicing, reason = "every index is taken modulo the length of its array")]

use super::form::{Form, SYMBOL_BITS};
use super::layout::{Code, ENTRIES, LANES, LOWEST, Segment};
use super::table::{
    ESCAPE_BYTE, Entry, FLIP, FREQUENCY_MASK, PLACE, PLACE_MASK, QUOTIENT, RAW_BITS, RAW_BITS_MASK,
    SLOTS,
};
use crate::chunk::codec::error::Malformed;

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
    ) -> Result<(), Malformed> {
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
    ) -> Result<(), Malformed> {
        let &Code { form, contexts, ref entries, ref high } = self.code;
        let mut words = Words::new(self.words, self.at);
        let mut parts = [(0, 0, 0, 0); LANES];
        let lanes = base.iter().zip(out.iter_mut()).zip(&mut parts);
        for (state, ((base, out), part)) in self.states.iter_mut().zip(lanes) {
            let base = number(base);
            let context = contexts.of(form, base & form.magnitude());
            let entry = entries[(context * SLOTS + *state as usize % SLOTS) % ENTRIES];
            let place = entry >> PLACE & PLACE_MASK;
            let next = (*state >> SYMBOL_BITS).wrapping_mul(entry & FREQUENCY_MASK) + place;
            let beside = entry >> RAW_BITS & RAW_BITS_MASK;
            let raw = next & ((1 << beside) - 1);
            *state = words.refill(next >> beside);
            if W == 4 {
                *part = (base, entry, raw, beside);
            } else {
                *out = element(form, base, entry, raw, beside, &mut self.escapes)?;
            }
        }
        if W == 4 {
            let lanes = parts.iter().zip(out);
            for (state, (&(base, entry, raw, beside), out)) in self.states.iter_mut().zip(lanes) {
                let high = high[contexts.of(form, base & form.magnitude())];
                let raw = raw | (*state & ((1 << high) - 1)) << beside;
                *state = words.refill(*state >> high);
                *out = element(form, base, entry, raw, beside + high, &mut self.escapes)?;
            }
        }
        self.at += 2 * words.taken;
        Ok(())
    }

    /// The next element that is stored whole.
    pub(super) fn escape<const W: usize>(&mut self) -> Result<[u8; W], Malformed> {
        escape(&mut self.escapes)
    }

    /// Whether the segment ends as it must.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.at != self.end {
            return Err(Malformed::WordCount);
        }
        if self.states != [LOWEST; LANES] {
            return Err(Malformed::StateEnd);
        }
        if !self.escapes.is_empty() {
            return Err(Malformed::EscapeRest);
        }
        Ok(())
    }
}

/// The element that an entry and all its raw bits make of the base's.
#[inline(always)]
fn element<const W: usize>(
    form: Form,
    base: u32,
    entry: Entry,
    raw: u32,
    bits: u32,
    escapes: &mut &[u8],
) -> Result<[u8; W], Malformed> {
    if (entry >> FLIP) as u8 == ESCAPE_BYTE {
        return escape(escapes);
    }
    let difference = ((entry as i32 >> QUOTIENT) << bits) as u32;
    let difference = difference.wrapping_add(raw).wrapping_sub(1 << bits >> 1);
    let sum = (base & form.magnitude()).wrapping_add(difference) & form.magnitude();
    let sign = (base ^ (entry >> FLIP & 1).wrapping_neg()) & form.sign();
    Ok(*(sum | sign).to_le_bytes().first_chunk().unwrap_or(&[0; W]))
}

/// The next of the elements that are stored whole.
fn escape<const W: usize>(escapes: &mut &[u8]) -> Result<[u8; W], Malformed> {
    let (element, rest) = escapes.split_first_chunk().ok_or(Malformed::EscapeMissing)?;
    *escapes = rest;
    Ok(*element)
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
