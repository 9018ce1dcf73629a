//! Which vector instructions loops are compiled for, chosen at run time.
//!
//! There is one source for every path: loops that the compiler vectorises, instantiated once for
//! each set of instructions. The bits are the same whichever path is taken.

/// A set of instructions that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Simd {
    /// What every processor of the architecture has.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Has<2>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Has<512>),
}

/// Says that the instructions were found on this processor: made by [`Simd::available`] alone.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Has<const SET: u16>(());

impl Simd {
    /// Every set that this processor has, the widest last.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi");
            [avx2.then_some(Self::Avx2(Has(()))), avx512.then_some(Self::Avx512(Has(())))]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let found: [Option<Self>; 0] = [];
        std::iter::once(Self::Portable).chain(found.into_iter().flatten())
    }

    /// The widest.
    pub(crate) fn best() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }
}

/// Defines a function that takes a [`Simd`] first and runs `$body`, an `#[inline(always)]`
/// function, compiled for it.
macro_rules! for_each_simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$lt:lifetime>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        $vis fn $name $(<$lt>)? (simd: $crate::chunk::simd::Simd, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2")]
            fn avx2 $(<$lt>)? ($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512vbmi")]
            fn avx512 $(<$lt>)? ($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match simd {
                $crate::chunk::simd::Simd::Portable => $body($($arg),*),
                // SAFETY: `Has<2>` is made only where these instructions were found.
                #[cfg(target_arch = "x86_64")]
                $crate::chunk::simd::Simd::Avx2(_) => unsafe { avx2($($arg),*) },
                // SAFETY: `Has<512>` is made only where these instructions were found.
                #[cfg(target_arch = "x86_64")]
                $crate::chunk::simd::Simd::Avx512(_) => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use for_each_simd;
