//! Codecs: verified stored bytes to decoded bytes and back, without loss (section 12).

mod delta;
mod error;
mod float;
mod patch;
mod payload;
mod zstd;

pub use delta::program::{BAD_ESCAPES, BAD_STATE, BAD_WORDS, DELTA_PARAMS, DeltaProgram};
pub use error::{DecodeError, Malformed};
pub use float::program::{BAD_INDEX, BAD_LENGTH, BAD_PADDING, Offsets, PARAMS, Program, Target};
pub use payload::Payload;

use bytes::Bytes;

use crate::chunk::verified::{OwnedBytes, VerifiedChunk};
use crate::format::dtype::Dtype;
use crate::format::id::{DecodedDigest, StoredDigest};
use crate::format::record::{Base, ChunkRecord, CodecId};

/// Decodes `chunk` into `out`, which must be as long as its record says. `base` is what the base chunk
/// decodes to, if there is one. On an error, `out` holds whatever was written by then.
///
/// # Errors
///
/// If the codec is not known, or the chunk, its base and `out` do not fit each other.
pub fn decode<B: OwnedBytes>(
    chunk: &VerifiedChunk<B>,
    base: Option<&[u8]>,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let record = chunk.record();
    let (parameters, stored) = (&record.parameters, chunk.stored());
    let need = record.decoded_len;
    let malformed = |codec| move |why| DecodeError::Malformed { codec, why };
    if out.len() != need as usize {
        return Err(DecodeError::Length { codec: "any codec", need, have: out.len() });
    }
    match record.codec {
        CodecId::RAW => {
            check_raw(record, stored)?;
            out.copy_from_slice(stored);
            Ok(())
        }
        CodecId::ZSTD => zstd::decode(stored, out),
        CodecId::PLANES => {
            float::decode(CodecId::PLANES, parameters, stored, out).map_err(malformed("planes"))
        }
        CodecId::PALETTE => {
            float::decode(CodecId::PALETTE, parameters, stored, out).map_err(malformed("palette"))
        }
        CodecId::DELTA => {
            let base = check_base("delta", record, base)?;
            delta::decode(parameters, stored, base, out).map_err(malformed("delta"))
        }
        CodecId::PATCH => {
            let base = check_base("patch", record, base)?;
            patch::decode(parameters, stored, base, out).map_err(malformed("patch"))
        }
        CodecId(number) => Err(DecodeError::UnknownCodec(number)),
    }
}

impl Program {
    /// How a device decodes the chunk of `record`, whose stored bytes were verified; `None` if no kernel
    /// decodes its codec.
    ///
    /// # Errors
    /// If the chunk is malformed, or larger than kernels count.
    pub fn of(record: &ChunkRecord, stored: &[u8]) -> Result<Option<Self>, DecodeError> {
        let codec = match record.codec {
            CodecId::RAW => return Ok(Some(Self::raw(record.decoded_len))),
            CodecId::PLANES => "planes",
            CodecId::PALETTE => "palette",
            _ => return Ok(None),
        };
        let program = Self::new(record.codec, &record.parameters, stored, record.decoded_len);
        let malformed = |why| DecodeError::Malformed { codec, why };
        program.map(Some).map_err(malformed)
    }
}

impl DeltaProgram {
    /// How a device decodes the chunk of `record` against its base; `None` if it is stored against none.
    ///
    /// # Errors
    /// If the chunk is malformed, or larger than kernels count.
    pub fn of(record: &ChunkRecord, stored: &[u8]) -> Result<Option<Self>, DecodeError> {
        let codec = match record.codec {
            CodecId::DELTA => "delta",
            CodecId::PATCH => "patch",
            _ => return Ok(None),
        };
        let program = Self::new(record.codec, &record.parameters, stored, record.decoded_len);
        let malformed = |why| DecodeError::Malformed { codec, why };
        program.map(Some).map_err(malformed)
    }
}

/// The base, which must be there and as long as what is stored against it.
fn check_base<'a>(
    codec: &'static str,
    record: &ChunkRecord,
    base: Option<&'a [u8]>,
) -> Result<&'a [u8], DecodeError> {
    let base = base.ok_or(DecodeError::MissingBase { codec })?;
    let (need, have) = (record.decoded_len, base.len());
    if have != need as usize {
        return Err(DecodeError::BaseLength { codec, need, have });
    }
    Ok(base)
}

