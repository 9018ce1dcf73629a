//! Elements as signs and magnitudes, and the context that an element of the base gives.

/// Frequencies sum to 2 to this.
pub(super) const SYMBOL_BITS: u32 = 10;
/// Raw bits that lie beside a symbol in a state at most: with it they are a word.
pub(super) const BESIDE: u32 = 16 - SYMBOL_BITS;
/// Contexts of a chunk at most.
pub(super) const MAX_CONTEXTS: usize = 16;

/// How elements are read: their width, and the exponent that they have, if they are floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Bytes of an element: 1, 2 or 4.
    pub(super) width: usize,
    /// Bits of its exponent, 0 if it is no float.
    pub(super) exponent: u32,
}

impl Form {
    /// Every form, as (bytes of an element, bits of its exponent).
    const ALL: [(usize, u32); 8] = [(1, 0), (1, 4), (1, 5), (2, 0), (2, 5), (2, 8), (4, 0), (4, 8)];

    pub(super) fn new(width: u8, exponent: u8) -> Option<Self> {
        let said = (usize::from(width), u32::from(exponent));
        let (width, exponent) = Self::ALL.into_iter().find(|form| *form == said)?;
        Some(Self { width, exponent })
    }

    /// The sign bit; 0 for what is no float.
    pub(super) fn sign(self) -> u32 {
        if self.exponent == 0 { 0 } else { 1 << (8 * self.width - 1) }
    }

    /// All other bits.
    pub(super) fn magnitude(self) -> u32 {
        (u32::MAX >> (32 - 8 * self.width)) ^ self.sign()
    }

    /// How far the exponent lies above the lowest bit: nothing of what is no float lies there.
    pub(super) fn shift(self) -> u32 {
        if self.exponent == 0 { 31 } else { 8 * self.width as u32 - 1 - self.exponent }
    }

    /// Raw bits of a context at most: those beside a symbol, and a word more of wide elements.
    pub(super) fn most_raw_bits(self) -> u32 {
        if self.width == 4 { BESIDE + 16 } else { BESIDE }
    }
}

/// Which context an element of the base gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contexts {
    /// How many there are.
    pub(super) count: usize,
    /// The exponent whose elements, and all larger ones, are of context 0.
    pub(super) top: u8,
}

impl Contexts {
    /// The context of the magnitude `base`.
    #[inline(always)]
    pub(super) fn of(self, form: Form, base: u32) -> usize {
        // Both are small: of what is no float, one bit at most lies at 31.
        let below = (i32::from(self.top) - (base >> form.shift()) as i32).max(0);
        (below as usize).min(self.count - 1) % MAX_CONTEXTS
    }
}
