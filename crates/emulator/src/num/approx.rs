//! The approximate functions: computed in double precision to some 2^-48 and rounded once, so that the result is the
//! correctly rounded one but where the exact value lies closer than that to the middle between two neighbours.
//!
//! The hardware is allowed to be further off. What the PTX ISA grants it, and with it the distance between its results
//! and these, is:
//!
//! | instruction | maximum error of the hardware |
//! |---|---|
//! | `ex2.approx{.ftz}.f32` | 2 ulp |
//! | `ex2.approx.f16` | 2^-9.9 relative |
//! | `ex2.approx.ftz.bf16` | 2^-7 relative |
//! | `lg2.approx{.ftz}.f32` | 2^-22 absolute for operands in (0.5, 2), elsewhere 2^-22 relative |
//! | `rcp.approx{.ftz}.f32` | 1 ulp |
//! | `rsqrt.approx{.ftz}.f32` | 2^-22.9 relative |
//! | `sqrt.approx{.ftz}.f32` | 2^-23 relative |
//! | `sin.approx`, `cos.approx{.ftz}.f32` | 2^-20.5 absolute in [-2π, 2π], 2^-14.7 in [-100π, 100π], beyond: no bound |
//! | `tanh.approx.f32` | 2^-11 relative |
//! | `tanh.approx.f16` | 2^-10.987 absolute |
//! | `tanh.approx.bf16` | 2^-8 absolute |
//! | `div.approx{.ftz}.f32` | 2 ulp for divisors in [2^-126, 2^126] |
//! | `div.full{.ftz}.f32` | 2 ulp |
//! | `rcp.approx.ftz.f64`, `rsqrt.approx.ftz.f64` | not stated; the last 32 bits are 0 |
//!
//! `.ftz` is applied by the caller to the operand and to the result. Everything here is plain multiplication,
//! addition and division, in a fixed order: the same bits on every host.

use super::float32::{canonical, nan_if};
use super::small::{Format, widen};
use super::{Round, float64, half, trig};

/// Evaluates a polynomial of two coefficients or more, from the highest power down: the even and the odd powers apart,
/// so that half as many steps wait for the one before.
#[inline(always)]
pub(super) fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let square = x * x;
    let every_other = |first: usize| {
        let mut sum = coefficients[first];
        let mut next = first + 2;
        while next < N {
            sum = sum * square + coefficients[next];
            next += 2;
        }
        sum
    };
    // The last coefficient is that of power 0.
    let (even, odd) = ((N - 1) % 2, N % 2);
    every_other(even) + x * every_other(odd)
}

/// `(ln 2)^k / k!`, from `k` = 13 down.
const EXP2: [f64; 14] = {
    let mut coefficients = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        coefficients[13 - k] = coefficients[14 - k] * std::f64::consts::LN_2 / k as f64;
        k += 1;
    }
    coefficients
};

/// `2^x`, for `x` a number of magnitude below 1000 (NaN gives NaN).
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // Added to a small number, this leaves it rounded to an integer in the last bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = x + SHIFT;
    let fraction = x - (shifted - SHIFT);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    polynomial(fraction, EXP2) * power
}

/// `2^x` of a single-precision number, with what over- and underflows bounded so that it still does when rounded.
#[inline(always)]
fn exp2_bounded(x: f32) -> f64 {
    let below = if x > 200.0 { 200.0 } else { x };
    exp2(if below < -200.0 { -200.0 } else { below }.into())
}

/// `ex2.approx.f32`
#[inline(always)]
#[must_use]
pub fn ex2(x: f32) -> f32 {
    canonical(exp2_bounded(x) as f32)
}

/// `ex2.approx.f16` and `.bf16`
#[inline(always)]
#[must_use]
pub fn ex2_half(x: u16, format: Format) -> u16 {
    half::from_f64(exp2_bounded(widen(x.into(), format)), format, Round::Rn)
}

/// `2 / (ln 2 · (2k + 1))`, from `k` = 10 down: `log2((1 + s) / (1 - s)) / s` as a series of `s²`.
const LG2: [f64; 11] = {
    let mut coefficients = [0.0; 11];
    let mut k = 0;
    while k < 11 {
        coefficients[10 - k] = 2.0 * std::f64::consts::LOG2_E / (2 * k + 1) as f64;
        k += 1;
    }
    coefficients
};

/// `lg2.approx.f32`
#[inline(always)]
#[must_use]
pub fn lg2(x: f32) -> f32 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    // x = 2^exponent · m, m in [√½, √2); every positive f32 is normal here.
    let bits = f64::from(x).to_bits();
    let biased = bits.wrapping_add(ONE - SQRT_HALF) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(biased << 52).wrapping_add(ONE));
    // The integer as the last bits of 2^52, from which 2^52 and the bias are taken.
    let exponent = f64::from_bits(0x4330_0000_0000_0000 | biased) - 4_503_599_627_371_519.0;
    let s = (m - 1.0) / (m + 1.0);
    let logarithm = exponent + s * polynomial(s * s, LG2);
    let positive = if x == f32::INFINITY { x } else { logarithm as f32 };
    let or_zero = if x == 0.0 { f32::NEG_INFINITY } else { positive };
    nan_if(x.is_nan() | (x < 0.0), or_zero)
}

