//! Layouts: where each chunk of an artifact lies (section 7). Nothing commits to them.

use std::ops::Range;

use super::error::FormatError;
use super::limits::{MAX_PACK, MAX_RECORDS};
use super::record::ChunkRecord;
use super::wire::{Cursor, at_most};
use crate::format::id::{ManifestId, PackId};

const MAGIC: &[u8; 4] = b"TPLY";
const VERSION: u8 = 1;

/// Where a chunk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// Offset of the stored bytes in it.
    pub offset: u32,
}

impl Place {
    /// Bytes of an entry.
    pub const LEN: u64 = 40;

    /// Reads back-to-back entries that fill `bytes`.
    ///
    /// # Errors
    /// If they do not fill it.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, FormatError> {
        let (entries, rest) = bytes.as_chunks::<{ Self::LEN as usize }>();
        if !rest.is_empty() {
            let have = rest.len() as u64;
            return Err(FormatError::Length { what: "layout entry", need: Self::LEN, have });
        }
        entries.iter().map(Self::parse).collect()
    }

    fn parse(bytes: &[u8; Self::LEN as usize]) -> Result<Self, FormatError> {
        let mut c = Cursor::new("layout entry", bytes);
        let pack = PackId::from_bytes(c.array()?);
        let offset = c.u32()?;
        c.reserved(4)?;
        c.finish()?;
        at_most("layout entry offset", u64::from(offset), MAX_PACK)?;
        Ok(Self { pack, offset })
    }
}

/// A chunk with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// What it is.
    pub record: ChunkRecord,
    /// Where the layout says it lies.
    pub place: Place,
}

impl Placed {
    /// Its bytes in the pack.
    pub fn range(&self) -> Range<u64> {
        let start = u64::from(self.place.offset);
        start..start + u64::from(self.record.stored_len)
    }
}

/// The places of all records of an artifact's table, in table order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Whose layout this is.
    pub manifest: ManifestId,
    /// One place per record.
    pub places: Vec<Place>,
}

impl Layout {
    /// Bytes before the first entry.
    pub const HEADER: u64 = 64;

    /// The bytes of the object that hold the entries of `records`.
    pub fn slice(records: Range<u64>) -> Range<u64> {
        Self::HEADER + Place::LEN * records.start..Self::HEADER + Place::LEN * records.end
    }

    /// The object's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = Self::slice(0..self.places.len() as u64).end;
        let mut out = Vec::with_capacity(len as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&(self.places.len() as u64).to_le_bytes());
        out.extend_from_slice(self.manifest.as_bytes());
        out.extend_from_slice(&[0; 16]);
        for place in &self.places {
            out.extend_from_slice(place.pack.as_bytes());
            out.extend_from_slice(&place.offset.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        out
    }

    /// Reads a whole layout and checks that it belongs to `manifest`.
    ///
    /// # Errors
    /// If it is malformed or another's.
    pub fn parse(bytes: &[u8], manifest: ManifestId) -> Result<Self, FormatError> {
        let what = "layout";
        let mut c = Cursor::new(what, bytes);
        c.magic(MAGIC)?;
        c.version(VERSION)?;
        c.reserved(3)?;
        let count = at_most(what, c.u64()?, MAX_RECORDS)?;
        let found = ManifestId::from_bytes(c.array()?);
        if found != manifest {
            let (expected, found) = (manifest.to_hex(), found.to_hex());
            return Err(FormatError::Digest { what, expected, found });
        }
        c.reserved(16)?;
        let have = c.remaining() as u64;
        if have != count * Place::LEN {
            return Err(FormatError::Length { what, need: count * Place::LEN, have });
        }
        let places = Place::parse_all(c.bytes(c.remaining())?)?;
        Ok(Self { manifest, places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip_and_slices_parse_alone() {
        let place = |n: u32| Place { pack: PackId::of(&[n as u8]), offset: n };
        let manifest = ManifestId::of(b"m");
        let layout = Layout { manifest, places: (0..5).map(place).collect() };
        let bytes = layout.to_bytes();
        assert_eq!(Layout::parse(&bytes, manifest).unwrap(), layout);
        let slice = Layout::slice(2..4);
        let part = &bytes[slice.start as usize..slice.end as usize];
        assert_eq!(Place::parse_all(part).unwrap(), layout.places[2..4]);
        assert!(Layout::parse(&bytes, ManifestId::of(b"other")).is_err());
        assert!(Layout::parse(&bytes[..bytes.len() - 1], manifest).is_err());
        for at in (0..8).chain(48..64) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Layout::parse(&bad, manifest).is_err(), "byte {at}");
        }
    }
}
