//! The host half of decoding on a device (`kernels/planes.*`): a chunk's heads, parsed and checked, as
//! the numbers and tables that the kernels take. Pure.
//!
//! What this passes, kernels read within the stored bytes whatever the streams hold; whether a stream is
//! as long as its symbols and ends in zero bits, and whether an index is in its palette, they say.

use super::huffman::{LEVELS, Lengths, order};
use super::palette::Palette;
use super::parameters::{Mode, Parameters};
use super::planes::MAX_WIDTH;
use super::section::Heads;
use super::streams::STREAM;
use crate::chunk::codec::error::Malformed;
use crate::format::record::CodecId;

/// Words of a code in a table: levels, then the symbols in the order of their codes.
const CODE: usize = 16 + 64;
const _: () = assert!(LEVELS <= 16);
/// Words behind the stored bytes that a stream's last look may reach.
const GUARD: usize = 2;
/// Words of [`Program::params`].
pub const PARAMS: usize = 80;

/// A stream is not as long as its symbols.
pub const BAD_LENGTH: u32 = 1;
/// A stream does not end in zero bits.
pub const BAD_PADDING: u32 = 2;
/// An index is beyond its palette.
pub const BAD_INDEX: u32 = 4;

/// Where a chunk's decoded bytes go: rows of `width` bytes, `stride` apart, all multiples of 4 but for
/// the width of a single row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The first byte, counted from what is bound.
    pub start: u32,
    /// Bytes of a row.
    pub width: u32,
    /// Bytes from row to row.
    pub stride: u32,
}

/// Where what many chunks share begins for one of them, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// Of the images.
    pub image: u32,
    /// Of what coded planes are decoded to.
    pub symbols: u32,
    /// Of the result, before [`Target::start`].
    pub result: u64,
}

/// A chunk as kernels decode it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    elements: u32,
    width: u32,
    exponent: u32,
    /// Kind and value of each plane: raw and its first byte, coded and its number, constant and its byte.
    planes: [[u32; 2]; MAX_WIDTH],
    /// Of each coded plane: where its codes and its streams are in the tables, how many codes.
    coded: Vec<[u32; 3]>,
    /// Values of the palette.
    palette: u32,
    tables: Vec<u32>,
    stored_len: u32,
}

impl Program {
    /// The program of a chunk; an error where [`super::decode`] would have one.
    pub(in crate::chunk::codec) fn new(
        codec: CodecId,
        parameters: &[u8; 20],
        stored: &[u8],
        decoded_len: u32,
    ) -> Result<Self, Malformed> {
        let parameters = Parameters::parse(codec, parameters)?;
        let (width, exponent) = parameters.form.width_and_exponent();
        if !(decoded_len as usize).is_multiple_of(width) {
            return Err(Malformed::OddLength);
        }
        let n = decoded_len as usize / width;
        let mut rest = stored;
        let mut palette = 0;
        if let Some(values) = parameters.palette {
            (_, rest) = Palette::parse(parameters.form, values, stored)?;
            palette = values as u32;
        }
        let mut program = Self {
            elements: n as u32,
            width: width as u32,
            exponent: exponent.into(),
            planes: [[0; 2]; MAX_WIDTH],
            coded: Vec::new(),
            palette,
            tables: Vec::new(),
            // At most 4 MiB.
            stored_len: stored.len() as u32,
        };
        let modes = parameters.modes();
        let mut planes = [[0; 2]; MAX_WIDTH];
        for (plane, mode) in planes.iter_mut().zip(modes).rev() {
            if matches!(mode, Mode::Coded) {
                let heads = Heads::parse(rest, n)?;
                *plane = [1, program.coded.len() as u32];
                program.add(&heads, stored.len());
                rest = heads.rest;
            }
        }
        for (plane, mode) in planes.iter_mut().zip(modes).rev() {
            match mode {
                Mode::Coded => {}
                Mode::Constant(byte) => *plane = [2, u32::from(*byte)],
                Mode::Raw => {
                    *plane = [0, (stored.len() - rest.len()) as u32];
                    rest = rest.get(n..).ok_or(Malformed::PlaneShort)?;
                }
            }
        }
        if !rest.is_empty() {
            return Err(Malformed::PlaneRest);
        }
        program.planes = planes;
        Ok(program)
    }

