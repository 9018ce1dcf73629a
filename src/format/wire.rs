//! Little-endian fields: a cursor that cannot read past the end, and its writing twin.

use super::error::FormatError;

/// Reads fields off the front of `rest`; `what` names the object in errors.
pub(crate) struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes, at: 0 }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            let have = self.rest.len() as u64;
            return Err(FormatError::Length { what: self.what, need: len as u64, have });
        };
        self.rest = rest;
        self.at += len as u64;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn magic(&mut self, magic: &[u8]) -> Result<(), FormatError> {
        let what = self.what;
        if self.bytes(magic.len())? == magic { Ok(()) } else { Err(FormatError::Magic { what }) }
    }

    pub(crate) fn version(&mut self, known: u8) -> Result<(), FormatError> {
        match self.u8()? {
            found if found == known => Ok(()),
            found => Err(FormatError::Version { what: self.what, found: u64::from(found) }),
        }
    }

    pub(crate) fn reserved(&mut self, len: usize) -> Result<(), FormatError> {
        let at = self.at;
        if self.bytes(len)?.iter().all(|&b| b == 0) {
            return Ok(());
        }
        Err(FormatError::Reserved { what: self.what, at })
    }

    /// UTF-8 text of `len` bytes, without control characters.
    pub(crate) fn text(&mut self, len: usize) -> Result<&'a str, FormatError> {
        let what = self.what;
        let text = std::str::from_utf8(self.bytes(len)?)
            .map_err(|_| FormatError::invalid(what, "a name is not UTF-8"))?;
        // Most names are plain, and there are many.
        let controls = match text.is_ascii() {
            true => text.bytes().any(|b| b.is_ascii_control()),
            false => text.contains(char::is_control),
        };
        if controls {
            return Err(FormatError::invalid(what, format!("{text:?} has a control character")));
        }
        Ok(text)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let have = self.at + self.rest.len() as u64;
        Err(FormatError::Length { what: self.what, need: self.at, have })
    }
}

/// `value`, unless it is above `limit`.
pub(crate) fn at_most(what: &'static str, value: u64, limit: u64) -> Result<u64, FormatError> {
    if value <= limit { Ok(value) } else { Err(FormatError::Limit { what, value, limit }) }
}

/// `value` as a narrower integer; what does not fit is over the limit of its field.
pub(crate) fn narrow<T>(what: &'static str, value: u64) -> Result<T, FormatError>
where
    T: TryFrom<u64>,
{
    let limit = u64::MAX >> (64 - 8 * size_of::<T>().min(8));
    T::try_from(value).map_err(|_| FormatError::Limit { what, value, limit })
}
