//! The two types that the CPU computes in.

use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use super::{Stored, math};

/// `f32` or `f64`: see [`Stored`](super::Stored) for what else tensors hold.
pub(crate) trait Real:
    Stored<Real = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn exp(self) -> Self;
    /// [`exp`](Real::exp) of a number that is not above 0, but for rounding: at a lower cost.
    fn exp_negative<const FUSED: bool>(self) -> Self;
    /// [`exp_negative`](Real::exp_negative) of `x - shift`, for each `x` of a row, in its place.
    fn exp_row<const FUSED: bool, const N: usize>(row: &mut [Self; N], shift: Self);
    fn ln(self) -> Self;
    fn erf(self) -> Self;
    fn sqrt(self) -> Self;
    fn max(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once where it is `FUSED`: one instruction, if the processor has it, else a slow call.
    fn mul_add<const FUSED: bool>(self, factor: Self, term: Self) -> Self;

    /// `c = beta c + alpha a b` on one thread: `a` is `m` by `k`, `b` is `k` by `n`, strides are (row, column).
    ///
    /// # Safety
    /// Every element that the sizes and strides reach must be readable, and in `c` writable, unshared and, unless
    /// `beta` is 0, initialised.
    unsafe fn gemm(
        size: (usize, usize, usize),
        alpha: Self,
        a: (*const Self, isize, isize),
        b: (*const Self, isize, isize),
        beta: Self,
        c: (*mut Self, isize, isize),
    );
}

macro_rules! real {
    ($type:ident, $gemm:ident, $exp:expr, $exp_negative:expr, $exp_row:expr, $erf:expr) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn exp_negative<const FUSED: bool>(self) -> Self {
                $exp_negative(self)
            }
            #[inline(always)]
            fn exp_row<const FUSED: bool, const N: usize>(row: &mut [Self; N], shift: Self) {
                $exp_row(row, shift);
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $type::ln(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            #[inline(always)]
            fn mul_add<const FUSED: bool>(self, factor: Self, term: Self) -> Self {
                if FUSED { $type::mul_add(self, factor, term) } else { self * factor + term }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
            unsafe fn gemm(
                (m, k, n): (usize, usize, usize),
                alpha: Self,
                a: (*const Self, isize, isize),
                b: (*const Self, isize, isize),
                beta: Self,
                c: (*mut Self, isize, isize),
            ) {
                // SAFETY: what the caller promises is what matrixmultiply asks for.
                unsafe {
                    matrixmultiply::$gemm(m, k, n, alpha, a.0, a.1, a.2, b.0, b.1, b.2, beta, c.0, c.1, c.2);
                }
            }
        }
    };
}

real!(
    f32,
    sgemm,
    math::exp_f32,
    math::exp_negative_f32::<FUSED>,
    math::exp_row_f32::<FUSED, N>,
    math::erf_f32
);
real!(
    f64,
    dgemm,
    f64::exp,
    f64::exp,
    |row: &mut [f64; N], shift: f64| row.iter_mut().for_each(|x| *x = (*x - shift).exp()),
    math::erf_f64
);
