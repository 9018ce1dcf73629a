//! The grid of a tensor: how its bytes are cut into chunks, and where each chunk lies in it
//! (section 5.3). Pure geometry; everything is in bytes.

use super::error::FormatError;
use super::limits::MAX_CHUNK;
use crate::format::dtype::Dtype;

/// `leading` matrices of `rows` x `row_bytes`, each cut into bands of columns, each band into
/// blocks of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Matrices, back to back.
    pub leading: u64,
    /// Rows of a matrix.
    pub rows: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Rows of a block; the last may be shorter.
    pub block_rows: u64,
    /// Bytes of a band; the last may be narrower.
    pub band_bytes: u64,
}

/// A chunk's place in its tensor: `rows` runs of `width` bytes, `stride` bytes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Offset of its first byte in the tensor.
    pub start: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of a row within the chunk.
    pub width: u64,
    /// Bytes from a row's start to the next one's.
    pub stride: u64,
}

impl Rect {
    /// Bytes of the chunk.
    pub const fn len(&self) -> u64 {
        self.rows * self.width
    }

    /// Never: a grid has no empty chunk.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the chunk is one run of the tensor's bytes.
    pub const fn is_contiguous(&self) -> bool {
        self.rows == 1 || self.width == self.stride
    }

    /// One past the last byte.
    pub const fn end(&self) -> u64 {
        self.start + (self.rows - 1) * self.stride + self.width
    }
}

impl Grid {
    /// The grid of a tensor without bytes.
    pub const EMPTY: Self =
        Self { leading: 0, rows: 0, row_bytes: 0, block_rows: 0, band_bytes: 0 };

    /// A plain run of `len` bytes in chunks of `chunk`.
    pub const fn run(len: u64, chunk: u64) -> Self {
        if len == 0 {
            return Self::EMPTY;
        }
        let band_bytes = if chunk < len { chunk } else { len };
        Self { leading: 1, rows: 1, row_bytes: len, block_rows: 1, band_bytes }
    }

    /// Checks the rules for a tensor of `len` bytes. Every other method relies on them.
    ///
    /// # Errors
    /// If one is broken.
    pub fn validate(&self, len: u64, dtype: Dtype) -> Result<(), FormatError> {
        let wrong = |why| Err(FormatError::invalid("grid", format!("{why}: {self:?}")));
        if len == 0 || *self == Self::EMPTY {
            return if len == 0 && *self == Self::EMPTY {
                Ok(())
            } else {
                wrong("emptiness disagrees with the shape")
            };
        }
        let total = self.leading.checked_mul(self.rows).and_then(|n| n.checked_mul(self.row_bytes));
        if total != Some(len) {
            return wrong("does not cover the tensor");
        }
        if self.block_rows == 0
            || self.block_rows > self.rows
            || self.band_bytes == 0
            || self.band_bytes > self.row_bytes
        {
            return wrong("a block does not fit its matrix");
        }
        match self.block_rows.checked_mul(self.band_bytes) {
            Some(chunk) if chunk <= u64::from(MAX_CHUNK) => {}
            _ => return wrong("a chunk is too large"),
        }
        let whole = match dtype.size() {
            Some(size) => {
                self.row_bytes.is_multiple_of(size) && self.band_bytes.is_multiple_of(size)
            }
            None => self.leading == 1 && self.rows == 1,
        };
        if whole { Ok(()) } else { wrong("an element is cut") }
    }

    /// Bands of one matrix.
    pub const fn bands(&self) -> u64 {
        if self.band_bytes == 0 { 0 } else { self.row_bytes.div_ceil(self.band_bytes) }
    }

    /// Blocks of one band.
    pub const fn blocks(&self) -> u64 {
        if self.block_rows == 0 { 0 } else { self.rows.div_ceil(self.block_rows) }
    }

    /// Chunks of the tensor. Cannot overflow: each chunk holds at least one byte.
    pub const fn chunks(&self) -> u64 {
        self.leading * self.bands() * self.blocks()
    }

    /// The place of chunk `index`, which is below [`Self::chunks`].
    pub fn rect(&self, index: u64) -> Rect {
        let (blocks, bands) = (self.blocks(), self.bands());
        let (block, band) = (index % blocks, index / blocks % bands);
        let matrix = index / blocks / bands;
        let row = block * self.block_rows;
        let column = band * self.band_bytes;
        Rect {
            start: (matrix * self.rows + row) * self.row_bytes + column,
            rows: self.block_rows.min(self.rows - row),
            width: self.band_bytes.min(self.row_bytes - column),
            stride: self.row_bytes,
        }
    }

    /// Every chunk's place, in chunk order.
    pub fn rects(self) -> impl Iterator<Item = Rect> {
        (0..self.chunks()).map(move |i| self.rect(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Oracle: painting every rectangle covers every byte once, in the stated order.
        #[test]
        fn rects_tile_the_tensor(
            (leading, rows, cols) in (1_u64..4, 1_u64..12, 1_u64..12),
            (block_rows, band) in (1_u64..12, 1_u64..12),
        ) {
            let grid = Grid {
                leading, rows, row_bytes: cols * 2,
                block_rows: block_rows.min(rows), band_bytes: band.min(cols) * 2,
            };
            let len = leading * rows * cols * 2;
            prop_assert!(grid.validate(len, Dtype::BF16).is_ok());
            let mut painted = vec![0_u8; len as usize];
            let mut naive = Vec::new();
            for m in 0..leading {
                for c in (0..grid.row_bytes).step_by(grid.band_bytes as usize) {
                    for r in (0..rows).step_by(grid.block_rows as usize) {
                        naive.push((m * rows + r) * grid.row_bytes + c);
                    }
                }
            }
            let rects: Vec<_> = grid.rects().collect();
            prop_assert_eq!(rects.iter().map(|r| r.start).collect::<Vec<_>>(), naive);
            for rect in rects {
                for row in 0..rect.rows {
                    for b in 0..rect.width {
                        painted[(rect.start + row * rect.stride + b) as usize] += 1;
                    }
                }
                prop_assert!(rect.end() <= len);
            }
            prop_assert!(painted.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn broken_grids_are_refused() {
        let good = Grid { leading: 2, rows: 4, row_bytes: 8, block_rows: 2, band_bytes: 4 };
        assert!(good.validate(64, Dtype::F32).is_ok());
        for (bad, len, dtype) in [
            (good, 65, Dtype::F32),
            (good, 0, Dtype::F32),
            (Grid::EMPTY, 64, Dtype::F32),
            (Grid { block_rows: 0, ..good }, 64, Dtype::F32),
            (Grid { block_rows: 5, ..good }, 64, Dtype::F32),
            (Grid { band_bytes: 9, ..good }, 64, Dtype::F32),
            (Grid { band_bytes: 2, ..good }, 64, Dtype::F32),
            (good, 64, Dtype::F64),
            (good, 64, Dtype::F4),
            (Grid { leading: u64::MAX, ..good }, 64, Dtype::F32),
            (Grid::run(8 << 20, 5 << 20), 8 << 20, Dtype::U8),
        ] {
            assert!(bad.validate(len, dtype).is_err(), "{bad:?} was accepted for {len} {dtype}");
        }
        assert!(Grid::run(8, 3).validate(8, Dtype::F16).is_err());
        assert!(Grid::run(7, 3).validate(7, Dtype::F4).is_ok());
    }
}
