//! Which pieces floats are converted in, where they lie in several buffers of a device and are bound a
//! part at a time. Pure.
//!
//! Every element is in exactly one piece; a piece lies in one buffer on either side, begins where a
//! device may bind it, and counts from 0 in 32 bits, however large the tensor.

use std::ops::Range;

use super::{Float, QuantError};

/// The most elements of a piece: with four bytes each, its offsets stay below 2^32.
pub const MAX: u64 = 1 << 29;
/// Elements that the start of a piece is a multiple of: 256 bytes in every type, which any device binds.
const UNIT: u64 = 128;

/// Part of a memory that is several buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which buffer.
    pub buffer: usize,
    /// Bytes of it.
    pub bytes: Range<u64>,
}

/// A piece: as many elements from one place to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Elements.
    pub elements: u64,
    /// Where they are.
    pub from: Place,
    /// Where they go.
    pub to: Place,
}

/// A memory of floats: their type, and the bytes of each of its buffers but the last.
pub type Side = (Float, u64);

/// The pieces of `elements` floats, of which a device binds `binding` bytes at a time. Buffers are
/// multiples of 512 bytes, or the only one.
///
/// # Errors
/// If the device binds too little for one piece.
pub fn pieces(elements: u64, from: Side, to: Side, binding: u64) -> Result<Vec<Piece>, QuantError> {
    let most = (binding / 4 / UNIT * UNIT).min(MAX);
    if most == 0 {
        return Err(QuantError::Unsupported("the device binds less than 512 bytes"));
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < elements {
        let mut count = most.min(elements - at);
        for (float, segment) in [from, to] {
            count = count.min((segment - at * float.size() % segment) / float.size());
        }
        let place = |(float, segment): Side| {
            let start = at * float.size();
            let within = start % segment;
            let buffer = usize::try_from(start / segment).unwrap_or(usize::MAX);
            Place { buffer, bytes: within..within + count * float.size() }
        };
        if count == 0 {
            return Err(QuantError::Unsupported("a buffer that ends within an element"));
        }
        pieces.push(Piece { elements: count, from: place(from), to: place(to) });
        at += count;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_each_element_once_in_places_that_can_be_bound() {
        let one = u64::MAX;
        for elements in [0, 1, 127, 128, 5000, 100_003] {
            for (from, to) in
                [(Float::BF16, Float::F32), (Float::F32, Float::F16), (Float::F16, Float::BF16)]
            {
                for (a, b) in [(one, one), (512, 1024), (1536, 512), (one, 4608)] {
                    for binding in [512, 7000, 1 << 40] {
                        let found = pieces(elements, (from, a), (to, b), binding).unwrap();
                        let mut at = 0;
                        for piece in &found {
                            for (place, size, segment) in
                                [(&piece.from, from.size(), a), (&piece.to, to.size(), b)]
                            {
                                let Range { start, end } = place.bytes;
                                assert_eq!(start % 256, 0);
                                assert!(end <= segment && end - start <= binding);
                                assert_eq!(end - start, piece.elements * size);
                                let before =
                                    if segment == one { 0 } else { segment * place.buffer as u64 };
                                assert_eq!(before + start, at * size);
                            }
                            at += piece.elements;
                        }
                        assert_eq!(at, elements);
                    }
                }
            }
        }
        assert!(pieces(1, (Float::F32, one), (Float::F16, one), 511).is_err());
    }

    #[test]
    fn beyond_4_gib_every_piece_counts_in_32_bits() {
        let elements = (5 << 30) + 7;
        let side = |float| (float, (4_u64 << 30) - 512);
        let found = pieces(elements, side(Float::BF16), side(Float::F32), u64::MAX).unwrap();
        assert_eq!(found.iter().map(|piece| piece.elements).sum::<u64>(), elements);
        assert!(found.iter().all(|piece| piece.elements * 4 <= u64::from(u32::MAX)));
        assert!(found.iter().any(|piece| piece.to.buffer == 5));
    }
}
