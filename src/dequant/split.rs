//! Which runs a weight is dequantized in, on a device that binds only so many bytes at a time. Pure.
//!
//! Every element is in exactly one run; a run's ranges begin where a device may bind them, and its
//! elements count from 0 in 32 bits, however large the weight.

use std::ops::Range;

use super::{Float, Layout, Part, QuantError, Weight};

/// What a device allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of one binding.
    pub binding: u64,
    /// What a binding's offset is a multiple of: a power of two of at most 256.
    pub align: u64,
}

/// The most elements of a run: with 8 to a vector, numbers of words stay below 2^32.
const MAX_RUN: u64 = 1 << 31;

/// A run of the weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The weight that the bound ranges make up.
    pub weight: Weight,
    /// Its first row in the ranges that are bound whole and are not an index or a code book.
    pub first_row: u32,
    /// Elements to dequantize.
    pub elements: u64,
    /// Bytes of each part, in the order of [`Part::ALL`].
    pub parts: [Range<u64>; 5],
    /// Bytes of the result.
    pub out: Range<u64>,
}

/// The runs of `weight` on a device with `limits`.
///
/// # Errors
/// If a row, or what it shares with others, is more than the device binds.
pub fn runs(weight: &Weight, out: Float, limits: Limits) -> Result<Vec<Run>, QuantError> {
    if limits.align > 256 || !limits.align.is_power_of_two() {
        return Err(QuantError::Unsupported("bindings aligned to more than 256 bytes"));
    }
    if matches!(weight.layout(), Layout::Blocks(_) | Layout::Mxfp4 | Layout::Nvfp4 { .. }) {
        return Err(QuantError::Unsupported("no kernel for devices; load it to the host"));
    }
    let cut = Cut::of(weight);
    // How many units fit: nothing grows faster than in proportion.
    let mut units = (MAX_RUN / cut.elements(1).max(1)).max(1);
    let fits = |units: u64| {
        let within = |part| cut.range(part, 0, units * cut.unit).end <= limits.binding;
        Part::ALL.into_iter().all(within) && cut.elements(units) * out.size() <= limits.binding
    };
    units = units.min(cut.total.div_ceil(cut.unit).max(1));
    while units > 1 && !fits(units) {
        units /= 2;
    }
    for part in Part::ALL {
        let len = cut.range(part, 0, units * cut.unit).end;
        if len > limits.binding {
            return Err(QuantError::TooLarge { part, len, limit: limits.binding });
        }
    }
    if cut.elements(units) > MAX_RUN || cut.elements(units) * out.size() > limits.binding {
        return Err(QuantError::Unsupported("the device binds too little for this shape"));
    }
    let step = units * cut.unit;
    let mut runs = Vec::new();
    let mut from = 0;
    while from < cut.total {
        let to = (from + step).min(cut.total);
        runs.push(cut.run(from, to, out));
        from = to;
    }
    Ok(runs)
}

/// How a weight may be cut: in units of rows, or of elements where blocks cross rows.
struct Cut<'a> {
    weight: &'a Weight,
    /// Rows or elements that any cut is a multiple of, so that every part's offset is aligned.
    unit: u64,
    total: u64,
}

impl<'a> Cut<'a> {
    fn of(weight: &'a Weight) -> Self {
        let (unit, total) = match weight.layout() {
            // 256 absmax, of a byte or more; 64 second absmax, of 4 bytes.
            Layout::Bnb4 { block, nested } => {
                let nested = nested.map_or(1, |nested| nested.block);
                (u64::from(block) * u64::from(nested.max(4)) * 64, weight.elements())
            }
            Layout::Q4_0 | Layout::Q8_0 | Layout::Q4K | Layout::Blocks(_) => {
                (1 << 15, weight.elements())
            }
            // Every part is bound whole; rows of a multiple of 8 elements are multiples of 16 bytes.
            Layout::Gptq { .. } | Layout::Awq { .. } => (32, weight.rows().into()),
            // 32 rows of zero points are whole words, 64 words are 256 bytes.
            Layout::Packed { .. } => (2048, weight.rows().into()),
            Layout::Int8 | Layout::Mxfp4 | Layout::Nvfp4 { .. } => (256, weight.rows().into()),
            Layout::Fp8 { .. } | Layout::Bytes { .. } => (256, weight.rows().into()),
        };
        Self { weight, unit, total }
    }

    fn elements(&self, units: u64) -> u64 {
        let count = (units * self.unit).min(self.total);
        if self.weight.is_flat() { count } else { count * u64::from(self.weight.cols()).max(1) }
    }

    fn is_whole(&self, part: Part) -> bool {
        match self.weight.layout() {
            Layout::Gptq { .. } | Layout::Awq { .. } => true,
            // Few, and a cut may fall within a block of rows.
            Layout::Fp8 { .. } | Layout::Bytes { .. } if part == Part::Scales => true,
            _ => matches!(part, Part::Index | Part::Table),
        }
    }

