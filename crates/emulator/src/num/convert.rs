//! `cvt` and `cvt.pack` (PTX ISA, "Data Movement and Conversion Instructions").
//!
//! Every conversion goes through a format that holds the source exactly: integers and small formats through `f64` or
//! `f32`, then one rounding. Between `f32` and what is smaller: [`small`](super::small).

use super::small::Format;
use super::{Round, float32, half, odd, soft::Exact};

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    /// 2 and 4 (of `cvt.pack`), 8, 16, 32 or 64.
    pub bits: u32,
    /// Two's complement.
    pub signed: bool,
}

impl Integer {
    /// The least value, sign-extended.
    #[inline(always)]
    #[must_use]
    pub const fn min(self) -> i64 {
        if self.signed { i64::MIN >> (64 - self.bits) } else { 0 }
    }

    /// The greatest value.
    #[inline(always)]
    #[must_use]
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.bits + self.signed as u32)
    }

    /// `x`'s low bits as this type has them, extended to 64.
    #[inline(always)]
    #[must_use]
    pub const fn extend(self, x: u64) -> u64 {
        let unused = 64 - self.bits;
        let shifted = x << unused;
        if self.signed { (shifted as i64 >> unused) as u64 } else { shifted >> unused }
    }
}

/// To an integral value: `.rni`, `.rzi`, `.rmi` and `.rpi` are `Rn`, `Rz`, `Rm` and `Rp`.
#[inline(always)]
#[must_use]
pub fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Rn => x.round_ties_even(),
        Round::Rna => x.round(),
        Round::Rz => x.trunc(),
        Round::Rm => x.floor(),
        Round::Rp => x.ceil(),
    }
}

/// `cvt` from one integer type to another: `x` is extended from its own type, the result from `to`.
#[inline(always)]
#[must_use]
pub fn integer_from_integer(x: u64, from: Integer, to: Integer, sat: bool) -> u64 {
    let negative = from.signed & ((x as i64) < 0);
    let low = if (x as i64) < to.min() { to.min() as u64 } else { x };
    let high = x.min(to.max());
    let clamped = if negative { low } else { high };
    to.extend(if sat { clamped } else { x })
}

/// `cvt` from a floating-point type, widened to `f64`: clamped to the range of `to` and extended from it.
///
/// NaN gives 0, but `1 << (bits - 1)` where the source is `.f64` or `to` has 64 bits.
#[inline(always)]
#[must_use]
pub fn integer_from_f64(x: f64, round: Round, to: Integer, from_double: bool) -> u64 {
    let integral = integral(x, round);
    let signed = (integral as i64).max(to.min()).min(to.max() as i64) as u64;
    let unsigned = (integral as u64).min(to.max());
    let number = if to.signed { signed } else { unsigned };
    let not = if from_double | (to.bits == 64) { to.extend(1 << (to.bits - 1)) } else { 0 };
    if x.is_nan() { not } else { number }
}

/// [`integer_from_f64`] from single precision to `.s32`.
#[inline(always)]
#[must_use]
pub fn s32_from_f32(x: f32, round: Round) -> i32 {
    float32::integral(x, round) as i32
}

/// [`integer_from_f64`] from single precision to `.u32`.
#[inline(always)]
#[must_use]
pub fn u32_from_f32(x: f32, round: Round) -> u32 {
    float32::integral(x, round) as u32
}

/// `cvt.f64` from an integer, extended from its type.
#[inline(always)]
#[must_use]
pub fn f64_from_integer(x: u64, signed: bool, round: Round) -> f64 {
    let negative = signed & ((x as i64) < 0);
    if round == Round::Rn {
        return if signed { x as i64 as f64 } else { x as f64 };
    }
    let magnitude = if negative { x.wrapping_neg() } else { x };
    Exact::integer(magnitude, negative).round(round)
}

/// `cvt.f32` from an integer, extended from its type.
#[inline(always)]
#[must_use]
pub fn f32_from_integer(x: u64, signed: bool, round: Round) -> f32 {
    odd::to_f32(odd_from_integer(x, signed), round)
}

/// `cvt.f16` and `cvt.bf16` from an integer, extended from its type.
#[inline(always)]
#[must_use]
pub fn half_from_integer(x: u64, signed: bool, format: Format, round: Round) -> u16 {
    half::from_f64(odd_from_integer(x, signed), format, round)
}

#[inline(always)]
fn odd_from_integer(x: u64, signed: bool) -> f64 {
    let negative = signed & ((x as i64) < 0);
    let magnitude = odd::from_u64(if negative { x.wrapping_neg() } else { x });
    if negative { -magnitude } else { magnitude }
}

/// `cvt.f32.f64`, and `cvt.f32` from an integer of 32 bits or fewer, which `f64` holds.
#[inline(always)]
#[must_use]
pub fn f32_from_f64(x: f64, round: Round) -> f32 {
    float32::canonical(odd::to_f32(x, round))
}

/// `cvt.f16.f64` and `cvt.bf16.f64`
#[inline(always)]
#[must_use]
pub fn half_from_f64(x: f64, format: Format, round: Round) -> u16 {
    half::from_f64(x, format, round)
}

/// `cvt.f64.f32`
#[inline(always)]
#[must_use]
pub fn f64_from_f32(x: f32) -> f64 {
    f64::from(float32::canonical(x))
}

/// `cvt.pack.sat`: `a` and `b` clamped to `to`, `b` in the lowest bits, `a` above it, and above that the low bits of
/// `c`.
#[inline(always)]
#[must_use]
pub fn pack(a: i32, b: i32, c: u32, to: Integer) -> u32 {
    let clamp =
        |x: i32| (i64::from(x).max(to.min()).min(to.max() as i64) as u64) & (u64::MAX >> (64 - to.bits));
    (clamp(b) | clamp(a) << to.bits | u64::from(c) << (2 * to.bits)) as u32
}
