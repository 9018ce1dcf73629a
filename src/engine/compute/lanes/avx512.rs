//! Lanes in AVX-512.

use std::arch::x86_64::*;

use super::traits::{Kernel, LANES, Lanes};

/// Sixteen f32; with VNNI, or without.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const VNNI: bool>(__m512);

/// Runs a kernel.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx512<false>>() }
}

/// Runs a kernel.
///
/// # Safety
/// The processor has what [`run`] asks for, and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx512<true>>() }
}

/// Of f16, the bits of a code of FP8 E4M3 that was moved there: not those that are its sign again.
const SIGNED: i16 = 0xbf80_u16.cast_signed();

// SAFETY: the trait's contract: the caller has made sure of the instructions and of the pointers.
unsafe impl<const VNNI: bool> Lanes for Avx512<VNNI> {
    type Words = __m512i;

    #[inline(always)]
    unsafe fn words(from: *const u8) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn look(codes: Self::Words, table: Self) -> Self {
        // SAFETY: the trait's. A permutation reads no more than the low four bits of each index.
        Self(unsafe { _mm512_permutexvar_ps(codes, table.0) })
    }

    #[inline(always)]
    unsafe fn onward<const BITS: u32>(codes: Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_srli_epi32::<BITS>(codes) }
    }

    #[inline(always)]
    unsafe fn nothing() -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn low<const BITS: u32>(words: Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_and_si512(words, _mm512_set1_epi16((1 << BITS) - 1)) }
    }

    #[inline(always)]
    unsafe fn joined<const BITS: u32, const ABOVE: u32>(
        low: Self::Words,
        high: Self::Words,
    ) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let mask = _mm512_set1_epi16(((1 << ABOVE) - 1) << BITS);
            let above = _mm512_and_si512(_mm512_slli_epi16::<BITS>(high), mask);
            _mm512_or_si512(Self::low::<BITS>(low), above)
        }
    }

    #[inline(always)]
    unsafe fn table(values: &[i8; LANES]) -> Self::Words {
        // SAFETY: the trait's. Twice: an index has five bits, and the fifth is another code's.
        unsafe {
            let once = _mm_loadu_si128(values.as_ptr().cast());
            _mm512_cvtepi8_epi16(_mm256_broadcastsi128_si256(once))
        }
    }

    #[inline(always)]
    unsafe fn chosen(words: Self::Words, table: Self::Words) -> Self::Words {
        // SAFETY: the trait's. A permutation reads no more than the low five bits of each index.
        unsafe { _mm512_permutexvar_epi16(words, table) }
    }

    #[inline(always)]
    unsafe fn signed_halves<const HIGH: bool>(words: Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let words = if HIGH { words } else { _mm512_slli_epi16::<8>(words) };
            _mm512_srai_epi16::<8>(words)
        }
    }

    #[inline(always)]
    unsafe fn pairs_plus(sums: Self::Words, words: Self::Words, with: *const i16) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let with = _mm512_set1_epi32(with.cast::<i32>().read_unaligned());
            if VNNI {
                _mm512_dpwssd_epi32(sums, words, with)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(words, with))
            }
        }
    }

    #[inline(always)]
    unsafe fn sum_words(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_add_epi32(one, other) }
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, from: u32, mask: u32) -> Self::Words {
        // SAFETY: the trait's.
        unsafe {
            let moved = _mm512_srl_epi32(words, _mm_cvtsi32_si128(from.cast_signed()));
            _mm512_and_si512(moved, _mm512_set1_epi32(mask.cast_signed()))
        }
    }

    #[inline(always)]
    unsafe fn numbers(words: Self::Words) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_cvtepi32_ps(words) })
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, by: Self, with: Self) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_fmadd_ps(by.0, with.0, self.0) })
    }

    #[inline(always)]
    unsafe fn times(self, by: Self) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_mul_ps(self.0, by.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's.
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            super::avx2::sum(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn bf16(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
            let halves = _mm256_and_si256(_mm256_slli_epi16::<7>(bytes), _mm256_set1_epi16(SIGNED));
            Self(_mm512_cvtph_ps(halves))
        }
    }
}
