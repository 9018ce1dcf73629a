//! Values in a header, and how they are read.

use super::GgufError;

/// How deep arrays are nested.
const MAX_DEPTH: u32 = 4;
/// The most elements of an array.
const MAX_COUNT: u64 = 1 << 24;
/// The number of the type of texts, and of arrays.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A whole number.
    Signed(i64),
    /// A number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// Several values of one type.
    Array(Array<'a>),
}

impl Value<'_> {
    /// The value as a whole number that is not negative.
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            _ => None,
        }
    }
}

/// An array, whose bytes were walked over once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    kind: u32,
    count: u64,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Its elements.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its values, one after the other.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (mut cursor, kind) = (Cursor::new(self.bytes), self.kind);
        (0..self.count).map_while(move |_| cursor.value(kind, 1).ok())
    }

    /// Its texts; those values that are none are left out.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values().filter_map(|value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }
}

/// Reads what follows.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// Where it is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], GgufError> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (head, rest) = split.ok_or(GgufError::Cut(self.at))?;
        self.rest = rest;
        self.at += len;
        Ok(head)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], GgufError> {
        let at = self.at;
        self.take(LEN as u64)?.try_into().map_err(|_| GgufError::Cut(at))
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn count(&mut self, what: &'static str, most: u64) -> Result<u64, GgufError> {
        match self.u64()? {
            count if count <= most => Ok(count),
            count => Err(GgufError::Count { what, count, most }),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, GgufError> {
        let len = self.u64()?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|_| GgufError::Utf8(at))
    }

    /// A value of this type, in so many arrays.
    pub(super) fn value(&mut self, kind: u32, depth: u32) -> Result<Value<'a>, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            TEXT => Value::Text(self.text()?),
            ARRAY if depth >= MAX_DEPTH => return Err(GgufError::Depth(MAX_DEPTH)),
            ARRAY => {
                let kind = self.u32()?;
                let count = self.count("values in an array", MAX_COUNT)?;
                let from = self.rest;
                match width(kind) {
                    Some(width) => drop(self.take(count * width)?),
                    None => {
                        for _ in 0..count {
                            self.value(kind, depth + 1)?;
                        }
                    }
                }
                let bytes = from.get(..from.len() - self.rest.len()).unwrap_or_default();
                Value::Array(Array { kind, count, bytes })
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(GgufError::Value(other)),
        })
    }
}

/// Bytes of a value of this type, if all have as many.
fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}