/// A record that was parsed says so; one that was put together need not.
fn check_raw(record: &ChunkRecord, stored: &[u8]) -> Result<(), DecodeError> {
    let (need, have) = (record.decoded_len, stored.len());
    match have == need as usize {
        true => Ok(()),
        false => Err(DecodeError::Length { codec: "raw", need, have }),
    }
}

/// The decoded bytes of `chunk`, without a copy where the codec is raw. `base` is as in [`decode`].
///
/// # Errors
///
/// As those of [`decode`].
pub fn into_decoded<B: OwnedBytes + Into<Bytes>>(
    chunk: VerifiedChunk<B>,
    base: Option<&[u8]>,
) -> Result<Bytes, DecodeError> {
    if chunk.record().codec == CodecId::RAW {
        check_raw(chunk.record(), chunk.stored())?;
        return Ok(chunk.into_stored().into());
    }
    let mut out = vec![0; chunk.record().decoded_len as usize];
    decode(&chunk, base, &mut out)?;
    Ok(out.into())
}

/// The decoded bytes of a shared chunk whose codec is raw: its own, not copied. `None` for other codecs.
///
/// # Errors
///
/// If its record contradicts itself.
pub fn raw(chunk: &VerifiedChunk) -> Result<Option<Bytes>, DecodeError> {
    if chunk.record().codec != CodecId::RAW {
        return Ok(None);
    }
    check_raw(chunk.record(), chunk.stored())?;
    Ok(Some(chunk.bytes()))
}

/// Which codecs a packer may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CodecChoice {
    /// The smallest of all, chunk by chunk, those against a base included.
    #[default]
    Auto,
    /// As it is.
    Raw,
    /// Zstandard, where it is smaller than raw.
    Zstd,
    /// Elements at their entropy, each chunk on its own, where that is smaller than raw.
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

/// Patches are taken where a delta saves no more than a part in so many.
const PATCH: usize = 32;

/// What a chunk may be stored against.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// The base's name, and the depth that a chunk stored against it has: 1 + the base's own.
    pub base: Base,
    /// What it decodes to.
    pub decoded: &'a [u8],
}

/// Encodes decoded bytes, of which there are 1 byte to 4 MiB; never larger than they are.
#[derive(Default)]
pub struct Encoder {
    zstd: zstd::Encoder,
    float: float::Encoder,
    delta: delta::Encoder,
}

impl Encoder {
    /// The chunk of `decoded`, through the smallest codec that `choice` allows. It is stored against
    /// another chunk only if that is as long, the choice is `auto`, and nothing else is smaller.
    pub fn encode(
        &mut self,
        choice: CodecChoice,
        element: Dtype,
        decoded: Bytes,
        against: Option<Against<'_>>,
    ) -> Encoded {
        let hash = blake3::hash(&decoded);
        // `decoded` is at most 4 MiB.
        let raw = ChunkRecord::raw(element, decoded.len() as u32, hash);
        let base = against.map(|against| against.decoded);
        let Some(payload) = self.compress(choice, element, &decoded, base) else {
            return Encoded { record: raw, stored: decoded };
        };
        let Payload { codec, parameters, stored } = payload;
        let record = ChunkRecord {
            codec,
            parameters,
            base: against.map(|against| against.base).filter(|_| codec.has_base()),
            stored_len: stored.len() as u32,
            stored: StoredDigest::of(&stored),
            decoded: DecodedDigest::from_hash(hash),
            ..raw
        };
        Encoded { record, stored }
    }

    /// How the chunk is stored, if that is smaller than it is; `base` is what it may be stored
    /// against.
    pub fn compress(
        &mut self,
        choice: CodecChoice,
        element: Dtype,
        decoded: &[u8],
        base: Option<&[u8]>,
    ) -> Option<Payload> {
        let draft = match choice {
            CodecChoice::Raw => return None,
            CodecChoice::Zstd => {
                let stored = self.zstd.encode(decoded)?;
                return Some(Payload { codec: CodecId::ZSTD, parameters: [0; 20], stored });
            }
            CodecChoice::Float | CodecChoice::Auto => self.float.draft(element, decoded),
        };
        let mut most = draft.as_ref().map_or(decoded.len(), |draft| draft.len);
        let mut best = None;
        if choice == CodecChoice::Auto {
            if let Some(stored) = self.zstd.encode_if_promising(decoded, most) {
                most = stored.len();
                best = Some(Payload { codec: CodecId::ZSTD, parameters: [0; 20], stored });
            }
            if let Some(base) = base.filter(|base| base.len() == decoded.len())
                && let Some(payload) = against(&mut self.delta, element, decoded, base, most)
            {
                return Some(payload);
            }
        }
        let alone = draft.map(|draft| Payload {
            codec: draft.codec(),
            parameters: draft.parameters(),
            stored: draft.finish().into(),
        });
        best.or(alone)
    }
}

