//! Floating-point formats of 19 bits and fewer, and how single precision becomes them and back
//! (PTX ISA, "Alternate Floating-Point Data Formats" and "`cvt`").

use super::{Round, float32};

/// A format with a sign, an exponent and a mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// In all.
    pub bits: u32,
    /// Of the mantissa, its hidden one not counted.
    pub mantissa: u32,
    /// What is added to an exponent.
    pub bias: u32,
    /// The largest finite magnitude (MAX_NORM).
    pub max: u32,
    /// What a value too large becomes; a format without infinities has its NaN here, or, without NaN either, `max`.
    pub infinity: u32,
    /// The canonical NaN; `max` in a format without.
    pub nan: u32,
}

/// `.f16`
pub const F16: Format =
    Format { bits: 16, mantissa: 10, bias: 15, max: 0x7bff, infinity: 0x7c00, nan: 0x7fff };
/// `.bf16`
pub const BF16: Format =
    Format { bits: 16, mantissa: 7, bias: 127, max: 0x7f7f, infinity: 0x7f80, nan: 0x7fff };
/// `.tf32`, as its 19 bits; a register holds them at its top.
pub const TF32: Format =
    Format { bits: 19, mantissa: 10, bias: 127, max: 0x3_fbff, infinity: 0x3_fc00, nan: 0x3_ffff };
/// `.e5m2`
pub const E5M2: Format = Format { bits: 8, mantissa: 2, bias: 15, max: 0x7b, infinity: 0x7c, nan: 0x7f };
/// `.e4m3`
pub const E4M3: Format = Format { bits: 8, mantissa: 3, bias: 7, max: 0x7e, infinity: 0x7f, nan: 0x7f };
/// `.e3m2`
pub const E3M2: Format = Format { bits: 6, mantissa: 2, bias: 3, max: 0x1f, infinity: 0x1f, nan: 0x1f };
/// `.e2m3`
pub const E2M3: Format = Format { bits: 6, mantissa: 3, bias: 1, max: 0x1f, infinity: 0x1f, nan: 0x1f };
/// `.e2m1`
pub const E2M1: Format = Format { bits: 4, mantissa: 1, bias: 1, max: 0x7, infinity: 0x7, nan: 0x7 };

impl Format {
    /// Its sign bit.
    #[inline(always)]
    const fn sign(self) -> u32 {
        1 << (self.bits - 1)
    }
}

/// What rounding begins with: a finite value is `±significand · 2^-shift` units of `format`'s last place, those of the
/// exponent field `exponent` (0 for the smallest normal numbers and for subnormal ones).
struct Parts {
    significand: u32,
    shift: u32,
    exponent: u32,
}

impl Parts {
    #[inline(always)]
    fn new(x: f32, format: Format) -> Parts {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        let hidden = u32::from(magnitude >= 0x80_0000) << 23;
        let field = (magnitude >> 23).max(1);
        let least = 128 - format.bias;
        let unit = field.max(least);
        Parts {
            significand: (magnitude & 0x7f_ffff) | hidden,
            shift: 23 - format.mantissa + (unit - field),
            exponent: unit - least,
        }
    }
}

/// `cvt` from single precision: the bits of `x` rounded to `format`, or with `.satfinite` to its largest finite value
/// where that is exceeded.
#[inline(always)]
#[must_use]
pub fn narrow(x: f32, format: Format, round: Round, satfinite: bool) -> u32 {
    let Parts { significand, shift, exponent } = Parts::new(x, format);
    // A shift of 31 leaves nothing of 24 bits, and no half.
    let shift = shift.min(31);
    let negative = x.is_sign_negative();
    let kept = significand >> shift;
    let rest = significand & ((1 << shift) - 1);
    let grown = kept + u32::from(round.grows(negative, kept & 1 == 1, rest, (1 << shift) >> 1));
    let to_infinity = x.is_infinite() | round.overflows_to_infinity(negative);
    finish(x, grown + (exponent << format.mantissa), format, to_infinity & !satfinite)
}

