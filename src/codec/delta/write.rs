//! Symbols and raw bits as states and words: a decoder's steps, from the last to the first.

use super::encode::Scratch;
use super::form::MAX_CONTEXTS;
use super::layout::{Head, LANES, LOWEST};
use super::table::{BESIDE, ESCAPE, Frequencies, SYMBOL_BITS, SYMBOLS};

/// The stored bytes of elements whose symbols and raw bits are in `scratch`.
pub(super) fn write(
    head: Head,
    tables: &[Frequencies],
    scratch: &mut Scratch,
    elements: &[u8],
) -> Vec<u8> {
    let mut codes = Box::new([Code::default(); MAX_CONTEXTS * SYMBOLS]);
    let contexts = codes.as_chunks_mut().0.iter_mut();
    contexts.zip(tables).for_each(|(codes, table)| *codes = codes_of(table));
    let high: Vec<u32> = tables.iter().map(|table| table.raw_bits.saturating_sub(BESIDE)).collect();
    let (mut directory, mut states) = (Vec::new(), Vec::new());
    let (mut words, mut escapes) = (Vec::new(), Vec::new());
    let segment = head.segment();
    let Scratch { symbols, raw, words: room } = scratch;
    let mut writer = Writer::new(segment.min(symbols.len()), room);
    let parts = symbols.chunks(segment).zip(raw.chunks(segment));
    for ((symbols, raw), elements) in parts.zip(elements.chunks(segment * head.form.width)) {
        let escaped = writer.write(&codes, &high, symbols, raw);
        let own = writer.words.get(writer.at..).unwrap_or_default();
        // Below 2^24 each.
        directory.extend_from_slice(&(own.len() as u32).to_le_bytes());
        directory.extend_from_slice(&(escaped.len() as u32).to_le_bytes());
        states.extend(writer.states.iter().flat_map(|state| state.to_le_bytes()));
        words.extend(own.iter().flat_map(|word| word.to_le_bytes()));
        for &at in escaped.iter().rev() {
            let start = at * head.form.width;
            escapes.extend_from_slice(&elements[start..start + head.form.width]);
        }
    }
    let mut out = [directory, states, words, escapes].concat();
    tables.iter().for_each(|table| table.write(&mut out));
    out
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

/// Where segments are written, from their ends on.
struct Writer<'a> {
    states: [u32; LANES],
    words: &'a mut [u16],
    /// The first of the words that are written.
    at: usize,
}

impl<'a> Writer<'a> {
    /// For segments of at most `n` elements.
    fn new(n: usize, words: &'a mut Vec<u16>) -> Self {
        // Two of each element, and one before them that is never kept.
        words.resize(2 * n + 1, 0);
        Self { states: [LOWEST; LANES], words, at: 0 }
    }

    /// Writes one segment; which of its elements are escaped, the last first.
    fn write(
        &mut self,
        codes: &[Code; MAX_CONTEXTS * SYMBOLS],
        high: &[u32],
        symbols: &[u16],
        raw: &[u32],
    ) -> Vec<usize> {
        let wide = high.iter().any(|&high| high > 0);
        let mut escaped = Vec::new();
        self.states = [LOWEST; LANES];
        self.at = self.words.len();
        let steps = symbols.chunks(LANES).zip(raw.chunks(LANES));
        for (step, (symbols, raw)) in steps.enumerate().rev() {
            if wide {
                self.write_high(codes, high, symbols, raw);
            }
            let lanes = self.states.iter_mut().zip(symbols.iter().zip(raw)).enumerate().rev();
            for (lane, (state, (&symbol, &raw))) in lanes {
                let code = &codes[usize::from(symbol) % codes.len()];
                let low = give(*state, code.full, self.words, &mut self.at) << code.beside;
                let raw = raw & ((1 << code.beside) - 1);
                let low = if code.escapes { low } else { low | raw };
                let product = u128::from(low) * u128::from(code.inverse);
                let quotient = (product >> 63) as u32;
                *state = (quotient << SYMBOL_BITS) + (low - quotient * code.frequency) + code.start;
                if code.escapes {
                    escaped.push(step * LANES + lane);
                }
            }
        }
        escaped
    }

    /// The raw bits of a step that are not beside a symbol.
    fn write_high(&mut self, codes: &[Code], high: &[u32], symbols: &[u16], raw: &[u32]) {
        for (state, (&symbol, &raw)) in self.states.iter_mut().zip(symbols.iter().zip(raw)).rev() {
            let code = &codes[usize::from(symbol)];
            let bits = high[usize::from(symbol) / SYMBOLS];
            let raw = if code.escapes { 0 } else { raw >> code.beside };
            *state = give(*state, 1 << (16 - bits), self.words, &mut self.at) << bits | raw;
        }
    }
}

/// The state, without its lower half if its higher one is `full` at least.
#[inline(always)]
fn give(state: u32, full: u32, words: &mut [u16], at: &mut usize) -> u32 {
    let gives = state >> 16 >= full;
    words[*at - 1] = state as u16;
    *at -= usize::from(gives);
    if gives { state >> 16 } else { state }
}