/// `rcp.approx.f32`
#[inline(always)]
#[must_use]
pub fn rcp(x: f32) -> f32 {
    canonical(1.0 / x)
}

/// `rsqrt.approx.f32`
#[inline(always)]
#[must_use]
pub fn rsqrt(x: f32) -> f32 {
    canonical((1.0 / f64::from(x).sqrt()) as f32)
}

/// `sqrt.approx.f32`
#[inline(always)]
#[must_use]
pub fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// `div.full.f32`
#[inline(always)]
#[must_use]
pub fn div_full(a: f32, b: f32) -> f32 {
    canonical(a / b)
}

/// `div.approx.f32`: as `div.full`, but for divisors above 2^126 in magnitude the reciprocal counts as 0.
#[inline(always)]
#[must_use]
pub fn div(a: f32, b: f32) -> f32 {
    const LARGE: f32 = f32::from_bits(253 << 23);
    let zero = 0.0_f32.copysign(b);
    canonical(if b.abs() > LARGE { a * zero } else { a / b })
}

/// `sin.approx.f32`
#[inline]
#[must_use]
pub fn sin(x: f32) -> f32 {
    let (angle, quadrant) = trig::reduce(x);
    let magnitude = if quadrant & 1 == 0 { trig::sin(angle) } else { trig::cos(angle) };
    canonical(if quadrant & 2 == 0 { magnitude } else { -magnitude } as f32)
}

/// `cos.approx.f32`
#[inline]
#[must_use]
pub fn cos(x: f32) -> f32 {
    let (angle, quadrant) = trig::reduce(x);
    let magnitude = if quadrant & 1 == 0 { trig::cos(angle) } else { trig::sin(angle) };
    canonical(if (quadrant + 1) & 2 == 0 { magnitude } else { -magnitude } as f32)
}

#[inline(always)]
fn tanh_f64(x: f64) -> f64 {
    // Taylor's series, for where the exponential's would cancel.
    const TAYLOR: [f64; 10] = [
        -443_861_162.0 / 1_856_156_927_625.0,
        6_404_582.0 / 10_854_718_875.0,
        -929_569.0 / 638_512_875.0,
        21_844.0 / 6_081_075.0,
        -1382.0 / 155_925.0,
        62.0 / 2835.0,
        -17.0 / 315.0,
        2.0 / 15.0,
        -1.0 / 3.0,
        1.0,
    ];
    let magnitude = x.abs();
    let bounded = if magnitude > 100.0 { 100.0 } else { magnitude };
    let large = 1.0 - 2.0 / (exp2(bounded * (2.0 * std::f64::consts::LOG2_E)) + 1.0);
    let small = magnitude * polynomial(x * x, TAYLOR);
    if magnitude < 0.25 { small } else { large }.copysign(x)
}

/// `tanh.approx.f32`
#[inline(always)]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    canonical(tanh_f64(x.into()) as f32)
}

/// `tanh.approx.f16` and `.bf16`
#[inline(always)]
#[must_use]
pub fn tanh_half(x: u16, format: Format) -> u16 {
    half::from_f64(tanh_f64(widen(x.into(), format).into()), format, Round::Rn)
}

/// The NaN of `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`.
const UPPER_NAN: u64 = 0x7fff_ffff_0000_0000;

/// Flushes a subnormal and cuts off the last 32 bits.
#[inline(always)]
fn upper_word(x: f64) -> f64 {
    let sign = x.to_bits() & 1 << 63;
    let cut = x.to_bits() & 0xffff_ffff_0000_0000;
    f64::from_bits(if x.abs() < f64::MIN_POSITIVE { sign } else { cut })
}

/// `rcp.approx.ftz.f64`: reads and gives the upper 32 bits alone.
#[inline(always)]
#[must_use]
pub fn rcp_ftz_f64(x: f64) -> f64 {
    let result = upper_word(1.0 / upper_word(x));
    f64::from_bits(if x.is_nan() { UPPER_NAN } else { result.to_bits() })
}

/// `rsqrt.approx.ftz.f64`: reads and gives the upper 32 bits alone.
#[inline(always)]
#[must_use]
pub fn rsqrt_ftz_f64(x: f64) -> f64 {
    let result = upper_word(1.0 / upper_word(x).sqrt());
    f64::from_bits(if x.is_nan() | (x < -f64::MIN_POSITIVE) { UPPER_NAN } else { result.to_bits() })
}

/// `rsqrt.approx.f64`
#[inline(always)]
#[must_use]
pub fn rsqrt_f64(x: f64) -> f64 {
    float64::rcp(float64::sqrt(x, Round::Rn), Round::Rn)
}
