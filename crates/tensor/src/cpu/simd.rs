//! The processor's vector instructions for plain loops.
//!
//! The x86-64 baseline has no AVX2, so a hot loop is compiled twice, and the better one that the processor has is taken at
//! run time.

/// Defines a function whose body is compiled for the baseline and for AVX2. What it calls must be
/// `#[inline(always)]` to be compiled twice along with it. Constants follow the types: `<T: Real; const ROWS: bool>`.
///
/// In the body `FUSED` is a constant: whether the processor multiplies and adds in one instruction. Rust never fuses the
/// two by itself, so a body that does not ask gives the same bits on every processor.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $vis:vis fn $name:ident $(<
        $($T:ident: $bound:path),+ $(; $(const $C:ident: $kind:ty),+)?
    >)? (
        $($argument:ident: $type:ty),* $(,)?
    ) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($T: $bound,)+ $($(const $C: $kind,)+)?>)? ($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$($($T: $bound,)+ $($(const $C: $kind,)+)?)? const FUSED: bool>(
                $($argument: $type),*
            ) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(<$($T: $bound,)+ $($(const $C: $kind,)+)?>)? (
                    $($argument: $type),*
                ) $(-> $result)? {
                    body::<$($($T,)+ $($($C,)+)?)? true>($($argument),*)
                }
                if $crate::cpu::simd::has_avx2() {
                    // SAFETY: `avx2` is an ordinary safe function that needs AVX2 and FMA, and both were just found.
                    return unsafe { avx2 $(::<$($T,)+ $($($C,)+)?>)? ($($argument),*) };
                }
            }
            body::<$($($T,)+ $($($C,)+)?)? { cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Asks memory for what is read soon.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

pub(crate) use vectorised;
