//! What registers of every instruction set can do.

/// What the exponents of f16 and FP8 E4M3 differ by: a code moved into the place of an f16's exponent and mantissa is
/// too small by it.
pub(in crate::engine::compute) const E4M3: f32 = 256.0;

/// How many values a register of ours has.
pub(in crate::engine::compute) const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety
/// Whoever calls a method has made sure that the processor has the instructions (`Isa::run` does), and that
/// pointers are good for what is read or written through them; they need no alignment.
pub(in crate::engine::compute) unsafe trait Lanes: Copy {
    /// Sixteen words, the lowest bits of each the code that is next.
    type Words: Copy;

    /// 16 words: 64 bytes.
    unsafe fn words(from: *const u8) -> Self::Words;
    /// 16 words of a byte each.
    unsafe fn bytes(from: *const u8) -> Self::Words;
    /// What `table` has for the next codes, of the lowest four bits.
    unsafe fn look(codes: Self::Words, table: Self) -> Self;
    /// The words without their lowest bits.
    unsafe fn onward<const BITS: u32>(codes: Self::Words) -> Self::Words;
    /// Sixteen times 0.
    unsafe fn nothing() -> Self::Words;
    /// The low `BITS` of both halves of each word.
    unsafe fn low<const BITS: u32>(words: Self::Words) -> Self::Words;
    /// The same with the low `ABOVE` bits of the halves of `high` above them.
    unsafe fn joined<const BITS: u32, const ABOVE: u32>(
        low: Self::Words,
        high: Self::Words,
    ) -> Self::Words;
    /// A table for `chosen`: the sixteen values.
    unsafe fn table(values: &[i8; LANES]) -> Self::Words;
    /// What the table has for the low four bits of the halves of each word.
    unsafe fn chosen(words: Self::Words, table: Self::Words) -> Self::Words;
    /// The signed bytes that are the low ones of the halves, or the high ones.
    unsafe fn signed_halves<const HIGH: bool>(words: Self::Words) -> Self::Words;
    /// Each word, as two signed halves, times the two at `with`, added to `sums`.
    unsafe fn pairs_plus(sums: Self::Words, words: Self::Words, with: *const i16) -> Self::Words;
    /// Sums of words.
    unsafe fn sum_words(one: Self::Words, other: Self::Words) -> Self::Words;
    /// What is of `mask` from a bit of each word on.
    unsafe fn field(words: Self::Words, from: u32, mask: u32) -> Self::Words;
    /// Signed words as f32.
    unsafe fn numbers(words: Self::Words) -> Self;
    /// Has the processor fetch what lies there, if anything does. What is read `LATER` than what its first cache holds
    /// would push that out: it stays in the second.
    #[inline(always)]
    unsafe fn prefetch<const LATER: bool>(at: *const u8) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

            // SAFETY: every x86-64 has this instruction, and an address of nothing is no fault.
            unsafe {
                if LATER {
                    _mm_prefetch::<_MM_HINT_T1>(at.cast());
                } else {
                    _mm_prefetch::<_MM_HINT_T0>(at.cast());
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
    /// All the same.
    unsafe fn splat(value: f32) -> Self;
    /// 16 f32.
    unsafe fn load(from: *const f32) -> Self;
    /// 16 f32.
    unsafe fn store(self, to: *mut f32);
    /// `self + by * with`.
    unsafe fn plus(self, by: Self, with: Self) -> Self;
    /// The product.
    unsafe fn times(self, by: Self) -> Self;
    /// Neighbours first, then neighbours of those.
    unsafe fn sum(self) -> f32;
    /// 16 bf16: 32 bytes.
    unsafe fn bf16(from: *const u8) -> Self;
    /// 16 f16: 32 bytes.
    unsafe fn f16(from: *const u8) -> Self;
    /// 16 signed bytes.
    unsafe fn signed(from: *const u8) -> Self;
    /// 16 unsigned bytes.
    unsafe fn unsigned(from: *const u8) -> Self;
    /// 16 FP8 E4M3 without NaN, as parts of [`E4M3`].
    unsafe fn e4m3(from: *const u8) -> Self;
}

/// What is run over lanes.
pub(in crate::engine::compute) trait Kernel {
    /// What comes of it.
    type Out;

    /// Runs it. It must be `#[inline(always)]`, so that it is compiled for the instructions of its lanes.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Out;
}
