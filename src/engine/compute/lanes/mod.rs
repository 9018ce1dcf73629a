//! Sixteen f32 side by side: in plain Rust, in AVX2 and in AVX-512, chosen when the program runs.
//!
//! Every kernel is written once over [`Lanes`] and takes its sums in the same order whatever runs it, so that
//! the instruction sets differ only where a fused product rounds once and a plain one twice.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::sync::OnceLock;

use portable::Portable;

/// What the exponents of f32 and FP8 E4M3 differ by: a code moved into the place of an f32's exponent and mantissa
/// is too small by it.
const SCALE: f32 = f32::from_bits((127 + 120) << 23);

/// How many values a register of ours has.
pub(super) const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety
/// Whoever calls a method has made sure that the processor has the instructions ([`Isa::run`] does), and that
/// pointers are good for what is read or written through them; they need no alignment.
pub(super) unsafe trait Lanes: Copy {
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
    /// 16 FP8 E4M3 without NaN.
    unsafe fn e4m3(from: *const u8) -> Self;
    /// What `table` has for the low and for the high halves of 16 bytes.
    unsafe fn nibbles(from: *const u8, table: Self) -> (Self, Self);
    /// What `table`, which has four values four times, has for 16 codes of 2 bits.
    unsafe fn pairs(codes: u32, table: Self) -> Self;
    /// What `table` has for 16 codes of 3 bits: their low two in `codes`, their high one in `high`. It has the
    /// values of codes below 4 four times; `above` those from 4 on.
    unsafe fn triples(codes: u32, high: u16, table: Self, above: Self) -> Self;
}

/// What is run over lanes.
pub(super) trait Kernel {
    /// What comes of it.
    type Out;

    /// Runs it. It must be `#[inline(always)]`, so that it is compiled for the instructions of its lanes.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Out;
}

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// What every processor has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Those that this processor has, the slowest first.
    pub(super) fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                all.push(Self::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                all.push(Self::Avx512);
            }
        }
        all
    }

    /// The fastest that this processor has.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().last().copied().unwrap_or(Self::Portable))
    }

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Runs a kernel by it. `self` must be one of [`Isa::all`]; others are run as plain Rust.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: whoever has this value has it from `all`, which asked the processor.
            Self::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: plain Rust runs everywhere.
            _ => unsafe { kernel.run::<Portable>() },
        }
    }
}
