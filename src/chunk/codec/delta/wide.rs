//! Whole steps of a segment, 8 or 16 lanes to a vector: the same as `lanes.rs` does, faster.
//!
//! A step is begun only while every word that it may look at lies in the chunk; the table has an
//! entry for every index that is masked to its length.

#![expect(
    clippy::indexing_slicing,
    reason = "sets of states, and a table that has an entry for every byte"
)]

use std::arch::x86_64::*;

use super::form::SYMBOL_BITS;
use super::lanes::Run;
use super::layout::{Code, ENTRIES, LANES, LOWEST};
use super::table::{
    ESCAPE_BYTE, FLIP, FREQUENCY_MASK, PLACE, PLACE_MASK, QUOTIENT, RAW_BITS, RAW_BITS_MASK, SLOTS,
};
use crate::chunk::codec::error::Malformed;
use crate::chunk::simd::Has;

/// Numbers of 32 bits in a register.
///
/// # Safety
///
/// A caller must have found the instructions on this processor; pointers must be good for what the
/// method says.
trait Vector: Copy {
    /// How many.
    const N: usize;
    unsafe fn splat(value: u32) -> Self;
    /// N elements of W bytes.
    unsafe fn load<const W: usize>(from: *const u8) -> Self;
    /// N elements of W bytes.
    unsafe fn store<const W: usize>(self, to: *mut u8);
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// The larger and the smaller of signed numbers.
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn left<const BITS: u32>(self) -> Self;
    unsafe fn right<const BITS: u32>(self) -> Self;
    /// The sign comes from the left.
    unsafe fn right_signed<const BITS: u32>(self) -> Self;
    /// Each by its own number of bits, below 32.
    unsafe fn left_by(self, bits: Self) -> Self;
    unsafe fn right_by(self, bits: Self) -> Self;
    /// Each number of `self` is an index into `table`, all of which lie in it.
    unsafe fn gather(self, table: *const u32) -> Self;
    /// A bit for each that is less than 2^16.
    unsafe fn is_low(self) -> u32;
    /// A bit for each that is equal.
    unsafe fn is(self, other: Self) -> u32;
    /// Where `low` has a bit, shifted left by 16, with the next word below; N words are read.
    unsafe fn refill(self, low: u32, words: *const u8) -> Self;
}

