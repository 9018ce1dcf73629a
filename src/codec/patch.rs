//! Codec 33, patch: the base with some of its elements replaced (section 12.5 of codecs.md).
//!
//! Every position is checked before anything is written there.

use super::Payload;
use crate::dtype::Dtype;
use crate::format::record::CodecId;

/// Elements of a block: an index within it has 16 bits.
const BLOCK: usize = 1 << 16;

/// Decodes into the whole of `out`, which is as long as `base`.
pub(super) fn decode(
    parameters: &[u8; 20],
    stored: &[u8],
    base: &[u8],
    out: &mut [u8],
) -> Result<(), &'static str> {
    let [width, rest @ ..] = parameters;
    if rest != &[0; 19] {
        return Err("its parameters have bytes that should be zero");
    }
    match width {
        1 => decode_as::<1>(stored, base, out),
        2 => decode_as::<2>(stored, base, out),
        4 => decode_as::<4>(stored, base, out),
        8 => decode_as::<8>(stored, base, out),
        _ => Err("its parameters name no form of elements"),
    }
}

fn decode_as<const W: usize>(
    stored: &[u8],
    base: &[u8],
    out: &mut [u8],
) -> Result<(), &'static str> {
    const SHORT: &str = "its patches are cut short";
    if out.len() != base.len() {
        return Err("its base has another length");
    }
    out.copy_from_slice(base);
    let (elements, rest) = out.as_chunks_mut::<W>();
    if !rest.is_empty() {
        return Err("the decoded length is no whole number of elements");
    }
    let blocks = elements.len().div_ceil(BLOCK);
    let (counts, stored) = stored.split_at_checked(2 * blocks).ok_or(SHORT)?;
    let counts = counts.as_chunks().0.iter().map(|count| usize::from(u16::from_le_bytes(*count)));
    let all: usize = counts.clone().sum();
    let (indexes, values) = stored.split_at_checked(2 * all).ok_or(SHORT)?;
    let ((mut indexes, _), (mut values, rest)) = (indexes.as_chunks(), values.as_chunks::<W>());
    if values.len() < all {
        return Err(SHORT);
    }
    if values.len() > all || !rest.is_empty() {
        return Err("there are bytes behind its patches");
    }
    for (block, count) in elements.chunks_mut(BLOCK).zip(counts) {
        let (own, own_values);
        (own, indexes) = indexes.split_at_checked(count).ok_or(SHORT)?;
        (own_values, values) = values.split_at_checked(count).ok_or(SHORT)?;
        let own = own.iter().map(|index| u16::from_le_bytes(*index));
        if !own.clone().is_sorted_by(|a, b| a < b) {
            return Err("its patches do not ascend");
        }
        for (index, value) in own.zip(own_values) {
            let element = block.get_mut(usize::from(index)).ok_or("a patch is beyond the chunk")?;
            *element = *value;
        }
    }
    Ok(())
}

/// The patches, if they take less than `most` bytes; `base` is as long as `decoded`.
pub(super) fn encode(element: Dtype, decoded: &[u8], base: &[u8], most: usize) -> Option<Payload> {
    match element.bits() {
        16 => encode_as::<2>(decoded, base, most),
        32 => encode_as::<4>(decoded, base, most),
        64 => encode_as::<8>(decoded, base, most),
        _ => encode_as::<1>(decoded, base, most),
    }
}

fn encode_as<const W: usize>(decoded: &[u8], base: &[u8], most: usize) -> Option<Payload> {
    let (elements, rest) = decoded.as_chunks::<W>();
    if !rest.is_empty() {
        return encode_as::<1>(decoded, base, most);
    }
    let blocks = elements.chunks(BLOCK).zip(base.as_chunks::<W>().0.chunks(BLOCK));
    let mut counts = Vec::with_capacity(2 * blocks.len());
    let (mut indexes, mut values) = (Vec::new(), Vec::new());
    for (block, base) in blocks {
        let before = values.len();
        for ((element, base), index) in block.iter().zip(base).zip(0..=u16::MAX) {
            if element != base {
                indexes.extend_from_slice(&index.to_le_bytes());
                values.extend_from_slice(element);
            }
        }
        let count = u16::try_from((values.len() - before) / W).ok()?;
        counts.extend_from_slice(&count.to_le_bytes());
        if counts.len() + indexes.len() + values.len() >= most {
            return None;
        }
    }
    let mut parameters = [0; 20];
    parameters[0] = W as u8;
    let stored = [counts, indexes, values].concat().into();
    Some(Payload { codec: CodecId::PATCH, parameters, stored })
}
