//! Codecs: verified stored bytes to decoded bytes and back, without loss (section 12).

mod float;
mod simd;
mod zstd;

pub use float::program::{BAD_INDEX, BAD_LENGTH, BAD_PADDING, PARAMS, Program, Target};

use bytes::{Bytes, BytesMut};

use crate::dtype::Dtype;
use crate::format::record::{ChunkRecord, CodecId};
use crate::id::{DecodedDigest, StoredDigest};
use crate::verify::VerifiedChunk;

/// A chunk that was verified and still does not decode: whoever signed it wrote it so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// This release has no such codec.
    #[error("codec {0} is not known to this release; use a newer tenpak")]
    UnknownCodec(u8),
    /// The codec rejects the bytes.
    #[error("{codec} does not decode: {why}")]
    Malformed { codec: &'static str, why: String },
    /// Another number of bytes than the record says.
    #[error("{codec} decoded to {have} bytes, not {need}")]
    Length { codec: &'static str, need: u32, have: usize },
}

/// Decodes `chunk` onto the end of `out`, which must have room for its decoded length, so that a
/// region of a larger buffer can be filled without moving. Nothing is appended on an error.
pub fn decode(chunk: &VerifiedChunk, out: &mut BytesMut) -> Result<(), DecodeError> {
    match chunk.record().codec {
        CodecId::RAW => out.extend_from_slice(chunk.stored()),
        CodecId::ZSTD => zstd::decode(chunk.stored(), chunk.record().decoded_len, out)?,
        codec @ (CodecId::PLANES | CodecId::PALETTE) => decode_float(codec, chunk, out)?,
        CodecId(number) => return Err(DecodeError::UnknownCodec(number)),
    }
    Ok(())
}

fn decode_float(
    codec: CodecId,
    chunk: &VerifiedChunk,
    out: &mut BytesMut,
) -> Result<(), DecodeError> {
    let record = chunk.record();
    let start = out.len();
    out.resize(start + record.decoded_len as usize, 0);
    let Some(region) = out.get_mut(start..) else { return Ok(()) };
    float::decode(codec, &record.parameters, chunk.stored(), region).map_err(|why| {
        out.truncate(start);
        let codec = if codec == CodecId::PALETTE { "palette" } else { "planes" };
        DecodeError::Malformed { codec, why: why.to_owned() }
    })
}

impl Program {
    /// How a device decodes the chunk of `record`, whose stored bytes were verified; `None` if no kernel
    /// decodes its codec.
    pub fn of(record: &ChunkRecord, stored: &[u8]) -> Result<Option<Self>, DecodeError> {
        let codec = match record.codec {
            CodecId::RAW => return Ok(Some(Self::raw(record.decoded_len))),
            CodecId::PLANES => "planes",
            CodecId::PALETTE => "palette",
            _ => return Ok(None),
        };
        let program = Self::new(record.codec, &record.parameters, stored, record.decoded_len);
        let malformed = |why: &str| DecodeError::Malformed { codec, why: why.to_owned() };
        program.map(Some).map_err(malformed)
    }
}

/// The decoded bytes of `chunk`, without a copy where the codec is raw.
pub fn into_decoded(chunk: VerifiedChunk) -> Result<Bytes, DecodeError> {
    if chunk.record().codec == CodecId::RAW {
        return Ok(chunk.into_stored().freeze());
    }
    let mut out = BytesMut::with_capacity(chunk.record().decoded_len as usize);
    decode(&chunk, &mut out)?;
    Ok(out.freeze())
}

/// Which codecs a packer may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CodecChoice {
    /// The smallest of all, chunk by chunk.
    #[default]
    Auto,
    /// As it is.
    Raw,
    /// Zstandard, where it is smaller than raw.
    Zstd,
    /// Elements at their entropy, where that is smaller than raw.
    Float,
}

impl CodecChoice {
    /// Every choice with its name on the command line.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Auto, "auto"), (Self::Raw, "raw"), (Self::Zstd, "zstd"), (Self::Float, "float")];
}

/// An encoded chunk: its record and its stored bytes.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// What it is.
    pub record: ChunkRecord,
    /// What is stored.
    pub stored: Bytes,
}

/// A chunk's stored bytes, and what is needed to decode them.
#[derive(Debug, Clone)]
pub struct Payload {
    /// Through which codec.
    pub codec: CodecId,
    /// Its parameters.
    pub parameters: [u8; 20],
    /// What is stored.
    pub stored: Bytes,
}

/// Encodes decoded bytes, of which there are 1 byte to 4 MiB; never larger than they are.
#[derive(Default)]
pub struct Encoder {
    zstd: zstd::Encoder,
    float: float::Encoder,
}

