//! The parts of a GGUF file: its header, then one tensor after the other, with what pads them.
//!
//! A file that is not understood (another version, another byte order, a type of block that is not known
//! here) is plain bytes: nothing is lost but that its tensors are not seen.
//!
//! Types of whole elements keep them. A type of blocks is `U8`, with the bytes of a row as the last
//! dimension, because a row is a whole number of blocks.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;

use memmap2::Mmap;

use super::part::{Part, PartKind};
use crate::format::dtype::{Dtype, Shape};
use crate::format::limits::MAX_NAME;

const MAGIC: &[u8] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// The most of anything that is counted.
const MAX_COUNT: u64 = 1 << 24;
/// How deep arrays are nested.
const MAX_DEPTH: u32 = 4;

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
    Ok(match (read(&map), broken(&map)) {
        (Some(parts), _) => Understood::Parts(parts),
        (None, Some(why)) => Understood::Broken(why),
        (None, None) => Understood::Not,
    })
}

/// Why no reader of GGUF can load the file, as far as its header tells.
fn broken(file: &[u8]) -> Option<&'static str> {
    if !file.starts_with(MAGIC) {
        return Some("it does not begin as GGUF does");
    }
    let (tensors, data) = header(file)?;
    let is_beyond = |(_, number, mut dims, offset): Named<'_>| {
        let width = match kind(number)? {
            Kind::Element(dtype) => dtype.bits() / 8,
            Kind::Block(elements, bytes) => {
                *dims.first_mut()? /= elements;
                bytes
            }
        };
        let elements = dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim))?;
        let end = elements.checked_mul(width)?.checked_add(offset)?.checked_add(data)?;
        Some(end > file.len() as u64)
    };
    let beyond = tensors.into_iter().any(|tensor| is_beyond(tensor).unwrap_or(false));
    beyond.then_some("it ends before its last tensor")
}

/// Elements of a block and its bytes, or the type of whole elements.
enum Kind {
    Element(Dtype),
    Block(u64, u64),
}

fn kind(number: u32) -> Option<Kind> {
    Some(match number {
        0 => Kind::Element(Dtype::F32),
        1 => Kind::Element(Dtype::F16),
        2 => Kind::Block(32, 18),
        3 => Kind::Block(32, 20),
        6 => Kind::Block(32, 22),
        7 => Kind::Block(32, 24),
        8 => Kind::Block(32, 34),
        10 => Kind::Block(256, 84),
        11 => Kind::Block(256, 110),
        12 => Kind::Block(256, 144),
        13 => Kind::Block(256, 176),
        14 => Kind::Block(256, 210),
        15 => Kind::Block(256, 292),
        16 => Kind::Block(256, 66),
        17 => Kind::Block(256, 74),
        18 => Kind::Block(256, 98),
        19 => Kind::Block(256, 50),
        20 => Kind::Block(32, 18),
        21 => Kind::Block(256, 110),
        22 => Kind::Block(256, 82),
        23 => Kind::Block(256, 136),
        24 => Kind::Element(Dtype::I8),
        25 => Kind::Element(Dtype::I16),
        26 => Kind::Element(Dtype::I32),
        27 => Kind::Element(Dtype::I64),
        28 => Kind::Element(Dtype::F64),
        29 => Kind::Block(256, 56),
        30 => Kind::Element(Dtype::BF16),
        34 => Kind::Block(256, 54),
        35 => Kind::Block(256, 66),
        39 => Kind::Block(32, 17),
        _ => return None,
    })
}

/// Reads what follows, as far as there is anything.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<u64> {
        self.u64().filter(|count| *count <= MAX_COUNT)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    /// Passes a value; gives it if it is a u32.
    fn value(&mut self, kind: u32, depth: u32) -> Option<Option<u32>> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4 => return self.u32().map(Some),
            5 | 6 => 4,
            10..=12 => 8,
            8 => return self.text().map(|_| None),
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.count()?);
                for _ in 0..count {
                    self.value(kind, depth + 1)?;
                }
                return Some(None);
            }
            _ => return None,
        };
        self.take(width).map(|_| None)
    }
}

/// A tensor as the header names it: its name, its type, its dimensions, the innermost first, and where it lies.
type Named<'a> = (&'a str, u32, Vec<u64>, u64);

/// What the header names, and where it says that tensors begin.
fn header(file: &[u8]) -> Option<(Vec<Named<'_>>, u64)> {
    let mut cursor = Cursor(file);
    if cursor.take(4)? != MAGIC || ![2, 3].contains(&cursor.u32()?) {
        return None;
    }
    let (tensors, values) = (cursor.count()?, cursor.count()?);
    let mut alignment = ALIGNMENT;
    for _ in 0..values {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0)?;
        if let (b"general.alignment", Some(value)) = (key, value) {
            alignment = Some(u64::from(value)).filter(|value| value.is_power_of_two())?;
        }
    }
    let mut found = Vec::new();
    for _ in 0..tensors {
        let name = std::str::from_utf8(cursor.text()?).ok()?;
        let rank = Some(cursor.u32()?).filter(|rank| *rank <= 8)?;
        let dims = (0..rank).map(|_| cursor.u64()).collect::<Option<Vec<u64>>>()?;
        found.push((name, cursor.u32()?, dims, cursor.u64()?));
    }
    let data = (file.len() - cursor.0.len()) as u64;
    Some((found, data.checked_next_multiple_of(alignment)?))
}

/// The types of blocks among the tensors of a file that begins so, by their numbers; `None` if this is not a
/// whole header.
pub(crate) fn block_types(file: &[u8]) -> Option<BTreeSet<u32>> {
    let (tensors, _) = header(file)?;
    let blocks = tensors.iter().map(|(_, number, ..)| *number);
    Some(blocks.filter(|number| matches!(kind(*number), Some(Kind::Block(..)))).collect())
}

fn read(file: &[u8]) -> Option<Vec<Part>> {
    let (tensors, data) = header(file)?;
    let mut found = Vec::new();
    let mut names = HashSet::new();
    for (name, number, mut dims, offset) in tensors {
        let valid = !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control);
        if !valid || !names.insert(name) {
            return None;
        }
        let dtype = match kind(number)? {
            Kind::Element(dtype) => dtype,
            Kind::Block(elements, bytes) => {
                let row = dims.first_mut().filter(|row| row.is_multiple_of(elements))?;
                *row = (*row / elements).checked_mul(bytes)?;
                Dtype::U8
            }
        };
        dims.reverse();
        let shape = Shape::new(dims)?;
        let len = shape.byte_len(dtype)?;
        found.push((offset, len, PartKind::Tensor { name: name.to_owned(), dtype, shape }));
    }
    let size = file.len() as u64;
    found.sort_by_key(|(offset, len, _)| (*offset, *len));
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    let pad = |parts: &mut Vec<Part>, at: u64, to: u64| {
        if to > at {
            parts.push(Part { offset: at, len: to - at, kind: PartKind::Content });
        }
    };
    for (offset, len, kind) in found {
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
        // The header alone tells the types.
        let found = block_types(&bytes[..bytes.len() - 128 - 108 - 10]).unwrap();
        assert_eq!(found, BTreeSet::from([2]));
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
