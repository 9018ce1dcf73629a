//! Lanes in AVX-512.

use std::arch::x86_64::*;

use super::traits::{Kernel, Lanes, SCALE};

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Runs a kernel.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx512>() }
}

const PLACES: [i32; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];

// SAFETY: the trait's contract: the caller has made sure of the instructions and of the pointers.
unsafe impl Lanes for Avx512 {
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
    unsafe fn halves(from: *const u8) -> Self::Words {
        // SAFETY: the trait's.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) }
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
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: the trait's; an address of nothing is no fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
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
            let words = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let sign = _mm512_and_si512(words, _mm512_set1_epi32(0x80));
            let rest = _mm512_and_si512(words, _mm512_set1_epi32(0x7f));
            let sign = _mm512_slli_epi32::<24>(sign);
            let small = _mm512_or_si512(sign, _mm512_slli_epi32::<20>(rest));
            Self(_mm512_mul_ps(_mm512_castsi512_ps(small), _mm512_set1_ps(SCALE)))
        }
    }

    #[inline(always)]
    unsafe fn pairs(codes: u32, table: Self) -> Self {
        // SAFETY: the trait's. The upper two of four bits read do not matter: values stand four times.
        unsafe {
            let places = _mm512_loadu_si512(PLACES.as_ptr().cast());
            let codes = _mm512_srlv_epi32(_mm512_set1_epi32(codes.cast_signed()), places);
            Self(_mm512_permutexvar_ps(codes, table.0))
        }
    }

    #[inline(always)]
    unsafe fn triples(codes: u32, high: u16, table: Self, above: Self) -> Self {
        // SAFETY: the trait's.
        unsafe {
            let places = _mm512_loadu_si512(PLACES.as_ptr().cast());
            let codes = _mm512_srlv_epi32(_mm512_set1_epi32(codes.cast_signed()), places);
            let low = _mm512_permutexvar_ps(codes, table.0);
            Self(_mm512_mask_permutexvar_ps(low, high, codes, above.0))
        }
    }
}