    /// The bytes of `part` for rows or elements from `from` to `to`.
    fn range(&self, part: Part, from: u64, to: u64) -> Range<u64> {
        let whole = 0..self.weight.part_len(part);
        if self.is_whole(part) {
            return whole;
        }
        let to = to.min(self.total);
        let end = |at: u64| {
            if self.weight.is_flat() {
                self.weight.flat_len(part, at)
            } else {
                self.weight.rows_len(part, u32::try_from(at).unwrap_or(u32::MAX))
            }
        };
        end(from)..end(to)
    }

    fn run(&self, from: u64, to: u64, out: Float) -> Run {
        let flat = self.weight.is_flat();
        let cols = u64::from(self.weight.cols());
        let row = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        let per = if flat { 1 } else { cols };
        let mut weight = *self.weight;
        if !flat && !self.is_whole(Part::Codes) {
            weight.rows = row(to - from);
        }
        Run {
            weight,
            first_row: if !flat && self.is_whole(Part::Scales) { row(from) } else { 0 },
            elements: (to - from) * per,
            parts: Part::ALL.map(|part| self.range(part, from, to)),
            out: from * per * out.size()..to * per * out.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn runs_are_aligned_bounded_and_cover_each_element_once() {
        let mut split = 0;
        for (name, weight) in sample::cases(5000, 512) {
            for out in Float::ALL {
                for binding in [8 << 20, 12 << 20, 1 << 40] {
                    let limits = Limits { binding, align: 256 };
                    let runs = runs(&weight, out, limits).expect(&name);
                    split += usize::from(runs.len() > 1);
                    let (mut elements, mut end) = (0, 0);
                    for run in &runs {
                        assert_eq!(run.out.start, end, "{name}");
                        assert_eq!(
                            run.out.end - run.out.start,
                            run.elements * out.size(),
                            "{name}"
                        );
                        (elements, end) = (elements + run.elements, run.out.end);
                        for range in run.parts.iter().chain([&run.out]) {
                            assert!(range.start % 256 == 0, "{name}: {range:?}");
                            assert!(range.end - range.start <= binding, "{name}: {range:?}");
                        }
                    }
                    assert_eq!(elements, weight.elements(), "{name}");
                    for (at, part) in Part::ALL.into_iter().enumerate() {
                        let len = runs.iter().map(|run| run.parts[at].end).max();
                        assert_eq!(len, Some(weight.part_len(part)), "{name}: {part}");
                    }
                }
            }
        }
        assert!(split > 50, "only {split} were split");
    }

    #[test]
    fn a_run_dequantizes_to_its_part_of_the_whole() {
        for (name, weight) in sample::cases(2100, 256) {
            if !matches!(weight.layout(), Layout::Int8 | Layout::Packed { .. }) {
                // Parts bound whole, or runs that are not rows: the devices' tests read those.
                continue;
            }
            let parts = sample::parts(&weight, 3);
            let whole = super::super::dequantize(&weight, &parts.borrow(), Float::F32).unwrap();
            let limits = Limits { binding: 3 << 20, align: 256 };
            for run in runs(&weight, Float::F32, limits).unwrap() {
                let mut bound = sample::OwnedParts::default();
                for ((to, from), range) in bound.0.iter_mut().zip(&parts.0).zip(&run.parts) {
                    *to = from[range.start as usize..range.end as usize].to_vec();
                }
                let part =
                    super::super::dequantize(&run.weight, &bound.borrow(), Float::F32).unwrap();
                assert!(part == whole[run.out.start as usize..run.out.end as usize], "{name}");
            }
        }
    }

    #[test]
    fn a_weight_beyond_4_gib_is_runs_below_it() {
        let layout = Layout::Bnb4 { block: 64, nested: None };
        let weight = Weight::new(layout, 1 << 17, 1 << 17, Float::F32).unwrap();
        let runs = runs(&weight, Float::BF16, Limits { binding: u64::MAX, align: 256 }).unwrap();
        assert_eq!(runs.iter().map(|run| run.elements).sum::<u64>(), 1 << 34);
        assert!(runs.iter().all(|run| run.elements <= MAX_RUN));
    }

    #[test]
    fn parts_that_cannot_be_cut_must_fit() {
        let layout = Layout::Awq { group: 128 };
        let weight = Weight::new(layout, 4096, 4096, Float::F16).unwrap();
        let error =
            runs(&weight, Float::BF16, Limits { binding: 1 << 20, align: 256 }).unwrap_err();
        let want = QuantError::TooLarge { part: Part::Codes, len: 8 << 20, limit: 1 << 20 };
        assert_eq!(error, want);
    }
}
