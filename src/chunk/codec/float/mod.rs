//! Floats and integers at their entropy (format-spec, chapter Codecs): elements as byte planes, each
//! raw, constant or entropy-coded, whichever is smallest; or as indexes into a palette.

mod cluster;
mod huffman;
mod palette;
mod parameters;
mod planes;
pub(super) mod program;
mod section;
mod streams;
#[cfg(test)]
mod tests;

use crate::chunk::codec::error::Malformed;
use crate::chunk::simd::{Simd, for_each_simd};
use crate::format::dtype::Dtype;
use crate::format::record::CodecId;
use cluster::Counts;
use palette::Palette;
use parameters::{Mode, Parameters};
use planes::{Form, MAX_WIDTH, Planes};
use section::{Buffers, Coding, LANES, Section};
use streams::STREAM;

/// The least that entropy-coding a plane must save, as a part of it: decoding costs more than that.
const WORTHWHILE_PLANE: usize = 256;
/// The least that it must save of a chunk.
const WORTHWHILE: usize = 64;
/// One stream in so many is looked at before all are.
const SAMPLE: usize = 8;

/// Decodes into the whole of `out`.
pub(super) fn decode(
    codec: CodecId,
    parameters: &[u8; 20],
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    decode_with(Simd::best(), codec, parameters, stored, out)
}

fn decode_with(
    simd: Simd,
    codec: CodecId,
    parameters: &[u8; 20],
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), Malformed> {
    let parameters = Parameters::parse(codec, parameters)?;
    let form = parameters.form;
    if !out.len().is_multiple_of(form.width()) {
        return Err(Malformed::OddLength);
    }
    let n = out.len() / form.width();
    let (palette, stored) = match parameters.palette {
        Some(values) => {
            let (palette, rest) = Palette::parse(form, values, stored)?;
            (Some(palette), rest)
        }
        None => (None, stored),
    };
    let planes = Source::parse_all(&parameters, stored, n)?;
    let target = match &palette {
        None => Target::Elements(form),
        Some(palette) => Target::Values(palette),
    };
    decode_streams(simd, target, &planes, out)
}

/// What becomes of planes.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// They are put together.
    Elements(Form),
    /// There is one, of indexes into this.
    Values(&'a Palette),
}

impl Target<'_> {
    fn width(&self) -> usize {
        match self {
            Self::Elements(form) => form.width(),
            Self::Values(palette) => palette.width(),
        }
    }

    #[inline(always)]
    fn merge(&self, planes: &Planes<'_>, out: &mut [u8]) -> Result<(), Malformed> {
        match self {
            Self::Elements(form) => planes::merge(*form, planes, out),
            Self::Values(palette) => return palette.look_up(planes[0], out),
        }
        Ok(())
    }
}

