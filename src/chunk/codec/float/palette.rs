//! Wide elements of few distinct values: the values once, ascending, and one index per element.

#![expect(clippy::indexing_slicing, reason = "slots and tables have a place for every index")]

use super::planes::Form;
use crate::chunk::codec::error::Malformed;

/// Values of a palette at most.
const MAX_VALUES: usize = 256;
/// Elements that are looked at before all are.
const SAMPLE: usize = 1024;
/// Slots of the table from values to indexes; a power of two, mostly free.
const SLOTS: usize = 4 * MAX_VALUES;

/// The values of a palette, ascending, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Palette {
    width: usize,
    values: Vec<u64>,
    /// The same, for every index.
    table: Box<[u64; MAX_VALUES]>,
}

impl Palette {
    fn new(width: usize, values: Vec<u64>) -> Self {
        let mut table = Box::new([0; MAX_VALUES]);
        table.iter_mut().zip(&values).for_each(|(slot, &value)| *slot = value);
        Self { width, values, table }
    }

    /// The palette of these elements, if they are wide and their values few.
    pub(super) fn find(form: Form, elements: &[u8]) -> Option<Self> {
        let values = match form.width() {
            2 => distinct::<2>(elements),
            4 => distinct::<4>(elements),
            8 => distinct::<8>(elements),
            _ => None,
        }?;
        Some(Self::new(form.width(), values))
    }

    /// Reads `count` values of the form's width; what follows them.
    pub(super) fn parse(
        form: Form,
        count: usize,
        stored: &[u8],
    ) -> Result<(Self, &[u8]), Malformed> {
        let width = form.width();
        let (bytes, rest) =
            stored.split_at_checked(count * width).ok_or(Malformed::PaletteShort)?;
        let values: Vec<_> = bytes.chunks(width).map(number).collect();
        if !values.is_sorted_by(|a, b| a < b) {
            return Err(Malformed::PaletteOrder);
        }
        Ok((Self::new(width, values), rest))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for value in &self.values {
            out.extend_from_slice(&value.to_le_bytes()[..self.width]);
        }
    }

    /// Bytes of its values.
    pub(super) fn len(&self) -> usize {
        self.values.len() * self.width
    }

    /// How many there are.
    pub(super) fn values(&self) -> usize {
        self.values.len()
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The index of each element, all of which are in the palette.
    pub(super) fn indexes(&self, elements: &[u8], out: &mut [u8]) {
        match self.width {
            2 => self.indexes_of::<2>(elements, out),
            4 => self.indexes_of::<4>(elements, out),
            _ => self.indexes_of::<8>(elements, out),
        }
    }

    fn indexes_of<const W: usize>(&self, elements: &[u8], out: &mut [u8]) {
        let mut slots = [None; SLOTS];
        for (&value, index) in self.values.iter().zip(0..=255_u8) {
            let at = free_or_same(value, |at| slots[at].map(|(value, _)| value));
            slots[at] = Some((value, index));
        }
        for (element, out) in elements.as_chunks::<W>().0.iter().zip(out) {
            let at = free_or_same(number(element), |at| slots[at].map(|(value, _)| value));
            *out = slots[at].map_or(0, |(_, index)| index);
        }
    }

    /// The elements of these indexes.
    #[inline(always)]
    pub(super) fn look_up(&self, indexes: &[u8], out: &mut [u8]) -> Result<(), Malformed> {
        let most = indexes.iter().copied().max().unwrap_or(0);
        if usize::from(most) >= self.values.len() {
            return Err(Malformed::PaletteIndex);
        }
        match self.width {
            2 => self.look_up_as::<2>(indexes, out),
            4 => self.look_up_as::<4>(indexes, out),
            _ => self.look_up_as::<8>(indexes, out),
        }
        Ok(())
    }

    #[inline(always)]
    fn look_up_as<const W: usize>(&self, indexes: &[u8], out: &mut [u8]) {
        for (out, &index) in out.as_chunks_mut::<W>().0.iter_mut().zip(indexes) {
            out.copy_from_slice(&self.table[usize::from(index)].to_le_bytes()[..W]);
        }
    }
}

/// An element as a number.
#[inline(always)]
fn number(element: &[u8]) -> u64 {
    element.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The slot that holds `value`, or the free one where it belongs. Less than half of them are taken.
#[inline(always)]
fn free_or_same(value: u64, holds: impl Fn(usize) -> Option<u64>) -> usize {
    let hash = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut at = (hash >> (u64::BITS - SLOTS.ilog2())) as usize;
    while holds(at).is_some_and(|held| held != value) {
        at = (at + 1) % SLOTS;
    }
    at
}

/// The distinct values, ascending, if they are few and the elements several times as many.
fn distinct<const W: usize>(elements: &[u8]) -> Option<Vec<u64>> {
    let (elements, _) = elements.as_chunks::<W>();
    let mut slots = [None; SLOTS];
    let mut values = Vec::with_capacity(MAX_VALUES);
    let mut add = |element: &[u8; W]| {
        let value = number(element);
        let at = free_or_same(value, |at| slots[at]);
        if slots[at].is_none() {
            slots[at] = Some(value);
            values.push(value);
        }
        values.len() <= MAX_VALUES
    };
    let step = (elements.len() / SAMPLE).max(1);
    let few = elements.iter().step_by(step).all(&mut add) && elements.iter().all(&mut add);
    values.sort_unstable();
    (few && values.len() * 4 <= elements.len()).then_some(values)
}
