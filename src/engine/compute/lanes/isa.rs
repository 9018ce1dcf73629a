//! Which instructions there are.

use std::sync::OnceLock;

use super::portable::Portable;
use super::traits::Kernel;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::compute) enum Isa {
    /// What every processor has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with VNNI.
    Vnni,
}

impl Isa {
    /// Those that this processor has, the slowest first.
    pub(in crate::engine::compute) fn all() -> Vec<Self> {
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
                if is_x86_feature_detected!("avx512vnni") {
                    all.push(Self::Vnni);
                }
            }
        }
        all
    }

    /// The fastest that this processor has.
    pub(in crate::engine::compute) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().last().copied().unwrap_or(Self::Portable))
    }

    /// Its name.
    pub(in crate::engine::compute) const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "avx512 vnni",
        }
    }

    /// Runs a kernel by it. `self` must be one of [`Isa::all`]; others are run as plain Rust.
    pub(in crate::engine::compute) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as below.
            Self::Vnni => unsafe { avx512::run_vnni(kernel) },
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
