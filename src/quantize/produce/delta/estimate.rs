//! What a delta would take, from a sample of its weights.

use bytes::Bytes;
use rayon::prelude::*;

use super::DeltaMethod;
use super::approximate::{Deviation, root_mean_square, scaled};
use super::run::{not_finite, partner};
use crate::chunk::codec::{Against, CodecChoice, Encoder};
use crate::dequant::Float;
use crate::format::grid::Grid;
use crate::format::id::DecodedDigest;
use crate::format::layout::Place;
use crate::format::record::{Base, ChunkRecord};
use crate::quantize::produce::ProduceError;
use crate::quantize::source::{ModelSource, Tensor};
use crate::schedule::tensor_parallel::choose_grid;

/// Pieces begin at multiples of this: whole blocks of any method.
const ALIGNED: u64 = 256;
/// What a chunk stored against another takes beside its own bytes: its record in the table and in its
/// pack, its base's in the table, and a place of each in the layout.
const RECORDS: f64 = 3.0 * ChunkRecord::LEN as f64 + 2.0 * Place::LEN as f64;
/// One of so many pieces of a tensor is looked at, and at least one.
const ONE_OF: u64 = 24;
/// Files without tensors up to this size are compared with the base's.
const MAX_COMPARED: u64 = 64 << 20;

/// What a delta would take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Bytes of the fine-tune.
    pub raw_bytes: u64,
    /// Bytes of chunks that the store would gain.
    pub new_bytes: u64,
    /// The error of all weights that differ, as a [report](super::DeltaReport::deviation) has it; `of` and
    /// `squares` are sums over the sample, weighted by what it stands for.
    pub deviation: Deviation,
    /// Bytes of the fine-tune that were read.
    pub sampled_bytes: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sampled {
    stored: f64,
    deviation: Deviation,
    read: u64,
}

/// Predicts what [`super::delta`] would write, without writing. Blocks.
///
/// # Errors
/// If a tensor has another shape or type in the base, or cannot be read.
pub fn estimate(
    tuned: &ModelSource,
    base: &ModelSource,
    method: DeltaMethod,
) -> Result<Estimate, ProduceError> {
    method.check()?;
    tuned.check_names()?;
    base.check_names()?;
    let below = tuned.tensors().iter().map(|tensor| partner(base, tensor));
    let below = below.collect::<Result<Vec<_>, _>>()?;
    let one =
        |(tensor, below): (&Tensor, &Option<&Tensor>)| sample(tuned, base, method, tensor, *below);
    let found: Vec<Result<Sampled, ProduceError>> =
        tuned.tensors().par_iter().zip(&below).map(one).collect();
    let raw_bytes = tuned.files().iter().map(|file| file.size).sum();
    let mut sum = Sampled::default();
    for own in found {
        let own = own?;
        sum.stored += own.stored;
        sum.read += own.read;
        sum.deviation.add(own.deviation);
    }
    let mut new_bytes = sum.stored as u64;
    for (number, file) in tuned.files().iter().enumerate() {
        let tensors = tuned.tensors().iter().filter(|tensor| tensor.file == number);
        let rest = file.size - tensors.map(|tensor| tensor.len).sum::<u64>();
        if rest > 0 && !same(tuned, base, number)? {
            new_bytes += rest;
        }
    }
    Ok(Estimate { raw_bytes, new_bytes, deviation: sum.deviation, sampled_bytes: sum.read })
}

