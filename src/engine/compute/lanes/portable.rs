//! Lanes in plain Rust: the reference.

use half::{bf16, f16};

use super::traits::{LANES, Lanes};

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn of(value: impl FnMut(usize) -> f32) -> Self {
        Self(std::array::from_fn(value))
    }
}

// SAFETY: nothing here needs an instruction that a processor may lack; pointers are the caller's to answer for.
unsafe impl Lanes for Portable {
    type Words = [u32; LANES];

    #[inline(always)]
    unsafe fn words(from: *const u8) -> Self::Words {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u32; LANES]>().read_unaligned() }.map(u32::from_le)
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Words {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u8; LANES]>().read() }.map(u32::from)
    }

    #[inline(always)]
    unsafe fn look(codes: Self::Words, table: Self) -> Self {
        Self::of(|i| table.0[(codes[i] & 15) as usize])
    }

    #[inline(always)]
    unsafe fn onward<const BITS: u32>(codes: Self::Words) -> Self::Words {
        codes.map(|word| word >> BITS)
    }

    #[inline(always)]
    unsafe fn nothing() -> Self::Words {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn low<const BITS: u32>(words: Self::Words) -> Self::Words {
        words.map(|word| word & (((1 << BITS) - 1) * 0x1_0001))
    }

    #[inline(always)]
    unsafe fn joined<const BITS: u32, const ABOVE: u32>(
        low: Self::Words,
        high: Self::Words,
    ) -> Self::Words {
        let mask = ((1 << BITS) - 1) * 0x1_0001;
        let above = ((1 << ABOVE) - 1) * 0x1_0001;
        std::array::from_fn(|i| low[i] & mask | (high[i] & above) << BITS)
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; LANES]) -> Self::Words {
        values.map(|value| u32::from((value as i16).cast_unsigned()))
    }

    #[inline(always)]
    unsafe fn chosen(words: Self::Words, table: Self::Words) -> Self::Words {
        words.map(|word| table[(word & 15) as usize] | table[(word >> 16 & 15) as usize] << 16)
    }

    #[inline(always)]
    unsafe fn signed_halves<const HIGH: bool>(words: Self::Words) -> Self::Words {
        words.map(|word| {
            let byte = |at: u32| u32::from((word >> at) as u8 as i8 as u16);
            if HIGH { byte(8) | byte(24) << 16 } else { byte(0) | byte(16) << 16 }
        })
    }

    #[inline(always)]
    unsafe fn pairs_plus(sums: Self::Words, words: Self::Words, with: *const i16) -> Self::Words {
        // SAFETY: the caller's.
        let [first, second] = unsafe { with.cast::<[i16; 2]>().read_unaligned() }.map(i32::from);
        std::array::from_fn(|i| {
            let (low, high) = (i32::from(words[i] as i16), words[i].cast_signed() >> 16);
            sums[i].wrapping_add((low * first).wrapping_add(high * second).cast_unsigned())
        })
    }

    #[inline(always)]
    unsafe fn sum_words(one: Self::Words, other: Self::Words) -> Self::Words {
        std::array::from_fn(|i| one[i].wrapping_add(other[i]))
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, from: u32, mask: u32) -> Self::Words {
        words.map(|word| word >> from & mask)
    }

    #[inline(always)]
    unsafe fn numbers(words: Self::Words) -> Self {
        Self(words.map(|word| word.cast_signed() as f32))
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, by: Self, with: Self) -> Self {
        Self::of(|i| self.0[i] + by.0[i] * with.0[i])
    }

    #[inline(always)]
    unsafe fn times(self, by: Self) -> Self {
        Self::of(|i| self.0[i] * by.0[i])
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| self.0[i] + self.0[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    unsafe fn bf16(from: *const u8) -> Self {
        // SAFETY: the caller's.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self::of(|i| bf16::from_bits(u16::from_le(halves[i])).to_f32())
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: the caller's.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self::of(|i| f16::from_bits(u16::from_le(halves[i])).to_f32())
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes = unsafe { from.cast::<[i8; LANES]>().read() };
        Self::of(|i| f32::from(bytes[i]))
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read() };
        Self::of(|i| f32::from(bytes[i]))
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read() };
        Self::of(|i| {
            let byte = u16::from(bytes[i]);
            f16::from_bits((byte & 0x80) << 8 | (byte & 0x7f) << 7).to_f32()
        })
    }
}
