//! Elements as symbols and raw bits: which contexts they have, and with which frequencies.
//!
//! Integers alone decide, so that every machine writes the same.

#![expect(
    clippy::indexing_slicing,
    reason = "counts and tables have an entry for every symbol and context"
)]

use super::form::{Contexts, Form, MAX_CONTEXTS, SYMBOL_BITS};
use super::lanes::number;
use super::layout::{Head, LANES, PLACE_LEN, SEGMENT_LOG2, STATES_LEN};
use super::table::{self, ESCAPE, Frequencies, SLOTS, SYMBOLS};
use super::write::{self, Scratch};
use crate::chunk::simd::{Simd, for_each_simd};

/// Bytes of a segment at least, if there are so many: its states lose about a hundred.
const SEGMENT_BYTES: u64 = 20_000;
/// A context has one element in so many at least; rarer exponents share one.
const RARE: u64 = 1000;
/// Elements of a context for which finer symbols pay.
const MANY: u64 = 8192;
/// Costs are in parts of a bit.
const PART: u32 = 6;

/// Of long chunks, one run in so many is looked at before its contexts are chosen.
const SAMPLE: usize = 8;
/// Elements of a run.
const RUN: usize = 256;

/// How often each exponent comes in the base, and how far the elements against it differ in all.
type Exponents = [(u64, u64); 256];

#[inline(always)]
fn exponents_as<const W: usize>(form: Form, base: &[u8], elements: &[u8]) -> Exponents {
    // Two of them, so that equal neighbours do not wait for each other.
    let mut exponents = [[(0, 0); 256]; 2];
    let both = base.as_chunks::<W>().0.chunks(RUN).zip(elements.as_chunks::<W>().0.chunks(RUN));
    let step = if both.len() > MANY as usize / RUN * SAMPLE { SAMPLE } else { 1 };
    for (i, (base, element)) in
        both.step_by(step).flat_map(|(base, elements)| base.iter().zip(elements)).enumerate()
    {
        let base = number(base) & form.magnitude();
        let difference = difference(form, base, number(element) & form.magnitude());
        let (count, sum) = &mut exponents[i % 2][(base >> form.shift()) as usize % 256];
        *count += step as u64;
        *sum += u64::from(difference.unsigned_abs()) * step as u64;
    }
    let [mut exponents, others] = exponents;
    for (of, other) in exponents.iter_mut().zip(others) {
        *of = (of.0 + other.0, of.1 + other.1);
    }
    exponents
}

/// By how much a magnitude is above the base's; of numbers that wrap, the nearer way.
#[inline(always)]
fn difference(form: Form, base: u32, element: u32) -> i32 {
    let beyond = form.magnitude().leading_zeros();
    (element.wrapping_sub(base) << beyond) as i32 >> beyond
}

/// What is known of a chunk before it is coded.
pub(super) struct Draft<'a> {
    simd: Simd,
    head: Head,
    tables: Vec<Frequencies>,
    scratch: &'a mut Scratch,
    /// Bytes that it will take, or a few more or less.
    pub(super) len: u64,
}

impl<'a> Draft<'a> {
    /// `base` is as long as `elements`, which are one at least.
    pub(super) fn new(
        simd: Simd,
        form: Form,
        base: &[u8],
        elements: &[u8],
        scratch: &'a mut Scratch,
    ) -> Self {
        let exponents = exponents(simd, form, base, elements);
        let contexts = choose_contexts(form, &exponents);
        let mut of = [(0, 0); MAX_CONTEXTS];
        for (exponent, &(count, sum)) in exponents.iter().enumerate() {
            let of = &mut of[contexts.of(form, (exponent as u32) << form.shift())];
            *of = (of.0 + count, of.1 + sum);
        }
        let raw_bits = of.map(|(count, sum)| raw_bits(form, count, sum));
        let n = elements.len() / form.width;
        let Scratch { symbols, raw, .. } = &mut *scratch;
        symbols.resize(n, 0);
        raw.resize(n, 0);
        split(simd, form, contexts, &raw_bits, base, elements, symbols, raw);
        let mut counts = vec![[0_u32; SYMBOLS]; MAX_CONTEXTS];
        count(symbols, &mut counts);
        let (mut tables, mut parts, mut escapes, mut stored) =
            (Vec::new(), 0_u64, 0_u64, Vec::new());
        for (counts, raw_bits) in counts.iter_mut().zip(raw_bits).take(contexts.count) {
            escape_rare(form, counts);
            let total: u32 = counts.iter().sum();
            let frequencies = if total == counts[ESCAPE] {
                Frequencies::escapes()
            } else {
                Frequencies { raw_bits, of: table::normalise(counts) }
            };
            for (&count, &frequency) in counts.iter().zip(&frequencies.of) {
                if count > 0 {
                    parts += u64::from(count) * u64::from(cost(frequency));
                }
            }
            parts += u64::from(total) * u64::from(frequencies.raw_bits << PART);
            escapes += u64::from(counts[ESCAPE]);
            frequencies.write(&mut stored);
            tables.push(frequencies);
        }
        let bytes = parts / (8 << PART) + escapes * form.width as u64;
        let segment_log2 = segment_log2(n as u64, bytes);
        let head = Head { form, contexts, segment_log2 };
        let each = (PLACE_LEN + STATES_LEN - LANES * 2) as u64;
        let len = bytes + stored.len() as u64 + n.div_ceil(head.segment()) as u64 * each;
        Self { simd, head, tables, scratch, len }
    }

    pub(super) fn parameters(&self) -> [u8; 20] {
        self.head.to_bytes()
    }

    /// The stored bytes.
    pub(super) fn finish(self, elements: &[u8]) -> Vec<u8> {
        write::write(self.simd, self.head, &self.tables, self.scratch, elements, self.len as usize)
    }
}