/// Where the bytes of a plane come from.
enum Source<'a> {
    Raw(&'a [u8]),
    Constant(u8),
    Coded(Section<'a>),
}

impl<'a> Source<'a> {
    /// The planes of `n` elements, the lowest first, which `stored` must hold exactly.
    fn parse_all(
        parameters: &Parameters,
        stored: &'a [u8],
        n: usize,
    ) -> Result<Vec<Self>, Malformed> {
        let mut rest = stored;
        // Stored are the coded planes, then the raw ones, the highest first.
        let mut coded = Vec::with_capacity(MAX_WIDTH);
        for mode in parameters.modes().iter().rev() {
            if matches!(mode, Mode::Coded) {
                let (section, behind) = Section::parse(rest, n)?;
                coded.push(section);
                rest = behind;
            }
        }
        let mut sources = Vec::with_capacity(MAX_WIDTH);
        for mode in parameters.modes() {
            sources.push(match mode {
                Mode::Constant(byte) => Self::Constant(*byte),
                Mode::Coded => Self::Coded(coded.pop().ok_or(Malformed::PlaneMissing)?),
                Mode::Raw => {
                    let at = rest.len().checked_sub(n).ok_or(Malformed::PlaneShort)?;
                    let (before, plane) = rest.split_at(at);
                    rest = before;
                    Self::Raw(plane)
                }
            });
        }
        if !rest.is_empty() {
            return Err(Malformed::PlaneRest);
        }
        Ok(sources)
    }
}

/// Decodes plane by plane, block by block, and puts the planes of each stream together.
#[inline(always)]
fn decode_any(target: Target<'_>, sources: &[Source<'_>], out: &mut [u8]) -> Result<(), Malformed> {
    let width = target.width();
    let fill = |source: &Source<'_>| match source {
        Source::Constant(byte) => vec![[*byte; STREAM + 8]],
        Source::Raw(_) => Vec::new(),
        Source::Coded(_) => vec![[0; STREAM + 8]; LANES],
    };
    let mut buffers: Vec<_> = sources.iter().map(fill).collect();
    let coded = sources.iter().rev().find_map(|source| match source {
        Source::Coded(section) => Some(section.order()),
        _ => None,
    });
    let order = coded.unwrap_or_else(|| (0..out.len().div_ceil(width * STREAM)).collect());
    for which in order.chunks(LANES) {
        for (source, buffers) in sources.iter().zip(&mut buffers) {
            if let Source::Coded(section) = source
                && let Ok(buffers) = <&mut Buffers>::try_from(&mut buffers[..])
            {
                section.decode(which, buffers)?;
            }
        }
        for (k, &stream) in which.iter().enumerate() {
            let at = stream * STREAM;
            let end = (at + STREAM).min(out.len() / width);
            let out = out.get_mut(at * width..end * width).ok_or(Malformed::StreamMissing)?;
            let mut planes: Planes<'_> = [&[]; MAX_WIDTH];
            for ((plane, source), buffers) in planes.iter_mut().zip(sources).zip(&buffers) {
                let bytes = match source {
                    Source::Raw(plane) => plane.get(at..end),
                    Source::Constant(_) => buffers.first().and_then(|b| b.get(..end - at)),
                    Source::Coded(_) => buffers.get(k).and_then(|b| b.get(..end - at)),
                };
                *plane = bytes.ok_or(Malformed::PlaneShort)?;
            }
            target.merge(&planes, out)?;
        }
    }
    Ok(())
}

for_each_simd! {
    fn decode_streams(target: Target<'_>, sources: &[Source<'_>], out: &mut [u8])
        -> Result<(), Malformed> = decode_any
}

/// How elements of this type lie in planes; `None` for bytes that are no elements.
fn form(element: Dtype) -> Option<Form> {
    Some(match element {
        Dtype::Bytes => return None,
        Dtype::I16 | Dtype::U16 => Form::Word,
        Dtype::F16 => Form::F16,
        Dtype::BF16 => Form::BF16,
        Dtype::I32 | Dtype::U32 => Form::Long,
        Dtype::F32 | Dtype::C64 => Form::F32,
        Dtype::I64 | Dtype::U64 => Form::Quad,
        Dtype::F64 => Form::F64,
        _ => Form::Byte,
    })
}

/// Encodes chunk after chunk, and keeps its memory between them.
pub(super) struct Encoder {
    simd: Simd,
    planes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { simd: Simd::best(), planes: Vec::new() }
    }
}

/// A chunk of which is known how it is to be coded.
pub(super) struct Draft<'a> {
    simd: Simd,
    parameters: Parameters,
    palette: Option<Palette>,
    planes: Vec<(&'a [u8], Option<Coding>)>,
    /// Bytes that it will take at most.
    pub(super) len: usize,
}

