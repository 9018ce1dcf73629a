//! Which bytes of a tensor a slice needs, and how it is put together from them. Pure.
//!
//! A slice is a range with a step along each dimension. What is fetched is a range of rows, of each of which
//! one run: the dimension that begins the row is chosen so that least is fetched.

use std::ops::Range;

use tenpak::schedule::shard::ShardSlice;

/// Along one dimension: from, up to, and in steps of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) start: u64,
    pub(crate) stop: u64,
    pub(crate) step: u64,
}

impl Step {
    fn len(self) -> u64 {
        (self.stop.saturating_sub(self.start)).div_ceil(self.step.max(1))
    }

    /// One after the last index that is taken.
    fn end(self) -> u64 {
        match self.len() {
            0 => self.start,
            len => self.start + (len - 1) * self.step + 1,
        }
    }
}

/// A slice, and how it is had.
#[derive(Debug)]
pub(crate) struct Slice {
    /// What is fetched.
    pub(crate) cut: ShardSlice,
    /// The shape of the slice.
    pub(crate) shape: Vec<u64>,
    /// Where the bytes of each of its elements lie in what is fetched; `None` where they are that.
    gather: Option<Gather>,
}

#[derive(Debug)]
struct Gather {
    /// How many bytes lie between neighbours along each dimension.
    strides: Vec<u64>,
    first: u64,
    item: u64,
}

/// Plans a slice of a tensor of `dims` whose elements have `bits`. `None` if it cuts through a byte, or is
/// not within the tensor.
pub(crate) fn plan(dims: &[u64], bits: u64, steps: &[Step]) -> Option<Slice> {
    let within = |(dim, step): (&u64, &Step)| step.end() <= *dim && step.step > 0;
    if dims.len() != steps.len() || !dims.iter().zip(steps).all(within) {
        return None;
    }
    let shape: Vec<u64> = steps.iter().map(|step| step.len()).collect();
    let all = dims.iter().try_fold(bits, |n, &dim| n.checked_mul(dim))?;
    let is_whole = dims.iter().zip(steps).all(|(dim, step)| step.start == 0 && step.len() == *dim);
    if is_whole || shape.contains(&0) {
        let len = if is_whole { all.div_ceil(8) } else { 0 };
        return Some(Slice { cut: ShardSlice::whole(len), shape, gather: None });
    }
    // Not whole, and not empty: there is a dimension, and each has elements.
    let mut best: Option<(u64, usize, Range<u64>)> = None;
    for (at, step) in steps.iter().enumerate() {
        let inner: u64 = dims.iter().skip(at + 1).product::<u64>() * bits;
        if !inner.is_multiple_of(8) {
            continue;
        }
        let before = || dims.iter().zip(steps).take(at);
        let first = before().fold(0, |n, (dim, step)| n * dim + step.start);
        let last = before().fold(0, |n, (dim, step)| n * dim + step.end() - 1);
        let bytes = (last + 1 - first) * (step.end() - step.start) * inner / 8;
        if best.as_ref().is_none_or(|(least, ..)| bytes < *least) {
            best = Some((bytes, at, first..last + 1));
        }
    }
    let (bytes, at, rows) = best?;
    let inner = dims.iter().skip(at + 1).product::<u64>() * bits / 8;
    let (own, dim) = (*steps.get(at)?, *dims.get(at)?);
    let cut = ShardSlice::of_rows(rows, own.start * inner..own.end() * inner, dim * inner)?;
    let wanted = shape.iter().product::<u64>() * bits;
    if wanted == bytes * 8 {
        return Some(Slice { cut, shape, gather: None });
    }
    if !bits.is_multiple_of(8) {
        return None;
    }
    let item = bits / 8;
    let row = (own.end() - own.start) * inner;
    let (mut strides, mut first) = (vec![0; dims.len()], 0);
    let mut stride = item;
    for (d, (own, (dim, step))) in strides.iter_mut().zip(dims.iter().zip(steps)).enumerate().rev()
    {
        if d + 1 == at {
            stride = row;
        }
        *own = stride * step.step;
        first += if d > at { step.start * stride } else { 0 };
        stride *= dim;
    }
    Some(Slice { cut, shape, gather: Some(Gather { strides, first, item }) })
}

impl Slice {
    /// Whether what is fetched is the slice.
    pub(crate) fn is_fetched(&self) -> bool {
        self.gather.is_none()
    }

    /// Puts the slice together. `None` if what was fetched is not what was planned.
    pub(crate) fn gather(&self, fetched: &[u8]) -> Option<Vec<u8>> {
        let Some(Gather { strides, first, item }) = &self.gather else {
            return Some(fetched.to_vec());
        };
        let len = self.shape.iter().product::<u64>() * item;
        let mut made = Vec::with_capacity(usize::try_from(len).ok()?);
        // The dimensions at the end whose bytes lie back to back are copied as one run.
        let (mut run, mut inner) = (*item, self.shape.len());
        for (dim, stride) in self.shape.iter().zip(strides).rev() {
            if *stride != run {
                break;
            }
            (run, inner) = (run * dim, inner - 1);
        }
        let mut index = vec![0_u64; inner];
        loop {
            let at: u64 =
                first + index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<u64>();
            let (from, to) = (usize::try_from(at).ok()?, usize::try_from(at + run).ok()?);
            made.extend_from_slice(fetched.get(from..to)?);
            let mut d = inner;
            loop {
                let Some(next) = d.checked_sub(1) else { return Some(made) };
                d = next;
                let (own, dim) = (index.get_mut(d)?, *self.shape.get(d)?);
                *own += 1;
                if *own < dim {
                    break;
                }
                *own = 0;
            }
        }
    }
}
