//! Codec 32, delta: each element as its difference from the base's, entropy-coded under the
//! exponent of the base's (section 12.4 of codecs.md).
//!
//! Decoding is total: lengths are compared before they are used, tables are right for every slot,
//! and a segment that does not end exactly where it must is an error.

mod encode;
mod form;
mod lanes;
mod layout;
pub(super) mod program;
mod table;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;
mod write;

use crate::chunk::codec::error::Malformed;
use crate::chunk::codec::payload::Payload;
use crate::chunk::simd::Simd;
use crate::format::dtype::Dtype;
use crate::format::record::CodecId;
use encode::Draft;
use form::Form;
use lanes::Run;
use layout::Head;
use write::Scratch;

/// Decodes into the whole of `out`, which is as long as `base`.
pub(super) fn decode(
    parameters: &[u8; 20],
    stored: &[u8],
    base: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    decode_with(Simd::best(), parameters, stored, base, out)
}

fn decode_with(
    simd: Simd,
    parameters: &[u8; 20],
    stored: &[u8],
    base: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    let head = Head::parse(parameters)?;
    let width = head.form.width;
    if !out.len().is_multiple_of(width) {
        return Err(Malformed::OddLength);
    }
    if out.len() != base.len() {
        return Err(Malformed::BaseLength);
    }
    let (code, segments) = layout::parse(head, stored, out.len() / width)?;
    let len = head.segment() * width;
    for (segment, (base, out)) in segments.iter().zip(base.chunks(len).zip(out.chunks_mut(len))) {
        let mut run = Run::new(&code, segment);
        match width {
            1 => decode_segment::<1>(simd, &mut run, base, out),
            2 => decode_segment::<2>(simd, &mut run, base, out),
            _ => decode_segment::<4>(simd, &mut run, base, out),
        }?;
        run.finish()?;
    }
    Ok(())
}

fn decode_segment<const W: usize>(
    simd: Simd,
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    let done = W * match simd {
        Simd::Portable => 0,
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2(has) => wide::avx2::<W>(has, run, base, out)?,
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512(has) => wide::avx512::<W>(has, run, base, out)?,
    };
    let (base, out) = (base.get(done..), out.get_mut(done..));
    run.steps::<W>(base.unwrap_or_default(), out.unwrap_or_default())
}

/// How elements of this type are read; `None` for those that are too wide, or no elements.
fn form(element: Dtype) -> Option<Form> {
    let (width, exponent) = match element {
        Dtype::Bytes | Dtype::I64 | Dtype::U64 | Dtype::F64 => return None,
        Dtype::F8_E4M3 | Dtype::F8_E4M3FNUZ => (1, 4),
        Dtype::F8_E5M2 | Dtype::F8_E5M2FNUZ => (1, 5),
        Dtype::I16 | Dtype::U16 => (2, 0),
        Dtype::F16 => (2, 5),
        Dtype::BF16 => (2, 8),
        Dtype::I32 | Dtype::U32 => (4, 0),
        Dtype::F32 | Dtype::C64 => (4, 8),
        _ => (1, 0),
    };
    Form::new(width, exponent)
}

/// Encodes chunk after chunk, and keeps its memory between them.
pub(super) struct Encoder {
    simd: Simd,
    scratch: Scratch,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { simd: Simd::best(), scratch: Scratch::default() }
    }
}

impl Encoder {
    /// The delta, if it takes less than `most` bytes; `base` is as long as `decoded`.
    pub(super) fn encode(
        &mut self,
        element: Dtype,
        decoded: &[u8],
        base: &[u8],
        most: usize,
    ) -> Option<Payload> {
        let form = form(element)?;
        if most <= layout::PLACE_LEN + layout::STATES_LEN
            || !decoded.len().is_multiple_of(form.width)
        {
            return None;
        }
        let draft = Draft::new(self.simd, form, base, decoded, &mut self.scratch);
        if draft.len >= most as u64 {
            return None;
        }
        let parameters = draft.parameters();
        let stored = draft.finish(decoded);
        let delta = Payload { codec: CodecId::DELTA, parameters, stored: stored.into() };
        (delta.stored.len() < most).then_some(delta)
    }
}