/// Whether what a file holds beside tensors is in the base.
fn same(tuned: &ModelSource, base: &ModelSource, number: usize) -> Result<bool, ProduceError> {
    let own = &tuned.files()[number];
    let Some(other) = base.files().iter().position(|file| file.path == own.path) else {
        return Ok(false);
    };
    let rest = |model: &ModelSource, file: usize| {
        let parts = &model.files()[file].parts;
        let content =
            parts.iter().filter(|part| part.kind == crate::pack::model::PartKind::Content);
        content.map(|part| part.offset..part.offset + part.len).collect::<Vec<_>>()
    };
    let (here, there) = (rest(tuned, number), rest(base, other));
    if here != there || here.iter().map(|part| part.end - part.start).sum::<u64>() > MAX_COMPARED {
        return Ok(false);
    }
    for part in here {
        if tuned.read(number, part.clone())? != base.read(other, part)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sample(
    tuned: &ModelSource,
    base: &ModelSource,
    method: DeltaMethod,
    tensor: &Tensor,
    below: Option<&Tensor>,
) -> Result<Sampled, ProduceError> {
    if tensor.len == 0
        || (tensor.digest.get().is_some()
            && tensor.digest.get() == below.and_then(|b| b.digest.get()))
    {
        return Ok(Sampled::default());
    }
    let (mut own, mut others) = (Vec::new(), Vec::new());
    let mut read = 0;
    let grid = choose_grid(&tensor.name, tensor.dtype, &tensor.shape).unwrap_or(Grid::EMPTY);
    let chunks = grid.chunks().max(1);
    for piece in pieces(tensor.len, chunks) {
        let at = |tensor: &Tensor| tensor.offset + piece.start..tensor.offset + piece.end;
        own.push(tuned.read(tensor.file, at(tensor))?);
        if let Some(below) = below {
            others.push(base.read(below.file, at(below))?);
        }
        read += piece.end - piece.start;
    }
    let weight = tensor.len as f64 / read as f64;
    let float = Float::of_dtype(tensor.dtype);
    let mut encoder = Encoder::default();
    let mut sum = Sampled { read, ..Sampled::default() };
    if others.is_empty() {
        let each = own.into_iter().map(|piece| {
            encoder.encode(CodecChoice::Auto, tensor.dtype, piece, None).record.stored_len
        });
        sum.stored = each.map(f64::from).sum::<f64>() * weight;
        return Ok(sum);
    }
    // Nothing of the sample changed: nothing of the tensor, most likely.
    if own == others {
        return Ok(sum);
    }
    sum.stored = chunks as f64 * RECORDS;
    let (base, tuned) = (others.concat(), own.concat());
    let made: Bytes = match float {
        None => tuned.into(),
        Some(float) => {
            let scale = match method {
                DeltaMethod::Lossless => 0.0,
                _ => root_mean_square(float, &base, &tuned)
                    .map_err(|error| not_finite(&tensor.name, error))?,
            };
            let made = scaled(method, float, scale, &base, &tuned);
            sum.deviation = made.deviation;
            sum.deviation.squares *= weight;
            sum.deviation.of *= weight;
            sum.deviation.changed = (sum.deviation.changed as f64 * weight) as u64;
            sum.deviation.elements = (sum.deviation.elements as f64 * weight) as u64;
            made.bytes.into()
        }
    };
    let mut at = 0;
    for below in &others {
        let own = made.slice(at..at + below.len());
        at += below.len();
        if own == below {
            continue;
        }
        let decoded = DecodedDigest::of(below);
        let against = Against { base: Base { decoded, depth: 1 }, decoded: below };
        let encoded = encoder.encode(CodecChoice::Auto, tensor.dtype, own, Some(against));
        sum.stored += f64::from(encoded.record.stored_len) * weight;
    }
    Ok(sum)
}

/// Evenly spread pieces of a tensor, each as long as one of its chunks.
fn pieces(len: u64, chunks: u64) -> Vec<std::ops::Range<u64>> {
    let size = len.div_ceil(chunks).next_multiple_of(ALIGNED);
    let all = len.div_ceil(size);
    let count = all.div_ceil(ONE_OF);
    let piece = |n: u64| {
        let start = (2 * n + 1) * all / (2 * count) * size;
        start..(start + size).min(len)
    };
    (0..count).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_spread_and_lie_within() {
        let size: u64 = 1 << 20;
        for len in [1, size - 1, size, size + 1, 7 * size + 5, 1000 * size + 3] {
            let pieces = pieces(len, len.div_ceil(size));
            assert!(
                pieces.iter().all(|piece| piece.start < piece.end && piece.end <= len),
                "{len}"
            );
            assert!(pieces.windows(2).all(|two| two[0].end <= two[1].start));
            let read: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
            assert!(read <= len / ONE_OF + 2 * size);
        }
    }
}
