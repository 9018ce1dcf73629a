//! Lanes in AVX2: two registers of eight.

use std::arch::x86_64::*;

use super::traits::{Kernel, LANES, Lanes};

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// Runs a kernel.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx2>() }
}

/// Neighbours at half the width first.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sum(eight: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Eight of the sixteen values of `table` by the low four bits of each index.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pick(index: __m256i, table: Avx2) -> __m256 {
    // SAFETY: the caller's. A permutation reads the low three bits; the fourth goes to the sign, which chooses.
    unsafe {
        let below = _mm256_permutevar8x32_ps(table.0, index);
        let above = _mm256_permutevar8x32_ps(table.1, index);
        let chosen = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
        _mm256_blendv_ps(below, above, chosen)
    }
}

/// Of f16, the bits of a code of FP8 E4M3 that was moved there: not those that are its sign again.
const SIGNED: i16 = 0xbf80_u16.cast_signed();

// SAFETY: the trait's contract: the caller has made sure of the instructions and of the pointers.
unsafe impl Lanes for Avx2 {
    type Words = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn words(from: *const u8) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let half = |at| _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(at).cast()));
            (half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn look((first, second): Self::Words, table: Self) -> Self {
        // SAFETY: the trait's.
        unsafe { Self(pick(first, table), pick(second, table)) }
    }

    #[inline(always)]
    unsafe fn onward<const BITS: u32>((first, second): Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let bits = _mm_cvtsi32_si128(BITS.cast_signed());
            (_mm256_srl_epi32(first, bits), _mm256_srl_epi32(second, bits))
        }
    }

    #[inline(always)]
    unsafe fn nothing() -> Self::Words {
        // SAFETY: the trait's.
        let zero = unsafe { _mm256_setzero_si256() };
        (zero, zero)
    }

    #[inline(always)]
    unsafe fn low<const BITS: u32>((first, second): Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let mask = _mm256_set1_epi16((1 << BITS) - 1);
            (_mm256_and_si256(first, mask), _mm256_and_si256(second, mask))
        }
    }

    #[inline(always)]
    unsafe fn joined<const BITS: u32, const ABOVE: u32>(
        low: Self::Words,
        high: Self::Words,
    ) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let (low, mask) =
                (Self::low::<BITS>(low), _mm256_set1_epi16(((1 << ABOVE) - 1) << BITS));
            let bits = _mm_cvtsi32_si128(BITS.cast_signed());
            let own = |high| _mm256_and_si256(_mm256_sll_epi16(high, bits), mask);
            (_mm256_or_si256(low.0, own(high.0)), _mm256_or_si256(low.1, own(high.1)))
        }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; LANES]) -> Self::Words {
        // SAFETY: the trait's.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) };
        (table, table)
    }

    #[inline(always)]
    unsafe fn chosen(words: Self::Words, table: Self::Words) -> Self::Words {
        // SAFETY: the trait's. What the high bytes of the halves choose is not looked at.
        unsafe {
            let low = Self::low::<4>(words);
            Self::signed_halves::<false>((
                _mm256_shuffle_epi8(table.0, low.0),
                _mm256_shuffle_epi8(table.1, low.1),
            ))
        }
    }

    #[inline(always)]
    unsafe fn signed_halves<const HIGH: bool>((first, second): Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let own = |words| {
                let words = if HIGH { words } else { _mm256_slli_epi16::<8>(words) };
                _mm256_srai_epi16::<8>(words)
            };
            (own(first), own(second))
        }
    }

    #[inline(always)]
    unsafe fn pairs_plus(sums: Self::Words, words: Self::Words, with: *const i16) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let with = _mm256_set1_epi32(with.cast::<i32>().read_unaligned());
            (
                _mm256_add_epi32(sums.0, _mm256_madd_epi16(words.0, with)),
                _mm256_add_epi32(sums.1, _mm256_madd_epi16(words.1, with)),
            )
        }
    }

    #[inline(always)]
    unsafe fn sum_words(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { (_mm256_add_epi32(one.0, other.0), _mm256_add_epi32(one.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn field((first, second): Self::Words, from: u32, mask: u32) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let (from, mask) =
                (_mm_cvtsi32_si128(from.cast_signed()), _mm256_set1_epi32(mask.cast_signed()));
            let own = |words| _mm256_and_si256(_mm256_srl_epi32(words, from), mask);
            (own(first), own(second))
        }
    }

    #[inline(always)]
    unsafe fn numbers((first, second): Self::Words) -> Self {
        // SAFETY: the trait's.
        unsafe { Self(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(second)) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's.
        let all = unsafe { _mm256_set1_ps(value) };
        Self(all, all)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn plus(self, by: Self, with: Self) -> Self {
        // SAFETY: the trait's.
        unsafe {
            Self(_mm256_fmadd_ps(by.0, with.0, self.0), _mm256_fmadd_ps(by.1, with.1, self.1))
        }
    }

    #[inline(always)]
    unsafe fn times(self, by: Self) -> Self {
        // SAFETY: the trait's.
        unsafe { Self(_mm256_mul_ps(self.0, by.0), _mm256_mul_ps(self.1, by.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's.
        unsafe { sum(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn bf16(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let half = |at| {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            };
            Self(half(0), half(16))
        }
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast()));
            Self(half(0), half(16))
        }
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let half =
                |at| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Self(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let half =
                |at| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Self(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
            let halves = _mm256_and_si256(_mm256_slli_epi16::<7>(bytes), _mm256_set1_epi16(SIGNED));
            let high = _mm256_extracti128_si256::<1>(halves);
            Self(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(high))
        }
    }
}
