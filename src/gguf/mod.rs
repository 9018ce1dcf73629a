//! GGUF: what the header of a file says, and a model's configuration and tokenizer made of it. Pure.
//!
//! Versions 2 and 3, little-endian. A header is read without copies: nothing is allocated for a count that the file
//! does not have the bytes of, and values are parsed when they are asked for.

pub mod config;
mod error;
mod families;
pub mod names;
pub mod regex;
pub mod tokenizer;
pub mod value;

pub use error::GgufError;
pub use value::{Array, Value};

use std::collections::HashSet;

use crate::dequant::gguf::Block;
use crate::format::dtype::{Dtype, Shape};
use crate::format::limits::MAX_NAME;
use value::Cursor;

/// What a file begins with.
pub const MAGIC: &[u8] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// The most tensors, and the most values.
const MAX_COUNT: u64 = 1 << 24;
/// The most dimensions.
const MAX_RANK: u32 = 8;

/// The elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole elements.
    Element(Dtype),
    /// Blocks of several.
    Block(Block),
}

impl Kind {
    /// The type that files number so.
    pub fn numbered(number: u32) -> Option<Self> {
        let dtype = match number {
            0 => Dtype::F32,
            1 => Dtype::F16,
            24 => Dtype::I8,
            25 => Dtype::I16,
            26 => Dtype::I32,
            27 => Dtype::I64,
            28 => Dtype::F64,
            30 => Dtype::BF16,
            other => return Block::numbered(other).map(Self::Block),
        };
        Some(Self::Element(dtype))
    }
}

/// A tensor as a header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number of its type.
    pub number: u32,
    /// Its dimensions, the outermost first.
    pub dims: Vec<u64>,
    /// Where it begins, counted from where tensors do.
    pub offset: u64,
}

impl Tensor<'_> {
    /// Its type and shape as they are kept: blocks are bytes, with those of a row as the last dimension.
    ///
    /// # Errors
    /// If the type is not known, or the shape does not go with it.
    pub fn stored(&self) -> Result<(Dtype, Shape), GgufError> {
        let wrong = |why| GgufError::Tensor { name: self.name.to_owned(), why };
        let unknown = || GgufError::Type { name: self.name.to_owned(), number: self.number };
        let mut dims = self.dims.clone();
        let dtype = match Kind::numbered(self.number).ok_or_else(unknown)? {
            Kind::Element(dtype) => dtype,
            Kind::Block(block) => {
                let (elements, bytes) = (block.elements() as u64, block.bytes() as u64);
                let row = dims.last_mut().ok_or_else(|| wrong("blocks without a row"))?;
                if !row.is_multiple_of(elements) {
                    return Err(wrong("its rows are no whole number of blocks"));
                }
                *row =
                    (*row / elements).checked_mul(bytes).ok_or_else(|| wrong("it is too large"))?;
                Dtype::U8
            }
        };
        let shape = Shape::new(dims).filter(|shape| shape.byte_len(dtype).is_some());
        Ok((dtype, shape.ok_or_else(|| wrong("it is too large"))?))
    }
}

/// What a file says of itself.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// Keys with their values, in the order of the file.
    pub values: Vec<(&'a str, Value<'a>)>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<Tensor<'a>>,
    /// Where tensors begin.
    pub data: u64,
}

impl<'a> Header<'a> {
    /// Reads the header at the beginning of `file`, which may end anywhere behind it.
    ///
    /// # Errors
    /// If it is none, or not one of those that are read here.
    pub fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        if !file.starts_with(MAGIC) {
            return Err(GgufError::Magic);
        }
        let mut cursor = Cursor::new(file);
        cursor.take(4)?;
        match cursor.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 2 | 3) => return Err(GgufError::BigEndian),
            version => return Err(GgufError::Version(version)),
        }
        let tensors = cursor.count("tensors", MAX_COUNT)?;
        let count = cursor.count("values", MAX_COUNT)?;
        let (mut values, mut keys) = (Vec::new(), HashSet::new());
        for _ in 0..count {
            let key = cursor.text()?;
            if !keys.insert(key) {
                return Err(GgufError::Twice(key.to_owned()));
            }
            let kind = cursor.u32()?;
            values.push((key, cursor.value(kind, 0)?));
        }
        let mut header = Self { values, tensors: Vec::new(), data: 0 };
        let alignment = match header.value("general.alignment") {
            None => ALIGNMENT,
            Some(value) => match value.unsigned() {
                Some(value) if value.is_power_of_two() && value <= 1 << 20 => value,
                _ => return Err(GgufError::Alignment),
            },
        };
        let mut names = HashSet::new();
        for _ in 0..tensors {
            let name = cursor.text()?;
            let wrong = |why| GgufError::Tensor { name: name.to_owned(), why };
            if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
                return Err(wrong("it has no name that can be kept"));
            }
            if !names.insert(name) {
                return Err(wrong("two tensors are called so"));
            }
            let rank = cursor.u32()?;
            if rank > MAX_RANK {
                return Err(wrong("it has more than 8 dimensions"));
            }
            let mut dims = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<u64>, _>>()?;
            dims.reverse();
            let (number, offset) = (cursor.u32()?, cursor.u64()?);
            header.tensors.push(Tensor { name, number, dims, offset });
        }
        let data = cursor.at().checked_next_multiple_of(alignment);
        header.data = data.ok_or(GgufError::Alignment)?;
        Ok(header)
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value<'a>> {
        self.values.iter().find(|(own, _)| *own == key).map(|(_, value)| value)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        self.value(key)?.unsigned()
    }

    /// A number.
    pub fn float(&self, key: &str) -> Option<f64> {
        self.value(key)?.float()
    }

    /// Yes or no.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// An array.
    pub fn array(&self, key: &str) -> Option<&Array<'a>> {
        match self.value(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The types of blocks among its tensors, by name.
    pub fn blocks(&self) -> impl Iterator<Item = (&'a str, Block)> {
        self.tensors.iter().filter_map(|tensor| match Kind::numbered(tensor.number)? {
            Kind::Block(block) => Some((tensor.name, block)),
            Kind::Element(_) => None,
        })
    }
}

#[cfg(test)]
mod tests;
