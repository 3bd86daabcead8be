//! Sine and cosine of any single-precision angle.

use super::approx::polynomial;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

/// 64 zeros, then the first 256 bits of 2/π after the point.
const TWO_OVER_PI: [u64; 5] =
    [0, 0xa2f9_836e_4e44_1529, 0xfc27_57d1_f534_ddc0, 0xdb62_9599_3c43_9041, 0xfe51_63ab_debb_c561];

/// The angle in [-π/4, π/4] and the number of quadrants, modulo 4, that make up `x`. NaN for what is not finite.
#[inline]
pub fn reduce(x: f32) -> (f64, u32) {
    let wide = f64::from(x);
    if wide.abs() < FRAC_PI_4 {
        return (wide, 0);
    }
    if !x.is_finite() {
        return (f64::NAN, 0);
    }
    // |x| = mantissa · 2^exponent. Of the product with 2/π only what lies below 4 matters, so of 2/π only the bits
    // that follow weight 2^-(exponent - 2): the 128 of them from there on make an error below 2^-102.
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let mantissa = u128::from((magnitude & 0x7f_ffff) | 0x80_0000);
    let exponent = (magnitude >> 23) as i32 - 150;
    let turns = mantissa.wrapping_mul(window((64 + exponent - 2) as usize));
    // Two bits of whole quadrants, then 126 of a fraction.
    let nearest = turns.wrapping_add(1 << 125) >> 126;
    let fraction = turns.wrapping_sub(nearest << 126) as i128;
    let angle = fraction as f64 * (FRAC_PI_2 / (1_u128 << 126) as f64);
    if x < 0.0 { (-angle, 4 - nearest as u32) } else { (angle, nearest as u32) }
}

/// 128 bits of [`TWO_OVER_PI`] from bit `start` on.
fn window(start: usize) -> u128 {
    let word = |i: usize| u128::from(TWO_OVER_PI.get(i).copied().unwrap_or(0));
    let (first, skipped) = (start / 64, start % 64);
    let aligned = word(first) << 64 | word(first + 1);
    if skipped == 0 { aligned } else { aligned << skipped | word(first + 2) >> (64 - skipped) }
}

/// The sine of an angle in [-π/4, π/4].
#[inline]
pub fn sin(x: f64) -> f64 {
    const TAYLOR: [f64; 9] = [
        1.0 / 355_687_428_096_000.0,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
        1.0,
    ];
    x * polynomial(x * x, TAYLOR)
}

/// The cosine of an angle in [-π/4, π/4].
#[inline]
pub fn cos(x: f64) -> f64 {
    const TAYLOR: [f64; 9] = [
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
        1.0,
    ];
    polynomial(x * x, TAYLOR)
}