impl Encoder {
    /// The chunk of `decoded`, through the smallest codec that `choice` allows.
    pub fn encode(&mut self, choice: CodecChoice, element: Dtype, decoded: Bytes) -> Encoded {
        let hash = blake3::hash(&decoded);
        // `decoded` is at most 4 MiB.
        let raw = ChunkRecord::raw(element, decoded.len() as u32, hash);
        let Some(payload) = self.compress(choice, element, &decoded) else {
            return Encoded { record: raw, stored: decoded };
        };
        let Payload { codec, parameters, stored } = payload;
        let record = ChunkRecord {
            codec,
            parameters,
            stored_len: stored.len() as u32,
            stored: StoredDigest::of(&stored),
            decoded: DecodedDigest::from_hash(hash),
            ..raw
        };
        Encoded { record, stored }
    }

    /// How the chunk is stored, if that is smaller than it is.
    pub fn compress(
        &mut self,
        choice: CodecChoice,
        element: Dtype,
        decoded: &[u8],
    ) -> Option<Payload> {
        let zstd = |stored| Payload { codec: CodecId::ZSTD, parameters: [0; 20], stored };
        let draft = match choice {
            CodecChoice::Raw => return None,
            CodecChoice::Zstd => return self.zstd.encode(decoded).map(zstd),
            CodecChoice::Float | CodecChoice::Auto => self.float.draft(element, decoded),
        };
        let most = draft.as_ref().map_or(decoded.len(), |draft| draft.len);
        if choice == CodecChoice::Auto
            && let Some(stored) = self.zstd.encode_if_promising(decoded, most)
        {
            return Some(zstd(stored));
        }
        draft.map(|draft| Payload {
            codec: draft.codec(),
            parameters: draft.parameters(),
            stored: draft.finish().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(encoded: &Encoded) -> Bytes {
        let stored = BytesMut::from(&encoded.stored[..]);
        into_decoded(VerifiedChunk::verify(encoded.record, stored).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn every_choice_round_trips(seed: Vec<u8>, repeat in 1_usize..400, choice in 0_usize..4) {
            let mut data = seed.repeat(repeat);
            data.push(1);
            let data = Bytes::from(data);
            let (choice, _) = CodecChoice::ALL[choice];
            let encoded = Encoder::default().encode(choice, Dtype::U8, data.clone());
            prop_assert!(encoded.stored.len() <= data.len());
            prop_assert_eq!(ChunkRecord::parse(&encoded.record.to_bytes()).unwrap(), encoded.record);
            prop_assert_eq!(DecodedDigest::of(&data), encoded.record.decoded);
            prop_assert_eq!(back(&encoded), data);
        }
    }

    #[test]
    fn decoding_enforces_the_decoded_length() {
        let data = Bytes::from(vec![7; 100_000]);
        let encoded = Encoder::default().encode(CodecChoice::Zstd, Dtype::U8, data);
        assert_eq!(encoded.record.codec, CodecId::ZSTD);
        for decoded_len in [99_999, 100_001] {
            let record = ChunkRecord { decoded_len, ..encoded.record };
            let stored = BytesMut::from(&encoded.stored[..]);
            let chunk = VerifiedChunk::verify(record, stored).unwrap();
            let mut out = BytesMut::from(&b"kept"[..]);
            assert!(decode(&chunk, &mut out).is_err());
            assert_eq!(out, &b"kept"[..], "nothing is appended on an error");
        }
    }

    #[test]
    fn frames_that_v1_forbids_are_refused() {
        let twice = |frame: &[u8]| [frame, frame].concat();
        let frame = ::zstd::bulk::compress(&[7; 1000], 3).unwrap();
        for bad in [twice(&frame), [&frame[..], b"x"].concat(), frame[..frame.len() - 1].to_vec()] {
            let stored = BytesMut::from(&bad[..]);
            let record = ChunkRecord {
                codec: CodecId::ZSTD,
                stored_len: bad.len() as u32,
                stored: StoredDigest::of(&bad),
                ..ChunkRecord::raw(Dtype::U8, 1000, blake3::hash(b""))
            };
            assert!(into_decoded(VerifiedChunk::verify(record, stored).unwrap()).is_err());
        }
        let unknown = ChunkRecord {
            codec: CodecId(99),
            ..ChunkRecord::raw(Dtype::U8, 1, blake3::hash(b"x"))
        };
        let chunk = VerifiedChunk::verify(unknown, BytesMut::from(&b"x"[..])).unwrap();
        assert!(matches!(into_decoded(chunk), Err(DecodeError::UnknownCodec(99))));
    }
}
