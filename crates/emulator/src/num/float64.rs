//! Double precision (PTX ISA, "Floating Point Instructions").
//!
//! An operand that is no number is handed on with its payload, made quiet; of several, the first. An operation that
//! makes a NaN itself makes [`NAN`].

use super::{Round, soft::Exact};

/// What an invalid operation gives.
pub const NAN: f64 = f64::from_bits(0xfff8_0000_0000_0000);

/// `result`, or the NaN that the operands make of it. The choice is one between integers: of two NaNs the compiler may
/// take either.
#[inline(always)]
fn canonical<const N: usize>(operands: [f64; N], result: f64) -> f64 {
    const QUIET: u64 = 1 << 51;
    let is_nan = |bits: u64| bits << 1 > f64::INFINITY.to_bits() << 1;
    let handed_on = operands
        .iter()
        .rev()
        .map(|x| x.to_bits())
        .fold(NAN.to_bits(), |nan, x| if is_nan(x) { x | QUIET } else { nan });
    f64::from_bits(if is_nan(result.to_bits()) { handed_on } else { result.to_bits() })
}

/// `.sat` of `cvt`: clamped to `[0, 1]`; -0 and NaN become +0.
#[inline(always)]
#[must_use]
pub fn sat(x: f64) -> f64 {
    let below_one = if x < 1.0 { x } else { 1.0 };
    if x > 0.0 { below_one } else { 0.0 }
}

/// `add`
#[inline(always)]
#[must_use]
pub fn add(a: f64, b: f64, round: Round) -> f64 {
    let nearest = a + b;
    if round == Round::Rn || !(a.is_finite() && b.is_finite()) {
        return canonical([a, b], nearest);
    }
    Exact::new(a).add(Exact::new(b), round).round(round)
}

/// `sub`
#[inline(always)]
#[must_use]
pub fn sub(a: f64, b: f64, round: Round) -> f64 {
    // The sign of a NaN is handed on with it.
    add(a, if b.is_nan() { b } else { -b }, round)
}

/// `mul`
#[inline(always)]
#[must_use]
pub fn mul(a: f64, b: f64, round: Round) -> f64 {
    let nearest = a * b;
    if round == Round::Rn || !(a.is_finite() && b.is_finite()) {
        return canonical([a, b], nearest);
    }
    Exact::new(a).mul(Exact::new(b)).round(round)
}

/// `fma`, and `mad.f64`
#[inline(always)]
#[must_use]
pub fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if round == Round::Rn || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return canonical([a, b, c], a.mul_add(b, c));
    }
    Exact::new(a).mul(Exact::new(b)).add(Exact::new(c), round).round(round)
}

/// `div`
#[inline(always)]
#[must_use]
pub fn div(a: f64, b: f64, round: Round) -> f64 {
    let nearest = a / b;
    if round == Round::Rn || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return canonical([a, b], nearest);
    }
    Exact::new(a).div(Exact::new(b)).round(round)
}

/// `rcp`
#[inline(always)]
#[must_use]
pub fn rcp(a: f64, round: Round) -> f64 {
    div(1.0, a, round)
}

/// `sqrt`
#[inline(always)]
#[must_use]
pub fn sqrt(a: f64, round: Round) -> f64 {
    let nearest = a.sqrt();
    if round == Round::Rn || !(a > 0.0 && a.is_finite()) {
        return canonical([a], nearest);
    }
    Exact::new(a).sqrt().round(round)
}

/// A key that sorts as the numbers do, -0 below +0.
#[inline(always)]
fn key(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    bits ^ ((bits >> 63) & i64::MAX)
}

/// `min`: of a number and a NaN, the number.
#[inline(always)]
#[must_use]
pub fn min(a: f64, b: f64) -> f64 {
    number_of(a, b, if key(a) < key(b) { a } else { b })
}

/// `max`: of a number and a NaN, the number.
#[inline(always)]
#[must_use]
pub fn max(a: f64, b: f64) -> f64 {
    number_of(a, b, if key(a) > key(b) { a } else { b })
}

#[inline(always)]
fn number_of(a: f64, b: f64, chosen: f64) -> f64 {
    let not_a = if a.is_nan() { b } else { chosen };
    let number = if b.is_nan() { a } else { not_a };
    canonical([a, b], number)
}

/// `abs`
#[inline(always)]
#[must_use]
pub fn abs(a: f64) -> f64 {
    a.abs()
}

/// `neg`
#[inline(always)]
#[must_use]
pub fn neg(a: f64) -> f64 {
    -a
}

/// `copysign`: the sign of `a` on the value of `b`.
#[inline(always)]
#[must_use]
pub fn copysign(a: f64, b: f64) -> f64 {
    b.copysign(a)
}