    /// The program of `len` bytes that are stored as they are.
    pub fn raw(len: u32) -> Self {
        Self {
            elements: len,
            width: 1,
            exponent: 0,
            planes: [[0; 2]; MAX_WIDTH],
            coded: Vec::new(),
            palette: 0,
            tables: Vec::new(),
            stored_len: len,
        }
    }

    /// Adds a coded plane's tables: its codes, then the first byte of each stream with the number of its
    /// code above 24 bits, and where the last one ends.
    fn add(&mut self, heads: &Heads<'_>, stored_len: usize) {
        let codes_at = self.tables.len() as u32;
        for lengths in &heads.codes {
            code(lengths, &mut self.tables);
        }
        let streams_at = self.tables.len() as u32;
        let base = stored_len - heads.data_len();
        for stream in &heads.streams {
            // A chunk has at most 4 MiB, a section at most 8 codes.
            self.tables.push((base + stream.start) as u32 | (stream.code as u32) << 24);
        }
        let end = heads.streams.last().map_or(0, |stream| stream.end);
        self.tables.push((base + end) as u32);
        self.coded.push([codes_at, streams_at, heads.codes.len() as u32]);
    }

    /// Planes that are entropy-coded.
    pub fn coded(&self) -> u32 {
        self.coded.len() as u32
    }

    /// Streams of a coded plane.
    pub fn streams(&self) -> u32 {
        self.elements.div_ceil(STREAM as u32)
    }

    /// Words of device memory that coded planes are decoded to.
    pub fn plane_words(&self) -> u64 {
        u64::from(self.coded()) * u64::from(self.plane_stride())
    }

    fn plane_stride(&self) -> u32 {
        self.streams() * (STREAM as u32 / 4)
    }

    /// Words of the result.
    pub fn words(&self) -> u32 {
        (self.elements * self.width).div_ceil(4)
    }

    /// Words that the stored bytes take, with the room behind them.
    pub fn stored_words(&self) -> usize {
        (self.stored_len as usize).div_ceil(4) + GUARD
    }

    /// Bytes of [`Self::image`].
    pub fn image_len(&self) -> u64 {
        4 * (self.stored_words() + self.tables.len()) as u64
    }

    /// What kernels read of a chunk whose stored bytes are `stored`: those, zeros, the tables.
    pub fn image(&self, stored: &[u8], image: &mut Vec<u8>) {
        image.clear();
        image.extend_from_slice(stored);
        image.resize(4 * self.stored_words(), 0);
        image.extend(self.tables.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// The numbers of a launch that decodes into `target`.
    pub fn params(&self, target: Target, base: Offsets) -> [u32; PARAMS] {
        let stored_words = self.stored_words() as u32;
        let single = target.width >= self.elements * self.width;
        let row_words = if single { u32::MAX } else { target.width / 4 };
        let head = [
            self.elements,
            self.width,
            self.exponent,
            self.coded(),
            self.words(),
            target.start / 4,
            row_words,
            target.stride / 4,
            self.palette,
            stored_words,
            self.plane_stride(),
            self.streams(),
            base.image,
            base.symbols,
            base.result as u32,
            (base.result >> 32) as u32,
        ];
        let mut params = [0; PARAMS];
        params.iter_mut().zip(head).for_each(|(slot, value)| *slot = value);
        let lists = params.get_mut(16..).unwrap_or_default();
        let (planes, coded) = lists.split_at_mut(4 * MAX_WIDTH);
        for (slot, plane) in planes.chunks_mut(4).zip(self.planes) {
            slot.iter_mut().zip(plane).for_each(|(slot, value)| *slot = value);
        }
        for (slot, [codes_at, streams_at, codes]) in coded.chunks_mut(4).zip(&self.coded) {
            let values = [stored_words + codes_at, stored_words + streams_at, *codes];
            slot.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
        }
        params
    }
}

/// Appends a code's words: of each length where its codes end, as 14 bits, and above 16 bits what to add
/// to a code's number for its place among the symbols; then those.
fn code(lengths: &Lengths, tables: &mut Vec<u32>) {
    let (symbols, levels) = order(lengths);
    let start = tables.len();
    tables.extend(levels.iter().map(|(end, place)| u32::from(*end) | u32::from(*place) << 16));
    tables.resize(start + 16, 0);
    tables.extend(symbols.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)));
    debug_assert_eq!(tables.len() - start, CODE);
}
