//! Zstandard frames: one per chunk, with content size, without dictionary.

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::error::{DecodeError, Malformed};

const NAME: &str = "zstd";
/// zstd's own default: most of the gain at some 500 MB/s per core.
const LEVEL: i32 = 3;
/// A chunk is worth decoding only if this share of it is saved.
const WORTHWHILE: usize = 32;
/// How much of a chunk is tried before all of it.
const SAMPLE: usize = 32 << 10;
const MAX_WINDOW_LOG: u32 = 23;

pub(super) fn decode(stored: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    // Chunks are at most 4 MiB.
    let len = out.len() as u32;
    let malformed = |why| DecodeError::Malformed { codec: NAME, why };
    let size =
        zstd_safe::get_frame_content_size(stored).map_err(|_| malformed(Malformed::NoFrame))?;
    if size != Some(u64::from(len)) {
        let have = size.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        return Err(DecodeError::Length { codec: NAME, need: len, have });
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(frame) if frame == stored.len() => {}
        _ => return Err(malformed(Malformed::FrameEnd)),
    }
    if window(stored).is_none_or(|bytes| bytes > 1 << MAX_WINDOW_LOG) {
        return Err(malformed(Malformed::FrameWindow));
    }
    let mut decompressor =
        Decompressor::new().map_err(|e| malformed(Malformed::Zstd(e.to_string())))?;
    let have = decompressor
        .decompress_to_buffer(stored, out)
        .map_err(|error| malformed(Malformed::Zstd(error.to_string())))?;
    if have != len as usize {
        return Err(DecodeError::Length { codec: NAME, need: len, have });
    }
    Ok(())
}

/// The window of a frame in bytes (RFC 8878, section 3.1.1.1.2), 0 where the content is its own:
/// the library enforces its limit only when it decodes in a stream.
fn window(frame: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 0x20;
    if frame.get(4)? & SINGLE_SEGMENT != 0 {
        return Some(0);
    }
    let descriptor = frame.get(5)?;
    let base = 1_u64 << (10 + (descriptor >> 3));
    Some(base + base / 8 * u64::from(descriptor & 7))
}

/// Reuses one compression context.
#[derive(Default)]
pub(super) struct Encoder {
    compressor: Option<Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// The frame, if it is smaller than `decoded`.
    pub(super) fn encode(&mut self, decoded: &[u8]) -> Option<Bytes> {
        let frame = self.compress(decoded)?;
        (frame.len() < decoded.len()).then(|| Bytes::copy_from_slice(frame))
    }

    /// The frame, if a sample and then the whole save enough to be worth decoding, and the whole is
    /// smaller than the `most` bytes that another codec takes.
    pub(super) fn encode_if_promising(&mut self, decoded: &[u8], most: usize) -> Option<Bytes> {
        let whole = decoded.len();
        let enough = |len: usize, of: usize| {
            len + of / WORTHWHILE <= of && (most == whole || len * whole < most * of)
        };
        if decoded.len() > 4 * SAMPLE {
            let middle = decoded.len() / 2;
            // Less is enough where another codec stands ready.
            let size = if most < whole { SAMPLE / 4 } else { SAMPLE };
            let sample = decoded.get(middle..middle + size)?;
            let len = self.compress(sample)?.len();
            if !enough(len, size) {
                return None;
            }
        }
        let frame = self.compress(decoded)?;
        enough(frame.len(), decoded.len()).then(|| Bytes::copy_from_slice(frame))
    }

    fn compress(&mut self, data: &[u8]) -> Option<&[u8]> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL).ok()?),
        };
        self.scratch.resize(zstd_safe::compress_bound(data.len()), 0);
        let len = compressor.compress_to_buffer(data, &mut self.scratch[..]).ok()?;
        self.scratch.get(..len)
    }
}
