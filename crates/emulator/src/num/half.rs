//! Half precision: f16 and bf16 as their bits, `format` being [`F16`](super::small::F16) or
//! [`BF16`](super::small::BF16) (PTX ISA, "Half Precision Floating Point Instructions"). Rounding is always to nearest
//! even, as in the ISA. A NaN is always 0x7fff.

use super::small::{Format, narrow, widen};
use super::{Round, float32, odd};

#[inline(always)]
fn value(bits: u16, format: Format) -> f32 {
    widen(bits.into(), format)
}

#[inline(always)]
fn bits(x: f32, format: Format) -> u16 {
    narrow(x, format, Round::Rn, false) as u16
}

#[inline(always)]
fn is_nan(a: u16, format: Format) -> bool {
    u32::from(a & 0x7fff) > format.infinity
}

// Single precision has over twice the bits of a half and two more: a sum, difference or product rounded to it first
// rounds to the half it would have rounded to at once (Figueroa, "When is double rounding innocuous?", 1995).

/// `add`
#[inline(always)]
#[must_use]
pub fn add(a: u16, b: u16, format: Format) -> u16 {
    bits(value(a, format) + value(b, format), format)
}

/// `sub`
#[inline(always)]
#[must_use]
pub fn sub(a: u16, b: u16, format: Format) -> u16 {
    bits(value(a, format) - value(b, format), format)
}

/// `mul`
#[inline(always)]
#[must_use]
pub fn mul(a: u16, b: u16, format: Format) -> u16 {
    bits(value(a, format) * value(b, format), format)
}

/// `fma`
#[inline(always)]
#[must_use]
pub fn fma(a: u16, b: u16, c: u16, format: Format) -> u16 {
    let product = f64::from(value(a, format)) * f64::from(value(b, format));
    from_f64(odd::add(product, value(c, format).into()), format, Round::Rn)
}

/// Rounds a value that is exact or rounded to odd.
#[inline(always)]
pub(super) fn from_f64(x: f64, format: Format, round: Round) -> u16 {
    narrow(odd::to_f32_odd(x), format, round, false) as u16
}

/// `min`
#[inline(always)]
#[must_use]
pub fn min(a: u16, b: u16, format: Format) -> u16 {
    bits(float32::min(value(a, format), value(b, format)), format)
}

/// `max`
#[inline(always)]
#[must_use]
pub fn max(a: u16, b: u16, format: Format) -> u16 {
    bits(float32::max(value(a, format), value(b, format)), format)
}

/// `min.NaN`
#[inline(always)]
#[must_use]
pub fn min_nan(a: u16, b: u16, format: Format) -> u16 {
    bits(float32::min_nan(value(a, format), value(b, format)), format)
}

/// `max.NaN`
#[inline(always)]
#[must_use]
pub fn max_nan(a: u16, b: u16, format: Format) -> u16 {
    bits(float32::max_nan(value(a, format), value(b, format)), format)
}

/// `.xorsign.abs` of `min` and `max`: the magnitude that `choose` takes, with the product's sign.
#[inline(always)]
#[must_use]
pub fn xorsign_abs(a: u16, b: u16, format: Format, choose: impl Fn(u16, u16) -> u16) -> u16 {
    canonical(choose(a & 0x7fff, b & 0x7fff) | ((a ^ b) & 0x8000), format)
}

/// Any NaN becomes 0x7fff.
#[inline(always)]
#[must_use]
pub fn canonical(a: u16, format: Format) -> u16 {
    if is_nan(a, format) { format.nan as u16 } else { a }
}

/// `abs`
#[inline(always)]
#[must_use]
pub fn abs(a: u16, format: Format) -> u16 {
    canonical(a & 0x7fff, format)
}

/// `neg`
#[inline(always)]
#[must_use]
pub fn neg(a: u16, format: Format) -> u16 {
    canonical(a ^ 0x8000, format)
}

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
#[must_use]
pub fn ftz(a: u16, format: Format) -> u16 {
    if u32::from(a & 0x7fff) < 1 << format.mantissa { a & 0x8000 } else { a }
}

/// `.sat`: clamped to `[0, 1]`; -0 and NaN become +0.
#[inline(always)]
#[must_use]
pub fn sat(a: u16, format: Format) -> u16 {
    let one = (format.bias << format.mantissa) as u16;
    let positive = if is_nan(a, format) | (a >= 0x8000) { 0 } else { a };
    positive.min(one)
}

/// `.relu`: what is negative, -0 included, becomes +0. NaN becomes canonical.
#[inline(always)]
#[must_use]
pub fn relu(a: u16, format: Format) -> u16 {
    let positive = if a >= 0x8000 { 0 } else { a };
    if is_nan(a, format) { format.nan as u16 } else { positive }
}
