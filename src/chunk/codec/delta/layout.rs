//! What lies where in a delta's stored bytes (section 12.4 of codecs.md).
//!
//! The parts are found by lengths alone, which are compared with the whole before they are used.

use super::form::{BESIDE, Contexts, Form, MAX_CONTEXTS};
use super::table::{Entry, Frequencies, SLOTS};
use crate::chunk::codec::error::Malformed;

/// States that take turns in a segment.
pub(super) const LANES: usize = 32;
/// No state is below this but between a symbol and the word that follows it.
pub(super) const LOWEST: u32 = 1 << 16;
/// Binary logarithms of the elements of a segment.
pub(super) const SEGMENT_LOG2: std::ops::RangeInclusive<u32> = 10..=22;
/// Bytes of a segment in the directory, and of its states.
pub(super) const PLACE_LEN: usize = 8;
pub(super) const STATES_LEN: usize = 4 * LANES;
/// Entries of the tables of all contexts.
pub(super) const ENTRIES: usize = MAX_CONTEXTS * SLOTS;

/// The parameters of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) form: Form,
    pub(super) contexts: Contexts,
    pub(super) segment_log2: u32,
}

impl Head {
    pub(super) fn parse(parameters: &[u8; 20]) -> Result<Self, Malformed> {
        let &[width, exponent, count, top, segment_log2, ..] = parameters;
        let form = Form::new(width, exponent).ok_or(Malformed::NoForm)?;
        let contexts = Contexts { count: usize::from(count), top };
        let most = if form.exponent == 0 { 1 } else { MAX_CONTEXTS };
        if !(1..=most).contains(&contexts.count) || u32::from(top) >> form.exponent != 0 {
            return Err(Malformed::NoContexts);
        }
        let segment_log2 = u32::from(segment_log2);
        if !SEGMENT_LOG2.contains(&segment_log2) {
            return Err(Malformed::NoSegment);
        }
        let head = Self { form, contexts, segment_log2 };
        if head.to_bytes() != *parameters {
            return Err(Malformed::NotZero);
        }
        Ok(head)
    }

    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        // All are small.
        bytes[0] = self.form.width as u8;
        bytes[1] = self.form.exponent as u8;
        bytes[2] = self.contexts.count as u8;
        bytes[3] = self.contexts.top;
        bytes[4] = self.segment_log2 as u8;
        bytes
    }

    /// Elements of every segment but the last, which has the rest.
    pub(super) fn segment(self) -> usize {
        1 << self.segment_log2
    }
}

/// How the elements of a chunk are decoded: its tables, all of which are right.
pub(super) struct Code {
    pub(super) form: Form,
    pub(super) contexts: Contexts,
    /// By context and slot.
    pub(super) entries: Box<[Entry; ENTRIES]>,
    /// Of each context, the raw bits that are not beside a symbol.
    pub(super) high: [u32; MAX_CONTEXTS],
}

impl Code {
    fn parse(head: Head, mut stored: &[u8]) -> Result<Self, Malformed> {
        let mut entries = Box::new([0; ENTRIES]);
        let mut high = [0; MAX_CONTEXTS];
        let contexts = entries.as_chunks_mut().0.iter_mut().zip(&mut high);
        for (entries, high) in contexts.take(head.contexts.count) {
            let (frequencies, rest) = Frequencies::parse(head.form, stored)?;
            frequencies.fill(entries);
            *high = frequencies.raw_bits.saturating_sub(BESIDE);
            stored = rest;
        }
        if !stored.is_empty() {
            return Err(Malformed::TablesRest);
        }
        Ok(Self { form: head.form, contexts: head.contexts, entries, high })
    }
}

/// A segment: all that decoding it needs beside the code and the base.
pub(super) struct Segment<'a> {
    pub(super) states: [u32; LANES],
    /// Its words and, behind them, what follows in the chunk.
    pub(super) words: &'a [u8],
    /// Bytes of its own words.
    pub(super) end: usize,
    pub(super) escapes: &'a [u8],
}

/// The code, and the segments of `n` elements, which `stored` holds exactly.
pub(super) fn parse(
    head: Head,
    stored: &[u8],
    n: usize,
) -> Result<(Code, Vec<Segment<'_>>), Malformed> {
    let count = n.div_ceil(head.segment());
    let (directory, rest) = stored.split_at_checked(count * PLACE_LEN).ok_or(Malformed::Short)?;
    let (states, words) = rest.split_at_checked(count * STATES_LEN).ok_or(Malformed::Short)?;
    let places = directory.as_chunks::<PLACE_LEN>().0.iter().map(|&[a, b, c, d, e, f, g, h]| {
        let (words, escapes) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        // Below 2^35 each.
        (2 * u64::from(words), head.form.width as u64 * u64::from(escapes))
    });
    let (all_words, all_escapes) =
        places.clone().fold((0_u64, 0_u64), |sum, place| (sum.0 + place.0, sum.1 + place.1));
    if all_words + all_escapes > words.len() as u64 {
        return Err(Malformed::SegmentOverruns);
    }
    // Both are at most the length of `words`.
    let (mut escapes, tables) = words
        .split_at_checked(all_words as usize)
        .ok_or(Malformed::SegmentOverruns)
        .and_then(|(_, rest)| {
            rest.split_at_checked(all_escapes as usize).ok_or(Malformed::SegmentOverruns)
        })?;
    let code = Code::parse(head, tables)?;
    let mut segments = Vec::with_capacity(count);
    let mut start = 0;
    for (states, (end, own)) in states.as_chunks::<STATES_LEN>().0.iter().zip(places) {
        let states: [_; LANES] = *states.as_chunks().0.first_chunk().ok_or(Malformed::Short)?;
        let states = states.map(u32::from_le_bytes);
        if states.iter().any(|&state| state < LOWEST) {
            return Err(Malformed::StateLow);
        }
        let (own, rest) =
            escapes.split_at_checked(own as usize).ok_or(Malformed::SegmentOverruns)?;
        escapes = rest;
        let end = end as usize;
        let words = words.get(start..).ok_or(Malformed::SegmentOverruns)?;
        segments.push(Segment { states, words, end, escapes: own });
        start += end;
    }
    Ok((code, segments))
}
