//! Packs: chunks back to back, then their index, then a trailer (section 4).

use super::error::FormatError;
use super::layout::{Place, Placed};
use super::limits::MAX_PACK;
use super::record::ChunkRecord;
use super::wire::{Cursor, at_most};
use crate::format::id::PackId;

const MAGIC: &[u8; 4] = b"TPIX";
const VERSION: u8 = 1;
const HEADER: u64 = 32;
const TRAILER_MAGIC: &[u8; 8] = b"TENPAK01";

/// What a pack holds, in order. Its digest is the pack's identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackIndex {
    nonce: u64,
    chunks: Vec<ChunkRecord>,
    data_len: u64,
}

impl PackIndex {
    /// An empty index; `nonce` is 0 unless the pack it would name is marked for deletion.
    pub fn new(nonce: u64) -> Self {
        Self { nonce, chunks: Vec::new(), data_len: 0 }
    }

    /// Whether a chunk of `stored_len` bytes still fits.
    pub fn has_room(&self, stored_len: u32) -> bool {
        let records = self.chunks.len() as u64 + 1;
        let index = HEADER + records * ChunkRecord::LEN as u64;
        self.data_len + u64::from(stored_len) + index + Trailer::LEN <= MAX_PACK
    }

    /// Adds the next chunk and returns its offset; `None` if there is no room.
    pub fn push(&mut self, record: ChunkRecord) -> Option<u32> {
        if !self.has_room(record.stored_len) {
            return None;
        }
        let offset = u32::try_from(self.data_len).ok()?;
        self.data_len += u64::from(record.stored_len);
        self.chunks.push(record);
        Some(offset)
    }

    /// Takes back the last `count` chunks.
    pub fn take_back(&mut self, count: usize) {
        let left = self.chunks.len().saturating_sub(count);
        let taken = self.chunks.split_off(left);
        self.data_len -= taken.iter().map(|record| u64::from(record.stored_len)).sum::<u64>();
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[ChunkRecord] {
        &self.chunks
    }

    /// The chunks with their places in `pack`, which has this index.
    pub fn placed(&self, pack: PackId) -> impl Iterator<Item = Placed> {
        self.chunks.iter().scan(0, move |at, record| {
            let offset = *at;
            *at += record.stored_len;
            Some(Placed { record: *record, place: Place { pack, offset } })
        })
    }

    /// Bytes of the chunks, which the index follows.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// The index's nonce.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The same chunks under another nonce.
    pub fn with_nonce(self, nonce: u64) -> Self {
        Self { nonce, ..self }
    }

    /// The index's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER as usize + self.chunks.len() * ChunkRecord::LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        // Both fit: `push` keeps the pack within 64 MiB.
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.data_len as u32).to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        for record in &self.chunks {
            out.extend_from_slice(&record.to_bytes());
        }
        out
    }

    /// Reads an index and checks it against the pack's name.
    ///
    /// # Errors
    /// If it is malformed, or another than the name's.
    pub fn parse(bytes: &[u8], id: PackId) -> Result<Self, FormatError> {
        let what = "pack index";
        at_most(what, bytes.len() as u64, MAX_PACK)?;
        let found = PackId::of(bytes);
        if found != id {
            let (expected, found) = (id.to_hex(), found.to_hex());
            return Err(FormatError::Digest { what, expected, found });
        }
        let mut c = Cursor::new(what, bytes);
        c.magic(MAGIC)?;
        c.version(VERSION)?;
        c.reserved(3)?;
        let count = c.u32()?;
        let data_len = u64::from(c.u32()?);
        let nonce = c.u64()?;
        c.reserved(8)?;
        let chunks = ChunkRecord::parse_all(c.bytes(c.remaining())?)?;
        if count == 0 || chunks.len() as u64 != u64::from(count) {
            let why = format!("{} records where {count} are announced", chunks.len());
            return Err(FormatError::invalid(what, why));
        }
        at_most("pack", data_len + bytes.len() as u64 + Trailer::LEN, MAX_PACK)?;
        let sum: u64 = chunks.iter().map(|r| u64::from(r.stored_len)).sum();
        if sum != data_len {
            let why = format!("chunks of {sum} bytes where {data_len} are announced");
            return Err(FormatError::invalid(what, why));
        }
        Ok(Self { nonce, chunks, data_len })
    }
}

/// The last 16 bytes of a pack, which lead to its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Length of the index, which ends where the trailer begins.
    pub index_len: u32,
}

impl Trailer {
    /// Bytes of the trailer.
    pub const LEN: u64 = 16;

    /// The trailer's bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN as usize] {
        let mut out = [0; Self::LEN as usize];
        out[..4].copy_from_slice(&self.index_len.to_le_bytes());
        out[8..].copy_from_slice(TRAILER_MAGIC);
        out
    }

    /// Reads a trailer.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut c = Cursor::new("pack trailer", bytes);
        let index_len = c.u32()?;
        c.reserved(4)?;
        c.magic(TRAILER_MAGIC)?;
        c.finish()?;
        at_most("pack index", u64::from(index_len), MAX_PACK)?;
        Ok(Self { index_len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;

    fn index() -> PackIndex {
        let mut index = PackIndex::new(3);
        for (len, text) in [(5, "hello"), (1, "x")] {
            let record = ChunkRecord::raw(Dtype::Bytes, len, blake3::hash(text.as_bytes()));
            index.push(record).unwrap();
        }
        index
    }

    #[test]
    fn indexes_round_trip_and_verify_themselves() {
        let bytes = index().to_bytes();
        let id = PackId::of(&bytes);
        assert_eq!(PackIndex::parse(&bytes, id).unwrap(), index());
        assert_eq!(index().placed(id).map(|chunk| chunk.range()).collect::<Vec<_>>(), [0..5, 5..6]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(PackIndex::parse(&bad, id).is_err(), "byte {at}");
            // Even under a matching name, announced sizes must agree with the records.
            if (8..16).contains(&at) || at < 8 || (24..32).contains(&at) {
                assert!(PackIndex::parse(&bad, PackId::of(&bad)).is_err(), "byte {at}, renamed");
            }
        }
        let trailer = Trailer { index_len: 288 };
        assert_eq!(Trailer::parse(&trailer.to_bytes()).unwrap(), trailer);
        assert!(Trailer::parse(&[0; 16]).is_err());
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut index = index();
        let before = index.clone();
        let record = ChunkRecord::raw(Dtype::Bytes, 7, blake3::hash(b"another"));
        assert_eq!((index.push(record), index.push(record)), (Some(6), Some(13)), "twice");
        index.take_back(2);
        assert_eq!(index, before);
        index.take_back(9);
        assert_eq!((index.chunks().len(), index.data_len()), (0, 0));
    }

    #[test]
    fn a_full_pack_takes_no_more() {
        let mut index = PackIndex::new(0);
        let record = ChunkRecord::raw(Dtype::Bytes, 4 << 20, blake3::hash(b""));
        while index.push(record).is_some() {}
        assert_eq!(index.chunks().len(), 15);
        let len = index.data_len() + index.to_bytes().len() as u64 + Trailer::LEN;
        assert!(len <= MAX_PACK);
        let rest = MAX_PACK - len - ChunkRecord::LEN as u64;
        let exact = ChunkRecord { stored_len: rest as u32, ..record };
        assert!(index.has_room(exact.stored_len) && !index.has_room(exact.stored_len + 1));
    }
}
