//! What one rank of a tensor-parallel group needs of a tensor, and how chunks are cut to it.
//!
//! A rank's part is [`ShardSlice`]: equal windows of the tensor's bytes, one per matrix or per row, put
//! back to back. Every byte of a chunk inside a window has exactly one place in the rank's tensor.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::format::dtype::{Dtype, Shape};
use crate::format::grid::Rect;
use crate::schedule::tensor_parallel::split_axis;

/// Rank `index` of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// A text that names no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no shard: expected I/N with I from 0 to N-1, for example 0/8")]
#[non_exhaustive]
pub struct ParseShardError(String);

impl Shard {
    /// Rank `index` of `count`, counted from 0.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Which one it is, counted from 0.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Of how many.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The part of a dimension of `size` that this rank has: floor(i * size / n) up to the next.
    pub fn interval(self, size: u64) -> Range<u64> {
        let border = |i: u32| {
            let border = u128::from(i) * u128::from(size) / u128::from(self.count);
            // At most `size`, since i <= count.
            border as u64
        };
        border(self.index)..border(self.index + 1)
    }

    /// This rank's part of a tensor: its shape, and its bytes among the tensor's `len`.
    ///
    /// A tensor whose split would cut through a byte is whole for every rank.
    pub fn of(self, name: &str, dtype: Dtype, shape: &Shape, len: u64) -> (Shape, ShardSlice) {
        let whole = (shape.clone(), ShardSlice::whole(len));
        if len == 0 || self.count == 1 {
            return whole;
        }
        let Some(dimension) = split_axis(name, shape).dimension(shape) else { return whole };
        let Some((outer, [size, inner @ ..])) = shape.dims().split_at_checked(dimension) else {
            return whole;
        };
        // No overflow: no dimension is 0, and the product of all of them is `len` bytes.
        let outer: u64 = outer.iter().product();
        let bits = inner.iter().product::<u64>() * dtype.bits();
        let aligned = bits.is_multiple_of(8)
            || (size.is_multiple_of(u64::from(self.count))
                && (size / u64::from(self.count) * bits).is_multiple_of(8));
        if !aligned {
            return whole;
        }
        let own = self.interval(*size);
        let mut dims = shape.dims().to_vec();
        if let Some(dim) = dims.get_mut(dimension) {
            *dim = own.end - own.start;
        }
        let Some(own_shape) = Shape::new(dims) else { return whole };
        let cut = ShardSlice {
            start: own.start * bits / 8,
            width: (own.end - own.start) * bits / 8,
            stride: size * bits / 8,
            first: 0,
            windows: outer,
        };
        (own_shape, cut)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = ParseShardError;

    fn from_str(text: &str) -> Result<Self, ParseShardError> {
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok())?;
        text.split_once('/')
            .and_then(|(i, n)| Self::new(digits(i)?, digits(n)?))
            .ok_or_else(|| ParseShardError(text.chars().take(40).collect()))
    }
}

/// The wanted bytes of a tensor: of its rows of `stride` bytes, `windows` from the row `first` on, and of each the
/// `width` bytes from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardSlice {
    start: u64,
    width: u64,
    stride: u64,
    first: u64,
    windows: u64,
}

/// Bytes of a chunk with their place in the wanted tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRun {
    /// Offset in the decoded chunk.
    pub from: u64,
    /// Offset in the wanted tensor.
    pub to: u64,
    /// Bytes.
    pub len: u64,
}

impl ShardSlice {
    /// All of a tensor of `len` bytes.
    pub const fn whole(len: u64) -> Self {
        Self { start: 0, width: len, stride: len, first: 0, windows: 1 }
    }

    /// Of the `rows` of a tensor that is seen as rows of `stride` bytes, the bytes `part` of each; `None` where they
    /// are not within a row.
    pub const fn of_rows(rows: Range<u64>, part: Range<u64>, stride: u64) -> Option<Self> {
        if rows.start > rows.end || part.start > part.end || part.end > stride {
            return None;
        }
        let (windows, width) = (rows.end - rows.start, part.end - part.start);
        if rows.end.checked_mul(stride).is_none() {
            return None;
        }
        Some(Self { start: part.start, width, stride, first: rows.start, windows })
    }

    /// The bytes `part` of a tensor of `len` bytes, in which they must lie.
    pub const fn part(part: Range<u64>, len: u64) -> Self {
        Self { start: part.start, width: part.end - part.start, stride: len, first: 0, windows: 1 }
    }

    /// Bytes wanted.
    pub const fn len(&self) -> u64 {
        self.width * self.windows
    }

    /// Whether nothing is wanted: more ranks than rows, or a tensor without bytes.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wanted bytes lie before byte `at` of the tensor: their place in the result.
    fn before(&self, at: u64) -> u64 {
        if self.stride == 0 {
            return 0;
        }
        let Some(window) = (at / self.stride).checked_sub(self.first) else { return 0 };
        if window >= self.windows {
            return self.len();
        }
        let inside = (at % self.stride).saturating_sub(self.start).min(self.width);
        window * self.width + inside
    }