/// The smaller of a delta and patches, if it takes less than `most` bytes. Patches decode faster.
fn against(
    encoder: &mut delta::Encoder,
    element: Dtype,
    decoded: &[u8],
    base: &[u8],
    most: usize,
) -> Option<Payload> {
    let patch = patch::Draft::new(element, decoded, base).filter(|patch| patch.len < most);
    let most = patch.as_ref().map_or(most, |patch| patch.len * PATCH / (PATCH + 1));
    encoder.encode(element, decoded, base, most).or_else(|| Some(patch?.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(encoded: &Encoded, base: Option<&[u8]>) -> Bytes {
        let stored = Bytes::copy_from_slice(&encoded.stored[..]);
        let chunk = VerifiedChunk::verify(encoded.record, stored).unwrap();
        let decoded = into_decoded(chunk.clone(), base).unwrap();
        // Memory that was used before shows nothing of that.
        let mut used = vec![0xA5; decoded.len()];
        decode(&chunk, base, &mut used).unwrap();
        assert!(used == decoded[..]);
        decoded
    }

    fn against(decoded: &[u8]) -> Against<'_> {
        Against { base: Base { decoded: DecodedDigest::of(decoded), depth: 3 }, decoded }
    }

    proptest! {
        #[test]
        fn every_choice_round_trips(seed: Vec<u8>, repeat in 1_usize..400, choice in 0_usize..4) {
            let mut data = seed.repeat(repeat);
            data.push(1);
            let data = Bytes::from(data);
            let (choice, _) = CodecChoice::ALL[choice];
            let encoded = Encoder::default().encode(choice, Dtype::U8, data.clone(), None);
            prop_assert!(encoded.stored.len() <= data.len());
            prop_assert_eq!(ChunkRecord::parse(&encoded.record.to_bytes()).unwrap(), encoded.record);
            prop_assert_eq!(DecodedDigest::of(&data), encoded.record.decoded);
            prop_assert_eq!(back(&encoded, None), data);
        }

        #[test]
        fn what_changed_a_little_is_stored_against_its_base(
            base in prop::collection::vec(any::<u8>(), 64..2000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            element in 0_usize..Dtype::ALL.len(),
        ) {
            let mut data = base.clone();
            for (at, byte) in changes {
                data[at.index(base.len())] = byte;
            }
            let data = Bytes::from(data);
            let element = Dtype::ALL[element];
            let mut encoder = Encoder::default();
            let encoded =
                encoder.encode(CodecChoice::Auto, element, data.clone(), Some(against(&base)));
            prop_assert!(encoded.record.codec.has_base());
            prop_assert_eq!(encoded.record.base, Some(against(&base).base));
            prop_assert_eq!(ChunkRecord::parse(&encoded.record.to_bytes()).unwrap(), encoded.record);
            prop_assert_eq!(back(&encoded, Some(&base)), data);
        }
    }

    #[test]
    fn the_smallest_of_all_is_taken() {
        // Noise that looks like bf16 of one sign, and changes of each element by -1, 0 or 1.
        let noise = |i: u32| {
            let x = i.wrapping_mul(0x9e37_79b9);
            let x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca6b);
            (x ^ (x >> 13)) >> 8
        };
        let weight = |i: u32| 0x3c00 | (noise(i) & 0x3ff) as u16;
        let elements = |of: &dyn Fn(u32) -> u16| -> Vec<u8> {
            (0..40_000).flat_map(|i| of(i).to_le_bytes()).collect()
        };
        let base = elements(&weight);
        let all_changed = elements(&|i| weight(i) + (noise(i + 7) % 3) as u16);
        let few_changed = elements(&|i| weight(i) + u16::from(i % 8000 == 5));
        let unrelated = elements(&|i| weight(3 * i + 1));
        let zeros = vec![0; base.len()];
        for (data, codec) in [
            (&all_changed, CodecId::DELTA),
            (&few_changed, CodecId::PATCH),
            (&base, CodecId::PATCH),
            (&unrelated, CodecId::PLANES),
            (&zeros, CodecId::PALETTE),
        ] {
            let data = Bytes::copy_from_slice(data);
            let encoded = Encoder::default().encode(
                CodecChoice::Auto,
                Dtype::BF16,
                data.clone(),
                Some(against(&base)),
            );
            assert_eq!(encoded.record.codec, codec);
            assert_eq!(back(&encoded, Some(&base)), data);
        }
    }

    #[test]
    fn a_base_must_be_given_and_be_as_long() {
        let base: Vec<u8> = (0..1001_u64).map(|i| ((i * i * 40_503) >> 7) as u8).collect();
        let (long, base) = (&base[..], &base[..1000]);
        let data = Bytes::copy_from_slice(base);
        let mut encoder = Encoder::default();
        let encoded =
            encoder.encode(CodecChoice::Auto, Dtype::BF16, data.clone(), Some(against(base)));
        assert!(encoded.record.codec.has_base());
        let chunk = || {
            let stored = Bytes::copy_from_slice(&encoded.stored[..]);
            VerifiedChunk::verify(encoded.record, stored).unwrap()
        };
        assert!(matches!(into_decoded(chunk(), None), Err(DecodeError::MissingBase { .. })));
        for wrong in [&base[..999], long] {
            let error = into_decoded(chunk(), Some(wrong)).unwrap_err();
            assert!(matches!(error, DecodeError::BaseLength { need: 1000, .. }), "{error}");
            // Nor is anything stored against it.
            let other =
                encoder.encode(CodecChoice::Auto, Dtype::BF16, data.clone(), Some(against(wrong)));
            assert_eq!(other.record.base, None);
        }
        for choice in [CodecChoice::Raw, CodecChoice::Zstd, CodecChoice::Float] {
            let other = encoder.encode(choice, Dtype::BF16, data.clone(), Some(against(base)));
            assert_eq!(other.record.base, None, "{choice:?}");
        }
    }

    #[test]
    fn decoding_enforces_the_decoded_length() {
        let data = Bytes::from(vec![7; 100_000]);
        for (choice, codec) in
            [(CodecChoice::Zstd, CodecId::ZSTD), (CodecChoice::Raw, CodecId::RAW)]
        {
            let encoded = Encoder::default().encode(choice, Dtype::U8, data.clone(), None);
            assert_eq!(encoded.record.codec, codec);
            for decoded_len in [99_999, 100_001] {
                let record = ChunkRecord { decoded_len, ..encoded.record };
                let stored = Bytes::copy_from_slice(&encoded.stored[..]);
                let chunk = VerifiedChunk::verify(record, stored.clone()).unwrap();
                for len in [99_999, 100_000, 100_001] {
                    assert!(decode(&chunk, None, &mut vec![0; len]).is_err());
                }
                let chunk = VerifiedChunk::verify(record, stored).unwrap();
                assert!(into_decoded(chunk, None).is_err());
            }
        }
    }

    #[test]
    fn frames_that_v1_forbids_are_refused() {
        let twice = |frame: &[u8]| [frame, frame].concat();
        let frame = ::zstd::bulk::compress(&[7; 1000], 3).unwrap();
        for bad in [twice(&frame), [&frame[..], b"x"].concat(), frame[..frame.len() - 1].to_vec()] {
            let stored = Bytes::copy_from_slice(&bad[..]);
            let record = ChunkRecord {
                codec: CodecId::ZSTD,
                stored_len: bad.len() as u32,
                stored: StoredDigest::of(&bad),
                ..ChunkRecord::raw(Dtype::U8, 1000, blake3::hash(b""))
            };
            assert!(into_decoded(VerifiedChunk::verify(record, stored).unwrap(), None).is_err());
        }
        let unknown = ChunkRecord {
            codec: CodecId(99),
            ..ChunkRecord::raw(Dtype::U8, 1, blake3::hash(b"x"))
        };
        let chunk = VerifiedChunk::verify(unknown, Bytes::copy_from_slice(&b"x"[..])).unwrap();
        assert!(matches!(into_decoded(chunk, None), Err(DecodeError::UnknownCodec(99))));
    }
}
