//! States: rows of f32, padded with zeros to whole steps of products.

use std::ops::{Deref, DerefMut};

use super::lanes::LANES;

/// Columns that states are padded to a multiple of: those of the shortest step of a product.
pub(super) const CHUNK: usize = 32;

/// f32 of which the first begins a line of the processor's cache, so that no register is read from two.
#[derive(Debug, Clone, Default)]
pub(super) struct Floats {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

impl Floats {
    /// Makes it of another length; what is new is zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(LANES), Line([0.0; LANES]));
        // What a longer one left behind in the last line.
        let old = std::mem::replace(&mut self.len, len);
        if let Some(behind) = self.get_mut(old.min(len)..) {
            behind.fill(0.0);
        }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines are f32 without gaps, and there are as many as `len` needs.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; it is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Rows of so many f32, `[len, width]`.
#[derive(Debug, Clone, Default)]
pub struct States {
    values: Floats,
    width: usize,
    stride: usize,
    len: usize,
}

impl States {
    /// All zeros.
    pub fn new(len: usize, width: usize) -> Self {
        let stride = width.next_multiple_of(CHUNK);
        let mut values = Floats::default();
        values.resize(len * stride);
        Self { values, width, stride, len }
    }

    /// Makes it of another shape; values are any.
    pub fn reshape(&mut self, len: usize, width: usize) {
        let stride = width.next_multiple_of(CHUNK);
        if (stride, width) != (self.stride, self.width) {
            self.values.resize(0);
        }
        self.values.resize(len * stride);
        (self.width, self.stride, self.len) = (width, stride, len);
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// A row.
    pub fn row(&self, at: usize) -> &[f32] {
        self.values.get(at * self.stride..at * self.stride + self.width).unwrap_or_default()
    }

    /// A row, to change.
    pub fn row_mut(&mut self, at: usize) -> &mut [f32] {
        self.values.get_mut(at * self.stride..at * self.stride + self.width).unwrap_or_default()
    }

    /// All rows, to change.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let width = self.width;
        self.values.chunks_mut(self.stride.max(1)).filter_map(move |row| row.get_mut(..width))
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let width = self.width;
        self.values.chunks(self.stride.max(1)).filter_map(move |row| row.get(..width))
    }

    /// All values, rows padded to the stride.
    pub(super) fn slots(&mut self) -> &mut [f32] {
        self.values.get_mut(..self.len * self.stride).unwrap_or_default()
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.values.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.values.as_mut_ptr()
    }

    /// The same with columns in another order.
    pub(super) fn gathered(&self, order: &[u32]) -> Self {
        let mut gathered = Self::new(self.len, self.width);
        for (to, from) in gathered.rows_mut().zip(self.rows()) {
            for (value, column) in to.iter_mut().zip(order) {
                *value = from.get(*column as usize).copied().unwrap_or(0.0);
            }
        }
        gathered
    }
}
