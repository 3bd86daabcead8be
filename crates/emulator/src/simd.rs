//! The processor's vector instructions for plain loops.
//!
//! The x86-64 baseline has no AVX2, so a hot loop is compiled twice, and the better one that the processor has is
//! taken at run time. Rust never fuses a multiplication and an addition by itself, so both give the same bits.

/// Defines a function whose body is compiled for the baseline and for AVX2. What it calls must be
/// `#[inline(always)]` to be compiled twice along with it. A `;` parts type parameters from a constant one.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $vis:vis fn $name:ident
        $(<$($T:ident: $bound:path),+; const $C:ident: usize>)? (
        $($argument:ident: $type:ty),* $(,)?
    ) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        $vis fn $name $(<$($T: $bound),+, const $C: usize>)? ($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body $(<$($T: $bound),+, const $C: usize>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($T: $bound),+, const $C: usize>)? ($($argument: $type),*) $(-> $result)? {
                    body$(::<$($T),+, $C>)?($($argument),*)
                }
                if $crate::simd::has_avx2() {
                    // SAFETY: `avx2` is an ordinary safe function that needs AVX2 and FMA, and both were just found.
                    return unsafe { avx2$(::<$($T),+, $C>)?($($argument),*) };
                }
            }
            body$(::<$($T),+, $C>)?($($argument),*)
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

pub(crate) use vectorised;
