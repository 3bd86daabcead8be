//! Single precision (PTX ISA, "Floating Point Instructions").
//!
//! A result that is no number is always [`NAN`], whatever the operands were, as on the hardware.

use super::{Round, odd};

/// What every operation gives for "not a number".
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// `x`, or [`NAN`]. The choice is one between integers: of two NaNs the compiler may take either.
#[inline(always)]
pub(super) fn nan_if(nan: bool, x: f32) -> f32 {
    f32::from_bits(if nan { NAN.to_bits() } else { x.to_bits() })
}

/// Any NaN becomes [`NAN`].
#[inline(always)]
#[must_use]
pub fn canonical(x: f32) -> f32 {
    nan_if(x.to_bits() & 0x7fff_ffff > 0x7f80_0000, x)
}

/// `.ftz`: a subnormal becomes a zero of its sign. Applied to operands, and to the rounded result.
#[inline(always)]
#[must_use]
pub fn ftz(x: f32) -> f32 {
    let sign = x.to_bits() & 0x8000_0000;
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(sign) } else { x }
}

/// `.sat`: clamped to `[0, 1]`; -0 and NaN become +0.
#[inline(always)]
#[must_use]
pub fn sat(x: f32) -> f32 {
    let below_one = if x < 1.0 { x } else { 1.0 };
    if x > 0.0 { below_one } else { 0.0 }
}

/// `add`
#[inline(always)]
#[must_use]
pub fn add(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return canonical(a + b);
    }
    sum(f64::from(a), f64::from(b), round)
}

/// `sub`
#[inline(always)]
#[must_use]
pub fn sub(a: f32, b: f32, round: Round) -> f32 {
    add(a, -b, round)
}

/// `mul`
#[inline(always)]
#[must_use]
pub fn mul(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return canonical(a * b);
    }
    canonical(odd::to_f32(f64::from(a) * f64::from(b), round))
}

/// `fma`, and `mad.f32`
#[inline(always)]
#[must_use]
pub fn fma(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return canonical(a.mul_add(b, c));
    }
    sum(f64::from(a) * f64::from(b), f64::from(c), round)
}

/// `a + b` in a directed mode, both exact.
#[inline(always)]
fn sum(a: f64, b: f64, round: Round) -> f32 {
    let rounded = odd::to_f32(odd::add(a, b), round);
    // Towards negative infinity a sum that cancels is -0, and so is one of two zeros of which one is negative.
    let cancels = (a == -b) & (rounded == 0.0);
    let negative_zero = (round == Round::Rm) & cancels & (a.is_sign_negative() | b.is_sign_negative());
    canonical(if negative_zero { -0.0 } else { rounded })
}

/// `div.rn` and its like
#[inline(always)]
#[must_use]
pub fn div(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return canonical(a / b);
    }
    canonical(odd::to_f32(odd::div(f64::from(a), f64::from(b)), round))
}

/// `rcp.rn` and its like
#[inline(always)]
#[must_use]
pub fn rcp(a: f32, round: Round) -> f32 {
    div(1.0, a, round)
}

/// `sqrt.rn` and its like
#[inline(always)]
#[must_use]
pub fn sqrt(a: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return canonical(a.sqrt());
    }
    canonical(odd::to_f32(odd::sqrt(f64::from(a)), round))
}

/// A key that sorts as the numbers do, -0 below +0.
#[inline(always)]
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) & i32::MAX)
}

/// `min`: of a number and a NaN, the number.
#[inline(always)]
#[must_use]
pub fn min(a: f32, b: f32) -> f32 {
    let least = if key(a) < key(b) { a } else { b };
    number_of(a, b, least)
}

/// `max`: of a number and a NaN, the number.
#[inline(always)]
#[must_use]
pub fn max(a: f32, b: f32) -> f32 {
    let greatest = if key(a) > key(b) { a } else { b };
    number_of(a, b, greatest)
}

#[inline(always)]
fn number_of(a: f32, b: f32, chosen: f32) -> f32 {
    let not_a = if a.is_nan() { b } else { chosen };
    canonical(if b.is_nan() { a } else { not_a })
}

/// `min.NaN`: a NaN wins.
#[inline(always)]
#[must_use]
pub fn min_nan(a: f32, b: f32) -> f32 {
    nan_if(a.is_nan() | b.is_nan(), min(a, b))
}

/// `max.NaN`: a NaN wins.
#[inline(always)]
#[must_use]
pub fn max_nan(a: f32, b: f32) -> f32 {
    nan_if(a.is_nan() | b.is_nan(), max(a, b))
}

/// `.xorsign.abs` of `min` and `max`: the magnitude that `choose` takes, with the product's sign. NaN keeps none.
#[inline(always)]
#[must_use]
pub fn xorsign_abs(a: f32, b: f32, choose: impl Fn(f32, f32) -> f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    canonical(f32::from_bits(choose(a.abs(), b.abs()).to_bits() | sign))
}

/// `abs`
#[inline(always)]
#[must_use]
pub fn abs(a: f32) -> f32 {
    canonical(a.abs())
}

/// `neg`
#[inline(always)]
#[must_use]
pub fn neg(a: f32) -> f32 {
    canonical(-a)
}

/// To an integral value: `.rni`, `.rzi`, `.rmi` and `.rpi` of `cvt` are `Rn`, `Rz`, `Rm` and `Rp`.
#[inline(always)]
#[must_use]
pub fn integral(a: f32, round: Round) -> f32 {
    canonical(match round {
        Round::Rn => a.round_ties_even(),
        Round::Rna => a.round(),
        Round::Rz => a.trunc(),
        Round::Rm => a.floor(),
        Round::Rp => a.ceil(),
    })
}

/// `copysign`: the sign of `a` on the value of `b`.
#[inline(always)]
#[must_use]
pub fn copysign(a: f32, b: f32) -> f32 {
    b.copysign(a)
}
