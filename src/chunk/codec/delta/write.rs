//! Symbols and raw bits as states and words: a decoder's steps, from the last to the first.

#![expect(clippy::indexing_slicing, reason = "what is written here was laid out here")]

use super::form::{BESIDE, MAX_CONTEXTS, SYMBOL_BITS};
use super::layout::{Head, LANES, LOWEST, PLACE_LEN, STATES_LEN};
use super::table::{ESCAPE, Frequencies, SYMBOLS};
use crate::chunk::simd::for_each_simd;

/// Memory that is kept from chunk to chunk.
#[derive(Default)]
pub(super) struct Scratch {
    /// Of each element, its symbol beside its context's number.
    pub(super) symbols: Vec<u16>,
    /// Of each element, its raw bits.
    pub(super) raw: Vec<u32>,
    /// See `write`.
    pub(super) words: Vec<u16>,
}

/// The stored bytes of elements whose symbols and raw bits are in `scratch`: about `len`.
#[inline(always)]
fn write_any(
    head: Head,
    tables: &[Frequencies],
    scratch: &mut Scratch,
    elements: &[u8],
    len: usize,
) -> Vec<u8> {
    let mut codes = Box::new([Code::default(); MAX_CONTEXTS * SYMBOLS]);
    let contexts = codes.as_chunks_mut().0.iter_mut();
    contexts.zip(tables).for_each(|(codes, table)| *codes = codes_of(table));
    let high: Vec<u32> = tables.iter().map(|table| table.raw_bits.saturating_sub(BESIDE)).collect();
    let Scratch { symbols, raw, words: room } = scratch;
    let segment = head.segment();
    let count = symbols.len().div_ceil(segment);
    // Two of each element, and one before them that is never kept.
    room.resize(2 * segment.min(symbols.len()) + 1, 0);
    let mut out = Vec::with_capacity(len + len / 64 + 64);
    out.resize(count * (PLACE_LEN + STATES_LEN), 0);
    let mut escapes = Vec::new();
    let parts = symbols.chunks(segment).zip(raw.chunks(segment));
    for (i, ((symbols, raw), elements)) in
        parts.zip(elements.chunks(segment * head.form.width)).enumerate()
    {
        let Written { states, words, escaped } = write_segment(&codes, &high, symbols, raw, room);
        // Below 2^24 each.
        let place = [words.len() as u32, escaped.len() as u32];
        let (directory, rest) = out.split_at_mut(count * PLACE_LEN);
        let to = directory.as_chunks_mut::<4>().0.iter_mut().skip(i * place.len());
        to.zip(place).for_each(|(to, number)| *to = number.to_le_bytes());
        let to = rest.as_chunks_mut::<4>().0.iter_mut().skip(i * LANES);
        to.zip(states).for_each(|(to, state)| *to = state.to_le_bytes());
        out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        for &at in escaped.iter().rev() {
            let start = at * head.form.width;
            escapes.extend_from_slice(&elements[start..start + head.form.width]);
        }
    }
    out.extend_from_slice(&escapes);
    tables.iter().for_each(|table| table.write(&mut out));
    out
}

for_each_simd! {
    pub(super) fn write(
        head: Head,
        tables: &[Frequencies],
        scratch: &mut Scratch,
        elements: &[u8],
        len: usize,
    ) -> Vec<u8> = write_any
}

/// A symbol as the encoder wants it.
#[derive(Clone, Copy, Default)]
struct Code {
    /// 2^63 by its frequency, rounded up.
    inverse: u64,
    frequency: u32,
    /// Where its slots begin.
    start: u32,
    /// Raw bits beside it.
    beside: u32,
    /// The high half of the least state that must give up a word first.
    full: u32,
    escapes: bool,
}

/// The codes of a context's symbols; those without a frequency have the escape's.
fn codes_of(table: &Frequencies) -> [Code; SYMBOLS] {
    let beside = table.raw_bits.min(BESIDE);
    let code = |frequency: u16, start: u16, escapes| {
        let frequency = u32::from(frequency);
        Code {
            inverse: (1 << 63) / u64::from(frequency.max(1)) + 1,
            frequency,
            start: start.into(),
            beside,
            full: frequency << (BESIDE - beside),
            escapes,
        }
    };
    let starts = table.starts();
    let escape = code(table.of[ESCAPE], starts[ESCAPE], true);
    std::array::from_fn(|symbol| match table.of[symbol] {
        0 => escape,
        frequency => code(frequency, starts[symbol], symbol == ESCAPE),
    })
}

/// A segment.
struct Written<'a> {
    states: [u32; LANES],
    words: &'a [u16],
    /// Which of its elements are escaped, the last first.
    escaped: Vec<usize>,
}

/// Writes one segment to the end of `room`.
#[inline(always)]
fn write_segment<'a>(
    codes: &[Code; MAX_CONTEXTS * SYMBOLS],
    high: &[u32],
    symbols: &[u16],
    raw: &[u32],
    room: &'a mut [u16],
) -> Written<'a> {
    let wide = high.iter().any(|&high| high > 0);
    let mut escaped = Vec::new();
    let mut states = [LOWEST; LANES];
    let mut at = room.len();
    let steps = symbols.chunks(LANES).zip(raw.chunks(LANES));
    for (step, (symbols, raw)) in steps.enumerate().rev() {
        let (mut here, own) = (at, symbols.iter().zip(raw));
        if wide {
            // The raw bits that are not beside a symbol.
            for (state, (&symbol, &raw)) in states.iter_mut().zip(own.clone()).rev() {
                let code = &codes[usize::from(symbol) % codes.len()];
                let bits = high[usize::from(symbol) / SYMBOLS];
                let raw = if code.escapes { 0 } else { raw >> code.beside };
                *state = give(*state, 1 << (16 - bits), room, &mut here) << bits | raw;
            }
        }
        for (lane, (state, (&symbol, &raw))) in states.iter_mut().zip(own).enumerate().rev() {
            let code = &codes[usize::from(symbol) % codes.len()];
            let low = give(*state, code.full, room, &mut here) << code.beside;
            let raw = raw & ((1 << code.beside) - 1);
            let low = if code.escapes { low } else { low | raw };
            let product = u128::from(low) * u128::from(code.inverse);
            let quotient = (product >> 63) as u32;
            *state = (quotient << SYMBOL_BITS) + (low - quotient * code.frequency) + code.start;
            if code.escapes {
                escaped.push(step * LANES + lane);
            }
        }
        at = here;
    }
    Written { states, words: room.get(at..).unwrap_or_default(), escaped }
}

/// The state, without its lower half if its higher one is `full` at least: that is then the word
/// before `at`.
#[inline(always)]
fn give(state: u32, full: u32, words: &mut [u16], at: &mut usize) -> u32 {
    // No branch: which states are full is anybody's guess.
    let gives = u32::from(state >> 16 >= full);
    words[*at - 1] = state as u16;
    *at -= gives as usize;
    state >> (16 * gives)
}
