//! The chunk record: 128 bytes that say what a chunk is (section 3).

use super::error::FormatError;
use super::limits::{MAX_CHUNK, MAX_DEPTH};
use super::wire::Cursor;
use crate::format::dtype::Dtype;
use crate::format::id::{DecodedDigest, StoredDigest};

/// How a chunk's stored bytes become its decoded bytes. Unknown numbers are kept: only reading the
/// chunk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(pub u8);

impl CodecId {
    /// The decoded bytes as they are.
    pub const RAW: Self = Self(0);
    /// One Zstandard frame.
    pub const ZSTD: Self = Self(1);
    /// Elements as byte planes, each raw, constant or entropy-coded.
    pub const PLANES: Self = Self(16);
    /// Elements as indexes into the few values that they have.
    pub const PALETTE: Self = Self(17);
    /// Elements as differences from those of the base, entropy-coded.
    pub const DELTA: Self = Self(32);
    /// The base with some of its elements replaced.
    pub const PATCH: Self = Self(33);

    /// Whether a chunk of this codec is stored against another one.
    pub const fn has_base(self) -> bool {
        matches!(self, Self::DELTA | Self::PATCH)
    }

    /// The codec's name, or its number.
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::RAW => "raw".into(),
            Self::ZSTD => "zstd".into(),
            Self::PLANES => "planes".into(),
            Self::PALETTE => "palette".into(),
            Self::DELTA => "delta".into(),
            Self::PATCH => "patch".into(),
            Self(number) => format!("codec-{number}").into(),
        }
    }
}

/// The chunk that another is stored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Its content.
    pub decoded: DecodedDigest,
    /// 1 + the base's own depth: how many chunks must be decoded first.
    pub depth: u8,
}

/// What a chunk is; where it lies is said elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRecord {
    /// The codec.
    pub codec: CodecId,
    /// What the codec may assume of the decoded bytes.
    pub element: Dtype,
    /// Parameters of the codec; zero where it has none.
    pub parameters: [u8; 20],
    /// The base chunk, for codecs that have one.
    pub base: Option<Base>,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Their digest: the chunk's identity in transfers and caches.
    pub stored: StoredDigest,
    /// Length of the decoded bytes.
    pub decoded_len: u32,
    /// Their digest.
    pub decoded: DecodedDigest,
}

impl ChunkRecord {
    /// Bytes of a record.
    pub const LEN: usize = 128;

    /// The record of a chunk that is stored as it is.
    pub fn raw(element: Dtype, len: u32, hash: blake3::Hash) -> Self {
        Self {
            codec: CodecId::RAW,
            element,
            parameters: [0; 20],
            base: None,
            stored_len: len,
            stored: StoredDigest::from_hash(hash),
            decoded_len: len,
            decoded: DecodedDigest::from_hash(hash),
        }
    }

