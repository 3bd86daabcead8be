//! Rounding to odd: of the two neighbours of an inexact value the one whose last bit is 1.
//!
//! A value rounded to odd remembers that it was inexact, and in which direction, so a second rounding to a format at
//! least two bits shorter gives what one rounding of the exact value would have given (Boldo and Melquiond,
//! "Emulation of FMA and correctly rounded sums", 2008). All single-precision and smaller arithmetic with a rounding
//! mode the host does not have goes through `f64` this way.

use super::Round;

/// `value + error`, `value` being that sum rounded to nearest; an error that is no number counts as none.
#[inline(always)]
fn to_odd(value: f64, error: f64) -> f64 {
    let bits = value.to_bits();
    let towards_zero = (error.to_bits() ^ bits) >> 63;
    let even_and_inexact = (error.abs() > 0.0) & (bits & 1 == 0);
    let stepped = bits.wrapping_add(1).wrapping_sub(2 * towards_zero);
    f64::from_bits(if even_and_inexact { stepped } else { bits })
}

/// `a + b`. Neither overflows: both come from single precision.
#[inline(always)]
pub fn add(a: f64, b: f64) -> f64 {
    // Knuth's TwoSum.
    let sum = a + b;
    let b_seen = sum - a;
    let error = (a - (sum - b_seen)) + (b - b_seen);
    to_odd(sum, error)
}

/// `a / b`, of values that come from single precision.
#[inline(always)]
pub fn div(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    let error = if b.is_sign_negative() { -rest } else { rest };
    to_odd(quotient, error)
}

/// The square root of a value that comes from single precision.
#[inline(always)]
pub fn sqrt(a: f64) -> f64 {
    let root = a.sqrt();
    to_odd(root, (-root).mul_add(root, a))
}

/// An unsigned integer: exact if it has 53 bits or fewer, else with its last bits folded into one.
#[inline(always)]
pub fn from_u64(x: u64) -> f64 {
    let folded = (x >> 11) | u64::from(x & 0x7ff != 0);
    if x < 1 << 53 { x as f64 } else { folded as f64 * 2048.0 }
}

/// To single precision in the given mode.
#[inline(always)]
pub fn to_f32(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let too_large = back.abs() > x.abs();
    let larger = nearest.to_bits().wrapping_add(1);
    let smaller = nearest.to_bits().wrapping_sub(1);
    let negative = x.is_sign_negative();
    // A step down from -0 or from a negative value grows the magnitude; so does one up from a positive value.
    let bits = match round {
        Round::Rn | Round::Rna => nearest.to_bits(),
        Round::Rz => {
            if too_large {
                smaller
            } else {
                nearest.to_bits()
            }
        }
        Round::Rm => match (back > x, negative) {
            (true, true) => larger,
            (true, false) => smaller,
            (false, _) => nearest.to_bits(),
        },
        Round::Rp => match (back < x, negative) {
            (true, true) => smaller,
            (true, false) => larger,
            (false, _) => nearest.to_bits(),
        },
    };
    f32::from_bits(bits)
}

/// To single precision, to odd: for a further rounding to a format of 22 bits or fewer.
#[inline(always)]
pub fn to_f32_odd(x: f64) -> f32 {
    let truncated = to_f32(x, Round::Rz);
    let inexact = f64::from(truncated).abs() < x.abs();
    f32::from_bits(truncated.to_bits() | u32::from(inexact))
}