/// Decodes as many whole steps as it safely can; how many elements they are.
#[inline(always)]
unsafe fn steps<V: Vector, const GROUPS: usize, const W: usize>(
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<usize, Malformed> {
    const { assert!(V::N * GROUPS == LANES) };
    let &Code { form, contexts, ref entries, ref high } = run.code;
    let full = (base.len() / W).min(out.len() / W) / LANES;
    // Each refill takes a word per lane at most, and the last looks at N words.
    let refills = if W == 4 { 2 } else { 1 };
    let most = 2 * LANES * refills + 2 * V::N;
    let last = run.words.len().saturating_sub(most);
    if run.words.len() < most {
        return Ok(0);
    }
    // SAFETY: the instructions are there, by the caller's word. Pointers: see each.
    unsafe {
        let one = V::splat(1);
        let (magnitude, sign) = (V::splat(form.magnitude()), V::splat(form.sign()));
        let (top, most_context) =
            (V::splat(contexts.top.into()), V::splat(contexts.count as u32 - 1));
        let shift = V::splat(form.shift());
        let in_table = V::splat(ENTRIES as u32 - 1);
        let slot = V::splat(SLOTS as u32 - 1);
        let mut states = [one; GROUPS];
        for (g, state) in states.iter_mut().enumerate() {
            // In `states`, which has 32 numbers.
            *state = V::load::<4>(run.states.as_ptr().add(g * V::N).cast());
        }
        let mut done = 0;
        let mut result = Ok(());
        while done < full && run.at <= last {
            // Both have 32 elements from here on, by `full`.
            let from = base.as_ptr().add(done * LANES * W);
            let to = out.as_mut_ptr().add(done * LANES * W);
            let mut parts = [(one, one, one, one); GROUPS];
            for g in 0..GROUPS {
                let base = V::load::<W>(from.add(g * V::N * W));
                let exponent = base.and(magnitude).right_by(shift);
                let context = top.sub(exponent).max(V::splat(0)).min(most_context);
                let index = context.left::<SYMBOL_BITS>().or(states[g].and(slot));
                // Within the table, by the mask.
                let entry = index.and(in_table).gather(entries.as_ptr());
                let place = entry.right::<PLACE>().and(V::splat(PLACE_MASK));
                let frequency = entry.and(V::splat(FREQUENCY_MASK));
                let state = states[g].right::<SYMBOL_BITS>().mul(frequency).add(place);
                let beside = entry.right::<RAW_BITS>().and(V::splat(RAW_BITS_MASK));
                let raw = one.left_by(beside).sub(one).and(state);
                states[g] = state.right_by(beside);
                parts[g] = (base, entry, raw, context);
            }
            for state in &mut states {
                let low = state.is_low();
                // `last` leaves room for what this and the refills before it read.
                *state = state.refill(low, run.words.as_ptr().add(run.at));
                run.at += 2 * low.count_ones() as usize;
            }
            let mut escapes = 0;
            for g in 0..GROUPS {
                let (base, entry, mut raw, context) = parts[g];
                let mut bits = entry.right::<RAW_BITS>().and(V::splat(RAW_BITS_MASK));
                if W == 4 {
                    // A context is below 16, the table's length.
                    let high = context.gather(high.as_ptr());
                    raw = raw.or(one.left_by(high).sub(one).and(states[g]).left_by(bits));
                    bits = bits.add(high);
                    let state = states[g].right_by(high);
                    let low = state.is_low();
                    states[g] = state.refill(low, run.words.as_ptr().add(run.at));
                    run.at += 2 * low.count_ones() as usize;
                }
                let quotient = entry.right_signed::<QUOTIENT>().left_by(bits);
                let half = one.left_by(bits).right::<1>();
                let sum = base.and(magnitude).add(quotient).add(raw).sub(half);
                let flip = match W {
                    1 => entry.right::<{ FLIP - 7 }>(),
                    2 => entry.right::<{ FLIP - 15 }>(),
                    _ => entry.left::<{ 31 - FLIP }>(),
                };
                let element = sum.and(magnitude).or(base.xor(flip).and(sign));
                element.store::<W>(to.add(g * V::N * W));
                let escape = V::splat(ESCAPE_BYTE.into());
                escapes |= entry.right::<FLIP>().is(escape) << (g * V::N);
            }
            while escapes != 0 {
                let lane = escapes.trailing_zeros() as usize;
                match run.escape::<W>() {
                    // One of the 32 elements at `to`.
                    Ok(element) => to.add(lane * W).cast::<[u8; W]>().write(element),
                    Err(why) => {
                        result = Err(why);
                        break;
                    }
                }
                escapes &= escapes - 1;
            }
            if result.is_err() {
                break;
            }
            done += 1;
        }
        for (g, state) in states.iter().enumerate() {
            state.store::<4>(run.states.as_mut_ptr().add(g * V::N).cast());
        }
        result.map(|()| done * LANES)
    }
}

/// See [`steps`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn avx2_steps<const W: usize>(
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<usize, Malformed> {
    // SAFETY: AVX2 is enabled here.
    unsafe { steps::<__m256i, 4, W>(run, base, out) }
}

/// See [`steps`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi")]
fn avx512_steps<const W: usize>(
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<usize, Malformed> {
    // SAFETY: AVX-512 is enabled here.
    unsafe { steps::<__m512i, 2, W>(run, base, out) }
}

/// Whole steps in vectors of 8.
pub(super) fn avx2<const W: usize>(
    _: Has<2>,
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<usize, Malformed> {
    // SAFETY: `Has<2>` is made only where these instructions were found.
    unsafe { avx2_steps::<W>(run, base, out) }
}

/// Whole steps in vectors of 16.
pub(super) fn avx512<const W: usize>(
    _: Has<512>,
    run: &mut Run<'_>,
    base: &[u8],
    out: &mut [u8],
) -> Result<usize, Malformed> {
    // SAFETY: `Has<512>` is made only where these instructions were found.
    unsafe { avx512_steps::<W>(run, base, out) }
}

/// For each set of lanes that take a word: which of the words each takes.
static TAKES: [[u8; 8]; 256] = {
    let mut takes = [[0; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                takes[set][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    takes
};

/// Methods that are one instruction on two registers.
macro_rules! instructions {
    ($($method:ident $instruction:ident),* $(,)?) => {$(
        #[inline(always)]
        unsafe fn $method(self, other: Self) -> Self {
            // SAFETY: the caller has found the instructions.
            unsafe { $instruction(self, other) }
        }
    )*};
}

/// Methods that are one shift of all numbers by the same number of bits.
macro_rules! shifts {
    ($($method:ident $instruction:ident),* $(,)?) => {$(
        #[inline(always)]
        unsafe fn $method<const BITS: u32>(self) -> Self {
            // SAFETY: the caller has found the instructions.
            unsafe { $instruction(self, _mm_cvtsi32_si128(BITS.cast_signed())) }
        }
    )*};
}

impl Vector for __m256i {
    const N: usize = 8;

    instructions! {
        and _mm256_and_si256, or _mm256_or_si256, xor _mm256_xor_si256,
        add _mm256_add_epi32, sub _mm256_sub_epi32, mul _mm256_mullo_epi32,
        max _mm256_max_epi32, min _mm256_min_epi32,
        left_by _mm256_sllv_epi32, right_by _mm256_srlv_epi32,
    }
    shifts! { left _mm256_sll_epi32, right _mm256_srl_epi32, right_signed _mm256_sra_epi32 }

    #[inline(always)]
    unsafe fn splat(value: u32) -> Self {
        // SAFETY: the caller has found the instructions.
        unsafe { _mm256_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn gather(self, table: *const u32) -> Self {
        // SAFETY: every index lies in the table, by the caller's word.
        unsafe { _mm256_i32gather_epi32::<4>(table.cast(), self) }
    }

    #[inline(always)]
    unsafe fn load<const W: usize>(from: *const u8) -> Self {
        // SAFETY: the pointer is good for 8 elements, by the caller's word.
        unsafe {
            match W {
                1 => _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())),
                2 => _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())),
                _ => _mm256_loadu_si256(from.cast()),
            }
        }
    }

    #[inline(always)]
    unsafe fn store<const W: usize>(self, to: *mut u8) {
        // SAFETY: the pointer is good for 8 elements, by the caller's word.
        unsafe {
            let halves =
                |x| _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            match W {
                1 => _mm_storel_epi64(to.cast(), _mm_packus_epi16(halves(self), halves(self))),
                2 => _mm_storeu_si128(to.cast(), halves(self)),
                _ => _mm256_storeu_si256(to.cast(), self),
            }
        }
    }

    #[inline(always)]
    unsafe fn is_low(self) -> u32 {
        // SAFETY: the caller has found the instructions.
        unsafe { Self::right::<16>(self).is(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn is(self, other: Self) -> u32 {
        // SAFETY: the caller has found the instructions.
        unsafe {
            let equal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(self, other));
            _mm256_movemask_ps(equal).cast_unsigned()
        }
    }

    #[inline(always)]
    unsafe fn refill(self, low: u32, words: *const u8) -> Self {
        // SAFETY: the pointer is good for 8 words, by the caller's word; 8 bits are an index of 256.
        unsafe {
            let takes: &[u8; 8] = &TAKES[low as usize % 256];
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(words.cast()));
            let lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(takes.as_ptr().cast()));
            let words = _mm256_permutevar8x32_epi32(words, lanes);
            let filled = _mm256_or_si256(Self::left::<16>(self), words);
            let is_low = _mm256_cmpeq_epi32(Self::right::<16>(self), _mm256_setzero_si256());
            _mm256_blendv_epi8(self, filled, is_low)
        }
    }
}

impl Vector for __m512i {
    const N: usize = 16;

    instructions! {
        and _mm512_and_si512, or _mm512_or_si512, xor _mm512_xor_si512,
        add _mm512_add_epi32, sub _mm512_sub_epi32, mul _mm512_mullo_epi32,
        max _mm512_max_epi32, min _mm512_min_epi32,
        left_by _mm512_sllv_epi32, right_by _mm512_srlv_epi32,
    }
    shifts! { left _mm512_sll_epi32, right _mm512_srl_epi32, right_signed _mm512_sra_epi32 }

    #[inline(always)]
    unsafe fn splat(value: u32) -> Self {
        // SAFETY: the caller has found the instructions.
        unsafe { _mm512_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn gather(self, table: *const u32) -> Self {
        // SAFETY: every index lies in the table, by the caller's word.
        unsafe { _mm512_i32gather_epi32::<4>(self, table.cast()) }
    }

    #[inline(always)]
    unsafe fn load<const W: usize>(from: *const u8) -> Self {
        // SAFETY: the pointer is good for 16 elements, by the caller's word.
        unsafe {
            match W {
                1 => _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())),
                2 => _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())),
                _ => _mm512_loadu_si512(from.cast()),
            }
        }
    }

    #[inline(always)]
    unsafe fn store<const W: usize>(self, to: *mut u8) {
        // SAFETY: the pointer is good for 16 elements, by the caller's word.
        unsafe {
            match W {
                1 => _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(self)),
                2 => _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(self)),
                _ => _mm512_storeu_si512(to.cast(), self),
            }
        }
    }

    #[inline(always)]
    unsafe fn is_low(self) -> u32 {
        // SAFETY: the caller has found the instructions.
        unsafe { _mm512_cmplt_epu32_mask(self, Self::splat(LOWEST)).into() }
    }

    #[inline(always)]
    unsafe fn is(self, other: Self) -> u32 {
        // SAFETY: the caller has found the instructions.
        unsafe { _mm512_cmpeq_epi32_mask(self, other).into() }
    }

    #[inline(always)]
    unsafe fn refill(self, low: u32, words: *const u8) -> Self {
        // SAFETY: the pointer is good for 16 words, by the caller's word.
        unsafe {
            let low = low as __mmask16;
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(words.cast()));
            let words = _mm512_maskz_expand_epi32(low, words);
            _mm512_or_si512(_mm512_mask_slli_epi32::<16>(self, low, self), words)
        }
    }
}
