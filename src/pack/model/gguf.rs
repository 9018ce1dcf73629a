//! The parts of a GGUF file: its header, then one tensor after the other, with what pads them.
//!
//! A file that is not understood (another version, another byte order, a type of block that is not known
//! here) is plain bytes: nothing is lost but that its tensors are not seen.
//!
//! Types of whole elements keep them. A type of blocks is `U8`, with the bytes of a row as the last
//! dimension, because a row is a whole number of blocks.

use std::fs::File;
use std::io;

use memmap2::Mmap;

use super::part::{Part, PartKind};
use crate::gguf::{GgufError, Header, Kind};

/// What a file is.
pub(super) enum Understood {
    /// Its parts, in order, covering it exactly.
    Parts(Vec<Part>),
    /// Nothing that is understood here.
    Not,
    /// Nothing that can be loaded, and why.
    Broken(&'static str),
}

/// Reads the header of the file of `size` bytes.
pub(super) fn parts(file: &File, size: u64) -> io::Result<Understood> {
    if size == 0 {
        return Ok(Understood::Broken("it is empty"));
    }
    // SAFETY: the mapping is read only here, while the header is parsed. A file that shrinks meanwhile
    // ends the process with SIGBUS; nothing that was written to a store depends on it.
    let map = unsafe { Mmap::map(file) }?;
    let header = match Header::parse(&map) {
        Ok(header) => header,
        Err(GgufError::Magic) => {
            return Ok(Understood::Broken("it does not begin as GGUF does"));
        }
        Err(_) => return Ok(Understood::Not),
    };
    Ok(match cover(&header, size) {
        Some(parts) => Understood::Parts(parts),
        None if is_beyond(&header, size) => Understood::Broken("it ends before its last tensor"),
        None => Understood::Not,
    })
}

/// Whether a tensor lies behind the end of the file of `size` bytes.
fn is_beyond(header: &Header<'_>, size: u64) -> bool {
    let ends = header.tensors.iter().filter_map(|tensor| {
        let mut dims = tensor.dims.clone();
        let width = match Kind::numbered(tensor.number)? {
            Kind::Element(dtype) => dtype.bits() / 8,
            Kind::Block(block) => {
                *dims.last_mut()? /= block.elements() as u64;
                block.bytes() as u64
            }
        };
        let elements = dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim))?;
        elements.checked_mul(width)?.checked_add(tensor.offset)?.checked_add(header.data)
    });
    ends.into_iter().any(|end| end > size)
}

/// The parts of a file of `size` bytes; none if its tensors are not known, or do not fit into it side by side.
fn cover(header: &Header<'_>, size: u64) -> Option<Vec<Part>> {
    let mut found = Vec::new();
    for tensor in &header.tensors {
        let (dtype, shape) = tensor.stored().ok()?;
        let (len, name) = (shape.byte_len(dtype)?, tensor.name.to_owned());
        found.push((tensor.offset, len, PartKind::Tensor { name, dtype, shape }));
    }
    found.sort_by_key(|(offset, len, _)| (*offset, *len));
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    let pad = |parts: &mut Vec<Part>, at: u64, to: u64| {
        if to > at {
            parts.push(Part { offset: at, len: to - at, kind: PartKind::Content });
        }
    };
    for (offset, len, kind) in found {
        let data = header.data;
        let start = data.checked_add(offset).filter(|start| *start >= at.max(data))?;
        let end = start.checked_add(len).filter(|end| *end <= size)?;
        pad(&mut parts, at, start);
        parts.push(Part { offset: start, len, kind });
        at = end;
    }
    pad(&mut parts, at, size);
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use crate::gguf::MAGIC;

    fn read(file: &[u8]) -> Option<Vec<Part>> {
        cover(&Header::parse(file).ok()?, file.len() as u64)
    }

    /// A file with these tensors: name, dimensions (innermost first), type, offset.
    fn file(tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut bytes = [MAGIC, &3_u32.to_le_bytes()].concat();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        bytes
            .extend([text("general.architecture"), 8_u32.to_le_bytes().into(), text("x")].concat());
        bytes.extend([text("general.alignment"), 4_u32.to_le_bytes().into()].concat());
        bytes.extend(64_u32.to_le_bytes());
        bytes.extend(
            [text("list"), 9_u32.to_le_bytes().into(), 8_u32.to_le_bytes().into()].concat(),
        );
        bytes.extend([2_u64.to_le_bytes().into(), text("a"), text("bc")].concat());
        for (name, dims, kind, offset) in tensors {
            bytes.extend([text(name), (dims.len() as u32).to_le_bytes().into()].concat());
            dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(64) + data, 7);
        bytes
    }

    #[test]
    fn tensors_are_found_and_the_file_is_covered() {
        let bytes = file(&[("b", &[64, 3], 2, 128), ("a", &[5, 2], 0, 0)], 128 + 108 + 10);
        let parts = read(&bytes).unwrap();
        let mut at = 0;
        for part in &parts {
            assert_eq!(part.offset, at);
            at += part.len;
        }
        assert_eq!(at, bytes.len() as u64);
        let tensors: Vec<_> = parts
            .iter()
            .filter_map(|part| match &part.kind {
                PartKind::Tensor { name, dtype, shape } => Some((&name[..], *dtype, shape.dims())),
                PartKind::Content => None,
            })
            .collect();
        let expected = [("a", Dtype::F32, &[2, 5][..]), ("b", Dtype::U8, &[3, 36])];
        assert_eq!(tensors, expected);
    }

    #[test]
    fn what_is_not_understood_is_plain_bytes() {
        let good = file(&[("a", &[5, 2], 0, 0)], 40);
        assert!(read(&good).is_some());
        for (what, bytes) in [
            ("two of a name", file(&[("a", &[5], 0, 0), ("a", &[5], 0, 64)], 100)),
            ("overlap", file(&[("a", &[5], 0, 0), ("b", &[5], 0, 16)], 100)),
            ("beyond the end", file(&[("a", &[5, 3], 0, 0)], 40)),
            ("an unknown type", file(&[("a", &[5], 99, 0)], 40)),
            ("half a block", file(&[("a", &[33], 2, 0)], 40)),
            ("too large", file(&[("a", &[u64::MAX, 2], 0, 0)], 40)),
            ("no name", file(&[("", &[5], 0, 0)], 40)),
        ] {
            assert!(read(&bytes).is_none(), "{what}");
        }
        for cut in 0..good.len() - 40 {
            assert!(read(&good[..cut]).is_none(), "cut at {cut}");
        }
        assert!(read(&[&good[..4], &[1], &good[5..]].concat()).is_none(), "another version");
    }
}