/// The first exponent with which all so far have enough elements.
fn enough(counts: impl Iterator<Item = (u8, u64)>, all: u64) -> u8 {
    let sums = counts.scan(0, |sum, (exponent, count)| {
        *sum += count;
        Some((exponent, *sum))
    });
    sums.filter(|of| of.1 * RARE >= all).map(|of| of.0).next().unwrap_or(0)
}

/// The contexts that have enough elements each.
fn choose_contexts(form: Form, exponents: &Exponents) -> Contexts {
    if form.exponent == 0 {
        return Contexts { count: 1, top: 0 };
    }
    let counts = (0..=255).zip(exponents.iter().map(|of| of.0));
    let all: u64 = counts.clone().map(|of| of.1).sum();
    let (top, bottom) = (enough(counts.clone().rev(), all), enough(counts, all));
    let count = usize::from(top.saturating_sub(bottom)) + 1;
    Contexts { count: count.min(MAX_CONTEXTS), top }
}

/// The raw bits for `count` differences of `sum` in all: symbols are then half a standard deviation
/// wide, or a fourth where so many pay for a longer table.
fn raw_bits(form: Form, count: u64, sum: u64) -> u32 {
    let mean = sum.checked_div(count).unwrap_or(0).max(1);
    let finer = u32::from(count > MANY);
    mean.ilog2().saturating_sub(finer).min(form.most_raw_bits())
}

/// A symbol that comes so seldom that it costs more than escapes is escaped.
fn escape_rare(form: Form, counts: &mut [u32; SYMBOLS]) {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    // A frequency of 1 costs all others 3/2 of a 1024th of a bit, and a byte in the table.
    let worth = 8 + total * 3 / (2 * SLOTS as u64);
    let escape = 8 * form.width as u64;
    let mut escaped = 0;
    for count in counts.iter_mut().skip(1) {
        if u64::from(*count) * escape < worth {
            escaped += std::mem::take(count);
        }
    }
    counts[ESCAPE] += escaped;
}

/// The binary logarithm of the segments' length.
fn segment_log2(n: u64, bytes: u64) -> u32 {
    let elements = n * SEGMENT_BYTES / bytes.max(1);
    let log2 = elements.max(1).next_power_of_two().ilog2();
    log2.clamp(*SEGMENT_LOG2.start(), *SEGMENT_LOG2.end())
}

/// What a symbol of this frequency, 1 to 1024, costs.
fn cost(frequency: u16) -> u32 {
    let whole = frequency.ilog2();
    let part = (u32::from(frequency) << (15 - whole)) & 0x7fff;
    // log2(1 + p) is about p + 0.344 p (1 - p).
    let bend = (((part * (0x8000 - part)) >> 15) * 11_272) >> 15;
    (SYMBOL_BITS << PART) - ((whole << 15 | (part + bend).min(0x7fff)) >> (15 - PART))
}

#[inline(always)]
fn split_as<const W: usize>(
    form: Form,
    contexts: Contexts,
    raw_bits: &[u32; MAX_CONTEXTS],
    base: &[u8],
    elements: &[u8],
    symbols: &mut [u16],
    raw: &mut [u32],
) {
    let both = base.as_chunks::<W>().0.iter().zip(elements.as_chunks::<W>().0);
    for ((base, element), (symbol, raw)) in both.zip(symbols.iter_mut().zip(raw)) {
        let (base, element) = (number(base), number(element));
        let flips = (base ^ element) & form.sign() != 0;
        let base = base & form.magnitude();
        let difference = difference(form, base, element & form.magnitude());
        let context = contexts.of(form, base);
        let bits = raw_bits[context];
        let biased = difference.wrapping_add(1 << bits >> 1);
        // Both are small.
        *symbol = (context * SYMBOLS + table::symbol(biased >> bits, flips)) as u16;
        *raw = biased as u32 & ((1 << bits) - 1);
    }
}

fn count_any(symbols: &[u16], counts: &mut [[u32; SYMBOLS]]) {
    for &symbol in symbols {
        counts[usize::from(symbol) / SYMBOLS][usize::from(symbol) % SYMBOLS] += 1;
    }
}

#[inline(always)]
fn exponents_any(form: Form, base: &[u8], elements: &[u8]) -> Exponents {
    match form.width {
        1 => exponents_as::<1>(form, base, elements),
        2 => exponents_as::<2>(form, base, elements),
        _ => exponents_as::<4>(form, base, elements),
    }
}

#[inline(always)]
fn split_any(
    form: Form,
    contexts: Contexts,
    raw_bits: &[u32; MAX_CONTEXTS],
    base: &[u8],
    elements: &[u8],
    symbols: &mut [u16],
    raw: &mut [u32],
) {
    match form.width {
        1 => split_as::<1>(form, contexts, raw_bits, base, elements, symbols, raw),
        2 => split_as::<2>(form, contexts, raw_bits, base, elements, symbols, raw),
        _ => split_as::<4>(form, contexts, raw_bits, base, elements, symbols, raw),
    }
}

for_each_simd! {
    fn exponents(form: Form, base: &[u8], elements: &[u8]) -> Exponents = exponents_any
}

for_each_simd! {
    #[expect(clippy::too_many_arguments, reason = "one loop for each width and processor")]
    fn split(
        form: Form,
        contexts: Contexts,
        raw_bits: &[u32; MAX_CONTEXTS],
        base: &[u8],
        elements: &[u8],
        symbols: &mut [u16],
        raw: &mut [u32],
    ) = split_any
}

fn count(symbols: &[u16], counts: &mut [[u32; SYMBOLS]]) {
    count_any(symbols, counts);
}