    /// Reads one record and checks every rule that concerns it alone.
    ///
    /// # Errors
    /// If one is broken.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, FormatError> {
        let what = "chunk record";
        let mut c = Cursor::new(what, bytes);
        let codec = CodecId(c.u8()?);
        let element = c.u8()?;
        let depth = c.u8()?;
        c.reserved(1)?;
        let stored_len = c.u32()?;
        let decoded_len = c.u32()?;
        let parameters = c.array()?;
        let stored = StoredDigest::from_bytes(c.array()?);
        let decoded = DecodedDigest::from_bytes(c.array()?);
        let base = DecodedDigest::from_bytes(c.array()?);
        c.finish()?;
        let element = Dtype::from_code(element)
            .ok_or_else(|| FormatError::invalid(what, format!("unknown element type {element}")))?;
        let has_base = base.as_bytes() != &[0; 32];
        if has_base != (depth > 0) {
            return Err(FormatError::invalid(what, "depth and base disagree"));
        }
        let record = Self {
            codec,
            element,
            parameters,
            base: has_base.then_some(Base { decoded: base, depth }),
            stored_len,
            stored,
            decoded_len,
            decoded,
        };
        record.validate()?;
        Ok(record)
    }

    fn validate(&self) -> Result<(), FormatError> {
        let what = "chunk record";
        for len in [self.stored_len, self.decoded_len] {
            if len > MAX_CHUNK {
                let (value, limit) = (u64::from(len), u64::from(MAX_CHUNK));
                return Err(FormatError::Limit { what, value, limit });
            }
        }
        if self.stored_len == 0 || self.stored_len > self.decoded_len {
            return Err(FormatError::invalid(
                what,
                format!("{} bytes stored for {} decoded", self.stored_len, self.decoded_len),
            ));
        }
        if self.depth() > MAX_DEPTH {
            let (value, limit) = (u64::from(self.depth()), u64::from(MAX_DEPTH));
            return Err(FormatError::Limit { what: "base depth", value, limit });
        }
        let plain = self.parameters == [0; 20] && self.base.is_none();
        let fits = match self.codec {
            CodecId::RAW => {
                plain
                    && self.stored_len == self.decoded_len
                    && self.stored.as_bytes() == self.decoded.as_bytes()
            }
            CodecId::ZSTD => plain,
            CodecId::PLANES | CodecId::PALETTE => self.base.is_none(),
            codec if codec.has_base() => self.base.is_some(),
            _ => true,
        };
        if fits {
            return Ok(());
        }
        Err(FormatError::invalid(what, format!("fields do not fit codec {}", self.codec.name())))
    }

    /// 0 without a base, else how many chunks must be decoded first.
    pub fn depth(&self) -> u8 {
        self.base.map_or(0, |base| base.depth)
    }

    /// The 128 bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.codec.0;
        out[1] = self.element.code();
        out[2] = self.depth();
        out[4..8].copy_from_slice(&self.stored_len.to_le_bytes());
        out[8..12].copy_from_slice(&self.decoded_len.to_le_bytes());
        out[12..32].copy_from_slice(&self.parameters);
        out[32..64].copy_from_slice(self.stored.as_bytes());
        out[64..96].copy_from_slice(self.decoded.as_bytes());
        if let Some(base) = self.base {
            out[96..128].copy_from_slice(base.decoded.as_bytes());
        }
        out
    }

    /// Reads back-to-back records that fill `bytes`.
    pub(crate) fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, FormatError> {
        let (records, rest) = bytes.as_chunks::<{ Self::LEN }>();
        if !rest.is_empty() {
            let (need, have) = (Self::LEN as u64, rest.len() as u64);
            return Err(FormatError::Length { what: "chunk record", need, have });
        }
        records.iter().map(Self::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Damage = fn(&mut [u8; 128]);

    fn zstd() -> ChunkRecord {
        ChunkRecord {
            codec: CodecId::ZSTD,
            stored_len: 7,
            stored: StoredDigest::of(b"stored"),
            ..ChunkRecord::raw(Dtype::BF16, 10, blake3::hash(b"decoded"))
        }
    }

    #[test]
    fn records_round_trip() {
        let based = ChunkRecord {
            codec: CodecId(40),
            parameters: [9; 20],
            base: Some(Base { decoded: DecodedDigest::of(b"base"), depth: MAX_DEPTH }),
            ..zstd()
        };
        for record in [zstd(), based, ChunkRecord::raw(Dtype::Bytes, 1, blake3::hash(b"x"))] {
            assert_eq!(ChunkRecord::parse(&record.to_bytes()).unwrap(), record);
        }
    }

    #[test]
    fn every_broken_rule_is_named() {
        let damage: [(&str, Damage); 12] = [
            ("reserved", |b| b[3] = 1),
            ("unknown element", |b| b[1] = 200),
            ("depth and base", |b| b[2] = 1),
            ("depth and base", |b| b[96] = 1),
            ("limit", |b| b[8..12].copy_from_slice(&(MAX_CHUNK + 1).to_le_bytes())),
            ("0 bytes stored", |b| b[4..8].fill(0)),
            ("11 bytes stored", |b| b[4] = 11),
            ("fit codec zstd", |b| b[12] = 1),
            ("fit codec raw", |b| b[0] = 0),
            ("fit codec delta", |b| b[0] = 32),
            ("fit codec patch", |b| b[0] = 33),
            ("base depth", |b| (b[0], b[2], b[96]) = (40, 9, 1)),
        ];
        for (message, damage) in damage {
            let mut bytes = zstd().to_bytes();
            damage(&mut bytes);
            let error = ChunkRecord::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} does not say {message:?}");
        }
    }
}