impl Encoder {
    /// The best way for these bytes, if it saves enough.
    pub(super) fn draft(&mut self, element: Dtype, decoded: &[u8]) -> Option<Draft<'_>> {
        let form = form(element)?;
        let width = form.width();
        if decoded.is_empty() || !decoded.len().is_multiple_of(width) {
            return None;
        }
        let n = decoded.len() / width;
        self.planes.resize(decoded.len(), 0);
        let palette = Palette::find(form, decoded);
        let draft = match palette {
            Some(palette) => {
                let indexes = self.planes.get_mut(..n)?;
                palette.indexes(decoded, indexes);
                Draft::new(self.simd, form.without_exponent(), Some(palette), vec![&*indexes])
            }
            None => {
                let mut planes: Vec<_> = self.planes.chunks_mut(n).collect();
                planes::split(self.simd, form, decoded, &mut planes);
                Draft::new(self.simd, form, None, planes.into_iter().map(|plane| &*plane).collect())
            }
        };
        let saves = draft.len + decoded.len() / WORTHWHILE < decoded.len();
        // A stored chunk has one byte at least.
        (saves && draft.len > 0).then_some(draft)
    }
}

impl<'a> Draft<'a> {
    fn new(simd: Simd, form: Form, palette: Option<Palette>, planes: Vec<&'a [u8]>) -> Self {
        let mut modes = [Mode::Raw; MAX_WIDTH];
        let mut len = palette.as_ref().map_or(0, Palette::len);
        let planes: Vec<_> = planes
            .into_iter()
            .zip(&mut modes)
            .map(|(plane, mode)| {
                let coding;
                (*mode, coding) = choose(simd, plane);
                len += match (*mode, &coding) {
                    (Mode::Constant(_), _) => 0,
                    (_, Some(coding)) => coding.len,
                    (_, None) => plane.len(),
                };
                (plane, coding)
            })
            .collect();
        let values = palette.as_ref().map(Palette::values);
        let parameters = Parameters::new(form, values, modes);
        Self { simd, parameters, palette, planes, len }
    }

    /// Through which codec.
    pub(super) fn codec(&self) -> CodecId {
        self.parameters.codec()
    }

    /// With which parameters.
    pub(super) fn parameters(&self) -> [u8; 20] {
        self.parameters.to_bytes()
    }

    /// The stored bytes.
    pub(super) fn finish(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len + 16);
        if let Some(palette) = &self.palette {
            palette.write(&mut out);
        }
        for (plane, coding) in self.planes.iter().rev() {
            if let Some(coding) = coding {
                section::write(self.simd, coding, plane, &mut out);
            }
        }
        for ((plane, _), mode) in self.planes.iter().zip(self.parameters.modes()).rev() {
            if matches!(mode, Mode::Raw) {
                out.extend_from_slice(plane);
            }
        }
        out
    }
}

/// The smallest way for one plane.
fn choose(simd: Simd, plane: &[u8]) -> (Mode, Option<Coding>) {
    if let Some(&first) = plane.first()
        && plane.iter().all(|&byte| byte == first)
    {
        return (Mode::Constant(first), None);
    }
    let code = |step: usize| {
        let streams = plane.chunks(STREAM).step_by(step);
        let len: usize = streams.clone().map(<[u8]>::len).sum();
        let coding = Coding::new(simd, &streams.map(|s| count(simd, s)).collect::<Vec<_>>());
        (coding.len + len / WORTHWHILE_PLANE < len).then_some(coding)
    };
    match code(SAMPLE).and_then(|_| code(1)) {
        Some(coding) => (Mode::Coded, Some(coding)),
        None => (Mode::Raw, None),
    }
}

/// How often each byte comes in a stream. Four counts, so that equal neighbours do not wait for
/// each other.
#[expect(clippy::indexing_slicing, reason = "a count for every byte")]
#[inline(always)]
fn count_any(stream: &[u8]) -> Counts {
    let mut counts = [[0_u16; 256]; 4];
    let (eights, rest) = stream.as_chunks::<8>();
    for eight in eights {
        for (i, &byte) in eight.iter().enumerate() {
            counts[i % 4][usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        counts[0][usize::from(byte)] += 1;
    }
    std::array::from_fn(|byte| counts.iter().map(|counts| counts[byte]).sum())
}

for_each_simd! {
    fn count(stream: &[u8]) -> Counts = count_any
}