    /// The range of the result that holds everything wanted of `rect`; empty if nothing is.
    pub fn span(&self, rect: &Rect) -> Range<u64> {
        let (from, to) = (self.first * self.stride, (self.first + self.windows) * self.stride);
        let within = self.width == self.stride && from <= rect.start && rect.end() <= to;
        if within || rect.is_contiguous() {
            return self.before(rect.start)..self.before(rect.end());
        }
        let mut copies = self.copies(*rect);
        match copies.next() {
            None => 0..0,
            Some(first) => {
                let last = copies.last().unwrap_or(first);
                first.to..last.to + last.len
            }
        }
    }

    /// Where the wanted bytes of a chunk at `rect` go, in rising order on both sides.
    pub fn copies(self, rect: Rect) -> impl Iterator<Item = CopyRun> {
        // A chunk that is one run of the tensor is one row here.
        let (rows, width) =
            if rect.is_contiguous() { (1, rect.len()) } else { (rect.rows, rect.width) };
        (0..rows).flat_map(move |row| {
            let start = rect.start + row * rect.stride;
            self.runs(start, width).map(move |run| CopyRun { from: row * width + run.from, ..run })
        })
    }

    /// The wanted parts of the tensor's bytes `[start, start + len)`.
    fn runs(self, start: u64, len: u64) -> impl Iterator<Item = CopyRun> {
        let end = start + len;
        // Windows that touch each other are one.
        let joined = self.width == self.stride;
        let (first, last) = if self.is_empty() || len == 0 {
            (1, 0)
        } else if joined {
            (0, 0)
        } else {
            let last = (end - 1) / self.stride;
            ((start / self.stride).max(self.first), last.min(self.first + self.windows - 1))
        };
        (first..=last).filter_map(move |window| {
            let (window_start, window_end) = if joined {
                (self.stride * self.first, self.stride * (self.first + self.windows))
            } else {
                let at = window * self.stride + self.start;
                (at, at + self.width)
            };
            let from = start.max(window_start);
            let to = end.min(window_end);
            (from < to).then(|| CopyRun {
                from: from - start,
                to: self.before(from),
                len: to - from,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::grid::Grid;
    use crate::schedule::tensor_parallel::{SplitAxis, choose_grid};
    use proptest::prelude::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims.to_vec()).unwrap()
    }

    #[test]
    fn shards_are_read_from_text() {
        assert_eq!("3/8".parse(), Ok(Shard { index: 3, count: 8 }));
        for bad in ["8/8", "1", "/2", "1/", "-1/2", "+1/2", "0/0", "1/99999999999"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad} was accepted");
        }
        let parts: Vec<_> = (0..4).map(|i| Shard::new(i, 4).unwrap().interval(10)).collect();
        assert_eq!(parts, [0..2, 2..5, 5..7, 7..10]);
    }

    #[test]
    fn packed_elements_are_never_cut_through() {
        let shard = Shard::new(1, 2).unwrap();
        let (own, cut) = shard.of("o_proj.weight", Dtype::F4, &shape(&[2, 6]), 6);
        assert_eq!((own, cut), (shape(&[2, 6]), ShardSlice::whole(6)));
        let (own, cut) = shard.of("o_proj.weight", Dtype::F4, &shape(&[2, 8]), 8);
        assert_eq!((own, cut.len()), (shape(&[2, 4]), 4));
    }

    proptest! {
        /// Oracle: the bytes of each row one by one.
        #[test]
        fn slices_of_rows_equal_naive_slicing(
            (rows, columns) in (1_u64..9, 1_u64..9),
            (block_rows, band) in (1_u64..9, 1_u64..9),
            run in any::<bool>(),
            (a, b, c, d) in (0_u64..9, 0_u64..9, 0_u64..9, 0_u64..9),
        ) {
            let (a, b, c, d) = (a.min(rows), b.min(rows), c.min(columns), d.min(columns));
            let cut = ShardSlice::of_rows(a..b, c..d, columns);
            prop_assert_eq!(cut.is_some(), a <= b && c <= d);
            let Some(cut) = cut else { return Ok(()) };
            let grid = if run { Grid::run(rows * columns, band) } else {
                Grid { leading: 1, rows, row_bytes: columns, block_rows: block_rows.min(rows), band_bytes: band.min(columns) }
            };
            let expected: Vec<u64> =
                (a..b).flat_map(|row| (c..d).map(move |column| row * columns + column)).collect();
            prop_assert_eq!(cut.len(), expected.len() as u64);
            let mut found = vec![u64::MAX; expected.len()];
            for rect in grid.rects() {
                let (mut least, mut most) = (u64::MAX, 0);
                for copy in cut.copies(rect) {
                    for i in 0..copy.len {
                        let at = copy.from + i;
                        let place = &mut found[(copy.to + i) as usize];
                        prop_assert_eq!(*place, u64::MAX);
                        *place = rect.start + at / rect.width * rect.stride + at % rect.width;
                    }
                    (least, most) = (least.min(copy.to), most.max(copy.to + copy.len));
                }
                let span = cut.span(&rect);
                if most == 0 { prop_assert!(span.is_empty()) } else { prop_assert_eq!(span, least..most) }
            }
            prop_assert_eq!(found, expected);
        }

        /// Oracle: indexing element by element. Whatever the grid, gathering the copies of all
        /// chunks gives the rank's own row-major tensor, and each span is tight.
        #[test]
        fn shards_equal_naive_slicing(
            name in prop::sample::select(vec![
                "q_proj.weight", "o_proj.weight", "experts.down_proj", "q_proj.bias", "norm.weight",
            ]),
            dims in prop::collection::vec(1_u64..9, 1..4),
            (block_rows, band, run) in (1_u64..9, 1_u64..9, any::<bool>()),
            (index, count) in (1_u32..9).prop_flat_map(|n| (0..n, Just(n))),
        ) {
            let dtype = Dtype::U16;
            let shape = shape(&dims);
            let len = shape.byte_len(dtype).unwrap();
            let tensor: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
            let columns = *dims.last().unwrap();
            let rows = if dims.len() > 1 { dims[dims.len() - 2] } else { 1 };
            let grid = if run { Grid::run(len, band * 2) } else {
                Grid {
                    leading: len / (rows * columns * 2), rows, row_bytes: columns * 2,
                    block_rows: block_rows.min(rows), band_bytes: band.min(columns) * 2,
                }
            };
            prop_assert!(grid.validate(len, dtype).is_ok());
            let shard = Shard::new(index, count).unwrap();
            let (own, cut) = shard.of(name, dtype, &shape, len);
            // Naive: which elements have their coordinate on the axis inside the interval.
            let dimension = split_axis(name, &shape).dimension(&shape).filter(|_| count > 1);
            let mut expected = Vec::new();
            for element in 0..len / 2 {
                let inside = dimension.is_none_or(|d| {
                    let inner: u64 = dims[d + 1..].iter().product();
                    shard.interval(dims[d]).contains(&(element / inner % dims[d]))
                });
                if inside {
                    expected.extend_from_slice(&tensor[element as usize * 2..][..2]);
                }
            }
            prop_assert_eq!(own.byte_len(dtype), Some(expected.len() as u64));
            prop_assert_eq!(cut.len(), expected.len() as u64);
            let mut found = vec![0; expected.len()];
            let mut written = vec![0; expected.len()];
            for rect in grid.rects() {
                let chunk: Vec<u8> = (0..rect.rows).flat_map(|r| {
                    let at = (rect.start + r * rect.stride) as usize;
                    tensor[at..at + rect.width as usize].to_vec()
                }).collect();
                let span = cut.span(&rect);
                let (mut least, mut most) = (u64::MAX, 0);
                for copy in cut.copies(rect) {
                    let bytes = &chunk[copy.from as usize..(copy.from + copy.len) as usize];
                    found[copy.to as usize..(copy.to + copy.len) as usize].copy_from_slice(bytes);
                    written[copy.to as usize..(copy.to + copy.len) as usize]
                        .iter_mut().for_each(|w| *w += 1);
                    (least, most) = (least.min(copy.to), most.max(copy.to + copy.len));
                }
                if most == 0 { prop_assert!(span.is_empty()) } else { prop_assert_eq!(span, least..most) }
            }
            prop_assert!(written.iter().all(|&n| n == 1));
            prop_assert_eq!(found, expected);
        }
    }

    /// The bound: all eight ranks of a Llama-like model together fetch at most 1.02 of it.
    #[test]
    fn eight_ranks_fetch_hardly_more_than_the_model() {
        for (hidden, inner, vocabulary, kv) in
            [(4096, 14336, 128_256, 1024), (2048, 5632, 32_000, 256), (3584, 18944, 152_064, 512)]
        {
            let tensors = [
                ("model.embed_tokens.weight", vec![vocabulary, hidden]),
                ("lm_head.weight", vec![vocabulary, hidden]),
                ("q_proj.weight", vec![hidden, hidden]),
                ("q_proj.bias", vec![hidden]),
                ("k_proj.weight", vec![kv, hidden]),
                ("o_proj.weight", vec![hidden, hidden]),
                ("gate_proj.weight", vec![inner, hidden]),
                ("down_proj.weight", vec![hidden, inner]),
                ("norm.weight", vec![hidden]),
            ];
            let (mut stored, mut fetched) = (0, 0);
            for (name, dims) in tensors {
                let shape = shape(&dims);
                let len = shape.byte_len(Dtype::BF16).unwrap();
                let grid = choose_grid(name, Dtype::BF16, &shape).unwrap();
                stored += len;
                if split_axis(name, &shape) == SplitAxis::ArtifactGraph {
                    fetched += len;
                    continue;
                }
                for index in 0..8 {
                    let (_, cut) = Shard::new(index, 8).unwrap().of(name, Dtype::BF16, &shape, len);
                    let wanted = grid.rects().filter(|rect| !cut.span(rect).is_empty());
                    fetched += wanted.map(|rect| rect.len()).sum::<u64>();
                }
            }
            assert!(fetched * 100 <= stored * 102, "{fetched} of {stored} for hidden {hidden}");
        }
    }
}
