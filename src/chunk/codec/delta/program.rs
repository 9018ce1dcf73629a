//! The host half of decoding deltas and patches on a device (`kernels/delta.*`): a chunk's parts, parsed
//! and checked, as the numbers and tables that the kernels take. Pure.
//!
//! What this passes, kernels read within the stored bytes whatever words hold; whether a segment ends
//! where it must, they say. Of a patch everything is checked here.

use super::layout::{ENTRIES, Head, PLACE_LEN, STATES_LEN, parse};
use super::table::SLOTS;
use crate::chunk::codec::error::Malformed;
use crate::format::record::CodecId;

/// Words behind the stored bytes that a lane's last look may reach.
const GUARD: usize = 2;
/// Words of [`DeltaProgram::params`].
pub const DELTA_PARAMS: usize = 40;

/// A segment has not as many words as its elements.
pub const BAD_WORDS: u32 = 1;
/// A state does not end where it began.
pub const BAD_STATE: u32 = 2;
/// A segment has not as many escapes as escaped elements.
pub const BAD_ESCAPES: u32 = 4;

/// A chunk that is stored against a base, as kernels decode it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaProgram {
    /// Width, exponent's shift, sign, magnitude, top, contexts, segment's logarithm.
    head: [u32; 7],
    elements: u32,
    segments: u32,
    high: Vec<u32>,
    tables: Vec<u32>,
    /// Words of a patch: where, which bits, what they become.
    patches: Vec<[u32; 3]>,
    is_patch: bool,
    len: u32,
    stored_len: u32,
}

impl DeltaProgram {
    /// The program of a chunk of `len` bytes; an error where the host's decoder has one, but for what is
    /// said of segments.
    pub(in crate::chunk::codec) fn new(
        codec: CodecId,
        parameters: &[u8; 20],
        stored: &[u8],
        len: u32,
    ) -> Result<Self, Malformed> {
        let mut program = Self {
            head: [0; 7],
            elements: 0,
            segments: 0,
            high: Vec::new(),
            tables: Vec::new(),
            patches: Vec::new(),
            is_patch: codec == CodecId::PATCH,
            len,
            // At most 4 MiB.
            stored_len: stored.len() as u32,
        };
        if program.is_patch {
            program.patch(parameters, stored)?;
            return Ok(program);
        }
        let head = Head::parse(parameters)?;
        let (form, width) = (head.form, head.form.width);
        if !(len as usize).is_multiple_of(width) {
            return Err(Malformed::OddLength);
        }
        let n = len as usize / width;
        let (code, segments) = parse(head, stored, n)?;
        program.head = [
            width as u32,
            form.shift(),
            form.sign(),
            form.magnitude(),
            head.contexts.top.into(),
            head.contexts.count as u32,
            head.segment_log2,
        ];
        (program.elements, program.segments) = (n as u32, segments.len() as u32);
        let used = (head.contexts.count * SLOTS).min(ENTRIES);
        program.high = code.high.to_vec();
        program.tables = code.entries.iter().take(used).copied().collect();
        // Of each segment: where its words and its escapes begin and end.
        let fixed = segments.len() * (PLACE_LEN + STATES_LEN);
        let all: usize = segments.iter().map(|segment| segment.end).sum();
        let (mut words, mut escapes) = (fixed, fixed + all);
        for segment in &segments {
            let ends = (words + segment.end, escapes + segment.escapes.len());
            for at in [words, ends.0, escapes, ends.1] {
                program.tables.push(at as u32);
            }
            (words, escapes) = ends;
        }
        Ok(program)
    }

    /// Checks patches by making them, against nothing, and notes the words that they change.
    fn patch(&mut self, parameters: &[u8; 20], stored: &[u8]) -> Result<(), Malformed> {
        let len = self.len as usize;
        let decode = |base: u8| {
            let (base, mut out) = (vec![base; len], vec![0; len]);
            super::super::patch::decode(parameters, stored, &base, &mut out).map(|()| out)
        };
        // A byte that differs from neither of two is the patch's.
        let (zeros, ones) = (decode(0)?, decode(0xff)?);
        for (at, (zeros, ones)) in (0..).zip(zeros.chunks(4).zip(ones.chunks(4))) {
            let word = |bytes: &[u8]| {
                bytes.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            };
            let (value, mask) = (word(zeros), !(word(zeros) ^ word(ones)));
            let inside = u32::MAX >> (32 - 8 * zeros.len() as u32);
            if mask & inside != 0 {
                self.patches.push([at, mask & inside, value]);
            }
        }
        Ok(())
    }

    /// Whether it replaces elements of the base; otherwise each is coded against the base's.
    pub fn is_patch(&self) -> bool {
        self.is_patch
    }

    /// Segments of a delta, or words that a patch changes.
    pub fn parts(&self) -> u32 {
        if self.is_patch { self.patches.len() as u32 } else { self.segments }
    }

    /// Words of the result, and of the base.
    pub fn words(&self) -> u32 {
        self.len.div_ceil(4)
    }

    fn stored_words(&self) -> usize {
        if self.is_patch { 0 } else { (self.stored_len as usize).div_ceil(4) + GUARD }
    }

    /// Bytes of [`Self::image`].
    pub fn image_len(&self) -> u64 {
        let patches = 3 * self.patches.len();
        4 * (self.stored_words() + self.tables.len() + patches) as u64
    }

    /// Bytes that memory must have for the chunk, or its base, to lie there: first word, words of a row,
    /// words from row to row, as in [`Self::params`].
    pub fn reach(&self, [start, row, stride]: [u32; 3]) -> u64 {
        let Some(last) = self.words().checked_sub(1) else { return 0 };
        let [start, row, stride, last] = [start, row.max(1), stride, last].map(u64::from);
        4 * (start + last / row * stride + last % row + 1)
    }

    /// What kernels read of a chunk whose stored bytes are `stored`.
    pub fn image(&self, stored: &[u8], image: &mut Vec<u8>) {
        image.clear();
        if self.is_patch {
            image.extend(self.patches.iter().flatten().flat_map(|word| word.to_le_bytes()));
            return;
        }
        image.extend_from_slice(stored);
        image.resize(4 * self.stored_words(), 0);
        image.extend(self.tables.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// The numbers of a launch. `from` is where the base lies and `to` where the chunk goes: their first
    /// word, words of a row (or all), words from row to row, of what is bound.
    pub fn params(&self, from: [u32; 3], to: [u32; 3]) -> [u32; DELTA_PARAMS] {
        let tables_at = self.stored_words() as u32;
        let segments_at = tables_at + (self.tables.len() as u32).saturating_sub(4 * self.segments);
        let counts = [self.elements, self.parts(), tables_at, segments_at, self.words()];
        let mut params = [0; DELTA_PARAMS];
        let all = self.head.iter().chain(&counts).chain(&from).chain(&to).chain(&[0; 6]);
        let all = all.chain(&self.high);
        params.iter_mut().zip(all).for_each(|(slot, value)| *slot = *value);
        params
    }
}