/// `cvt.rs`: the magnitude grows by one in its last place where the `random_bits` bits of `random`, added to the first
/// bits that are cut off, carry.
#[inline(always)]
#[must_use]
pub fn narrow_stochastic(x: f32, format: Format, random: u32, random_bits: u32, satfinite: bool) -> u32 {
    let Parts { significand, shift, exponent } = Parts::new(x, format);
    // A shift of 48 leaves nothing of 24 bits, and no carry from adding 16 bits of their own.
    let shift = shift.min(48);
    let added = u64::from(random) << (shift - random_bits);
    let grown = ((u64::from(significand) + added) >> shift) as u32;
    finish(x, grown + (exponent << format.mantissa), format, !satfinite)
}

/// Bounds a magnitude that was rounded, and gives it the sign of `x`.
#[inline(always)]
fn finish(x: f32, magnitude: u32, format: Format, to_infinity: bool) -> u32 {
    let bound = if to_infinity { format.infinity } else { format.max };
    let bounded = if magnitude > format.max { bound } else { magnitude };
    let sign = (x.to_bits() >> 31) << (format.bits - 1);
    if x.is_nan() { format.nan } else { bounded | sign }
}

/// `cvt` to single precision, which is exact.
#[inline(always)]
#[must_use]
pub fn widen(bits: u32, format: Format) -> f32 {
    let magnitude = bits & (format.sign() - 1);
    let sign = ((bits & format.sign()) >> (format.bits - 1)) << 31;
    let scale = f32::from_bits((254 - format.bias) << 23);
    let scaled = f32::from_bits(magnitude << (23 - format.mantissa)) * scale;
    let signed = f32::from_bits(scaled.to_bits() | sign);
    let infinite = f32::from_bits(f32::INFINITY.to_bits() | sign);
    let number = if magnitude > format.max { infinite } else { signed };
    let nan = (magnitude > format.max) & ((magnitude != format.infinity) | (format.infinity == format.nan));
    float32::nan_if(nan, number)
}

/// `cvt` to `.tf32`: single precision of which the last 13 bits are 0, but for NaN.
#[inline(always)]
#[must_use]
pub fn tf32(x: f32, round: Round, satfinite: bool) -> u32 {
    let bits = narrow(x, TF32, round, satfinite) << 13;
    if x.is_nan() { float32::NAN.to_bits() } else { bits }
}

/// `cvt` to `.ue8m0`: the exponent of `|x|`, rounded towards zero or (`.rp`) up; 0xff stands for NaN, and for what is
/// too large unless `.satfinite`.
#[inline(always)]
#[must_use]
pub fn to_ue8m0(x: f32, round: Round, satfinite: bool) -> u32 {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let exponent = magnitude >> 23;
    // The least value, 2^-127, is subnormal in single precision.
    let above = (magnitude & 0x7f_ffff != 0) & ((exponent > 0) | (magnitude > 0x40_0000));
    let grown = exponent + u32::from((round == Round::Rp) & above & (exponent < 255));
    let saturated = if satfinite { grown.min(0xfe) } else { grown };
    if x.is_nan() { 0xff } else { saturated }
}

/// `cvt.bf16x2.ue8m0x2` of one value: `2^(bits - 127)` in bf16.
#[inline(always)]
#[must_use]
pub fn ue8m0_to_bf16(bits: u32) -> u32 {
    let field = bits & 0xff;
    let power = if field == 0 { 0x40 } else { field << 7 };
    if field == 0xff { BF16.nan } else { power }
}

/// `.relu`: what is negative, -0 included, becomes +0. NaN stays.
#[inline(always)]
#[must_use]
pub fn relu(x: f32) -> f32 {
    if x.is_sign_negative() & !x.is_nan() { 0.0 } else { x }
}
