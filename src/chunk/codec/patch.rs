//! Codec 33, patch: the base with some of its elements replaced (section 12.5 of codecs.md).
//!
//! Every position is checked before anything is written there.

use super::payload::Payload;
use crate::chunk::codec::error::Malformed;
use crate::chunk::simd::{Simd, for_each_simd};
use crate::format::dtype::Dtype;
use crate::format::record::CodecId;

/// Elements of a block: an index within it has 16 bits.
const BLOCK: usize = 1 << 16;

/// Decodes into the whole of `out`, which is as long as `base`.
pub(super) fn decode(
    parameters: &[u8; 20],
    stored: &[u8],
    base: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    let [width, rest @ ..] = parameters;
    if rest != &[0; 19] {
        return Err(Malformed::NotZero);
    }
    match width {
        1 => decode_as::<1>(stored, base, out),
        2 => decode_as::<2>(stored, base, out),
        4 => decode_as::<4>(stored, base, out),
        8 => decode_as::<8>(stored, base, out),
        _ => Err(Malformed::NoForm),
    }
}

fn decode_as<const W: usize>(stored: &[u8], base: &[u8], out: &mut [u8]) -> Result<(), Malformed> {
    if out.len() != base.len() {
        return Err(Malformed::BaseLength);
    }
    out.copy_from_slice(base);
    let (elements, rest) = out.as_chunks_mut::<W>();
    if !rest.is_empty() {
        return Err(Malformed::OddLength);
    }
    let blocks = elements.len().div_ceil(BLOCK);
    let (counts, stored) = stored.split_at_checked(2 * blocks).ok_or(Malformed::PatchShort)?;
    let counts = counts.as_chunks().0.iter().map(|count| usize::from(u16::from_le_bytes(*count)));
    let all: usize = counts.clone().sum();
    let (indexes, values) = stored.split_at_checked(2 * all).ok_or(Malformed::PatchShort)?;
    let ((mut indexes, _), (mut values, rest)) = (indexes.as_chunks(), values.as_chunks::<W>());
    if values.len() < all {
        return Err(Malformed::PatchShort);
    }
    if values.len() > all || !rest.is_empty() {
        return Err(Malformed::PatchRest);
    }
    for (block, count) in elements.chunks_mut(BLOCK).zip(counts) {
        let (own, own_values);
        (own, indexes) = indexes.split_at_checked(count).ok_or(Malformed::PatchShort)?;
        (own_values, values) = values.split_at_checked(count).ok_or(Malformed::PatchShort)?;
        let own = own.iter().map(|index| u16::from_le_bytes(*index));
        if !own.clone().is_sorted_by(|a, b| a < b) {
            return Err(Malformed::PatchOrder);
        }
        for (index, value) in own.zip(own_values) {
            let element = block.get_mut(usize::from(index)).ok_or(Malformed::PatchBeyond)?;
            *element = *value;
        }
    }
    Ok(())
}

/// What patches would take.
pub(super) struct Draft<'a> {
    width: usize,
    decoded: &'a [u8],
    base: &'a [u8],
    /// Bytes that they take.
    pub(super) len: usize,
}

impl<'a> Draft<'a> {
    /// `base` is as long as `decoded`; nothing if a block has more patches than can be said.
    pub(super) fn new(element: Dtype, decoded: &'a [u8], base: &'a [u8]) -> Option<Self> {
        let wide = (element.bits() / 8) as usize;
        let width = match wide {
            2 | 4 | 8 if decoded.len().is_multiple_of(wide) => wide,
            _ => 1,
        };
        let mut changed = 0;
        for (block, base) in decoded.chunks(width * BLOCK).zip(base.chunks(width * BLOCK)) {
            let differ = differ(Simd::best(), width, block, base);
            if differ == BLOCK {
                return None;
            }
            changed += differ;
        }
        let blocks = (decoded.len() / width).div_ceil(BLOCK);
        Some(Self { width, decoded, base, len: 2 * blocks + changed * (2 + width) })
    }

    /// The patches.
    pub(super) fn finish(&self) -> Payload {
        let stored = match self.width {
            1 => stored_as::<1>(self.decoded, self.base),
            2 => stored_as::<2>(self.decoded, self.base),
            4 => stored_as::<4>(self.decoded, self.base),
            _ => stored_as::<8>(self.decoded, self.base),
        };
        let mut parameters = [0; 20];
        parameters[0] = self.width as u8;
        Payload { codec: CodecId::PATCH, parameters, stored: stored.into() }
    }
}

#[inline(always)]
fn differ_as<const W: usize>(block: &[u8], base: &[u8]) -> usize {
    let number = |x: &[u8; W]| x.iter().rev().fold(0, |x, &byte| x << 8 | u64::from(byte));
    let both = block.as_chunks().0.iter().zip(base.as_chunks().0);
    both.map(|(x, base)| u32::from(number(x) != number(base))).sum::<u32>() as usize
}

#[inline(always)]
fn differ_any(width: usize, block: &[u8], base: &[u8]) -> usize {
    match width {
        1 => differ_as::<1>(block, base),
        2 => differ_as::<2>(block, base),
        4 => differ_as::<4>(block, base),
        _ => differ_as::<8>(block, base),
    }
}

for_each_simd! {
    /// How many elements of a block differ from the base's.
    fn differ(width: usize, block: &[u8], base: &[u8]) -> usize = differ_any
}

fn stored_as<const W: usize>(decoded: &[u8], base: &[u8]) -> Vec<u8> {
    let (mut counts, mut indexes, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (elements, base) = (decoded.as_chunks::<W>().0, base.as_chunks().0);
    for (block, base) in elements.chunks(BLOCK).zip(base.chunks(BLOCK)) {
        let before = indexes.len();
        for ((element, base), index) in block.iter().zip(base).zip(0..=u16::MAX) {
            if element != base {
                indexes.extend_from_slice(&index.to_le_bytes());
                values.extend_from_slice(element);
            }
        }
        // Below 2^16.
        counts.extend_from_slice(&(((indexes.len() - before) / 2) as u16).to_le_bytes());
    }
    [counts, indexes, values].concat()
}
