//! How weights without codes of ours become lanes: plain floats, and blocks of GGUF that are decoded.

use super::lanes::{LANES, Lanes};
use super::source::{Row, Source};
use super::states::CHUNK;
use crate::dequant::{blocks, gguf};

/// Plain floats, of the type `FLOAT`.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, const FLOAT: u8> {
    bytes: &'a [u8],
    columns: usize,
}

pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const BF16: u8 = 2;

impl<'a, const FLOAT: u8> Plain<'a, FLOAT> {
    pub(super) fn new(bytes: &'a [u8], columns: usize) -> Self {
        Self { bytes, columns }
    }

    const SIZE: usize = if FLOAT == F32 { 4 } else { 2 };

    /// # Safety
    /// `from` is good for 16 floats.
    #[inline(always)]
    unsafe fn half<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's.
        unsafe {
            match FLOAT {
                F32 => L::load(from.cast()),
                F16 => L::f16(from),
                _ => L::bf16(from),
            }
        }
    }
}

// SAFETY: rows and steps that the weight has lie within its bytes, whose number was checked when it was made.
unsafe impl<const FLOAT: u8> Source for Plain<'_, FLOAT> {
    type Group<L: Lanes> = ();
    type Step<L: Lanes> = *const u8;

    fn steps(&self) -> usize {
        self.columns / CHUNK
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize, next: usize) -> Row {
        let each = self.columns * Self::SIZE;
        // SAFETY: the trait's.
        let bytes = unsafe { self.bytes.as_ptr().add(row * each) };
        Row::plain(bytes, each, next)
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, _row: Row, _group: usize) {}

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> *const u8 {
        // SAFETY: the trait's.
        unsafe { row.at::<L>(step * CHUNK * Self::SIZE) }
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(&self, (): (), step: &mut *const u8, at: usize) -> L {
        // SAFETY: the trait's.
        unsafe { Self::half(step.add(at * LANES * Self::SIZE)) }
    }

    #[inline(always)]
    unsafe fn rest<L: Lanes>(&self, row: usize) -> Option<(L, L)> {
        let rest = self.columns % CHUNK;
        if rest == 0 {
            return None;
        }
        let mut padded = [0_u8; CHUNK * 4];
        let from = (row * self.columns + self.columns - rest) * Self::SIZE;
        let own = self.bytes.get(from..from + rest * Self::SIZE)?;
        padded.get_mut(..own.len())?.copy_from_slice(own);
        let at = padded.as_ptr();
        // SAFETY: `padded` holds a step of the widest float.
        unsafe { Some((Self::half(at), Self::half(at.add(LANES * Self::SIZE)))) }
    }
}

/// The most elements of a block.
const BLOCK: usize = 256;

/// Blocks of GGUF of `VECTORS` vectors, each decoded as a step.
#[derive(Clone, Copy)]
pub(super) struct Decoded<'a, const VECTORS: usize> {
    bytes: &'a [u8],
    block: gguf::Block,
    columns: usize,
}

impl<'a, const VECTORS: usize> Decoded<'a, VECTORS> {
    pub(super) fn new(block: gguf::Block, bytes: &'a [u8], columns: usize) -> Self {
        assert!(block.elements() == VECTORS * LANES, "blocks of another length");
        Self { bytes, block, columns }
    }
}

// SAFETY: rows and blocks that the weight has lie within its bytes; vectors lie within the elements of a block.
unsafe impl<const VECTORS: usize> Source for Decoded<'_, VECTORS> {
    type Group<L: Lanes> = ();
    type Step<L: Lanes> = [f32; BLOCK];

    const VECTORS: usize = VECTORS;
    const AGAIN: bool = false;

    fn steps(&self) -> usize {
        self.columns / self.block.elements()
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize, next: usize) -> Row {
        let each = self.steps() * self.block.bytes();
        // SAFETY: the trait's.
        let bytes = unsafe { self.bytes.as_ptr().add(row * each) };
        Row::plain(bytes, each, next)
    }

    #[inline(always)]
    unsafe fn open<L: Lanes>(&self, _row: Row, _group: usize) {}

    #[inline(always)]
    unsafe fn step<L: Lanes>(&self, row: Row, step: usize) -> [f32; BLOCK] {
        let (mut values, size) = ([0.0; BLOCK], self.block.bytes());
        // SAFETY: the trait's: the row has the block.
        let own = unsafe { std::slice::from_raw_parts(row.at::<L>(step * size), size) };
        blocks::decode(self.block, own, values.get_mut(..VECTORS * LANES).unwrap_or_default());
        values
    }

    #[inline(always)]
    unsafe fn vector<L: Lanes>(&self, (): (), step: &mut [f32; BLOCK], at: usize) -> L {
        // SAFETY: a vector of a block lies within its values.
        unsafe { L::load(step.as_ptr().add(at * LANES)) }
    }
}
